"""Connecting to the first address of a host that accepts: happy eyeballs (RFC 8305).

The address families alternate, and the next address is tried when the last attempt has failed or has been silent for
ATTEMPT_DELAY_S; the earlier attempts go on. So an address that drops what is sent to it, as a broken IPv6 route does,
costs a quarter of a second and not the connect timeout.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Iterable, Sequence

from streaming.http.addresses import ATTEMPT_DELAY_S, AddressInfo


async def connect_first(
    addresses: Sequence[AddressInfo], attempt_delay_s: float = ATTEMPT_DELAY_S
) -> tuple[socket.socket, AddressInfo]:
    """Try the addresses in this order; return a non-blocking socket connected to the first that accepts, and its row.

    Raises OSError, that of the last attempt to fail, when none accepts.
    """
    if len(addresses) == 1:
        return await _connect(addresses[0]), addresses[0]
    left, attempts = deque(addresses), dict[asyncio.Task[socket.socket], AddressInfo]()
    failure = OSError("no address found")
    try:
        while left or attempts:
            if left:
                row = left.popleft()
                attempts[asyncio.create_task(_connect(row))] = row
            await asyncio.wait(attempts, timeout=attempt_delay_s if left else None, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in attempts if task.done()]:
                row = attempts.pop(task)
                try:
                    return task.result(), row
                except OSError as error:
                    failure = error
    finally:
        await _abandon(attempts)
    raise failure


async def _connect(row: AddressInfo) -> socket.socket:
    family, kind, protocol, _, address = row
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _abandon(attempts: Iterable[asyncio.Task[socket.socket]]) -> None:
    """Cancel the attempts, and close the sockets of those that have connected meanwhile."""
    for task in attempts:
        task.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()
