"""Address resolution, cached or not, and connecting to the resolved addresses."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

from streaming.http.addresses import ATTEMPT_DELAY_S, AddressInfo, alternate_families, order_addresses
from streaming.http.happy_eyeballs import connect_first

Lookup = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]
"""Returns the addresses of a host and port, as `getaddrinfo` does. Raises OSError."""


async def look_up(host: str, port: int) -> Sequence[AddressInfo]:
    """Return the addresses that the system knows; an IP address needs no look-up in another thread. Raises OSError."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Resolver:
    """The addresses of hosts; the last address of a host that accepted is tried first.

    With `cached` each host is looked up once, so that no look-up delays a measured request; otherwise before every
    connection, so that a host may move.
    """

    def __init__(
        self, lookup: Lookup = look_up, *, cached: bool = True, attempt_delay_s: float = ATTEMPT_DELAY_S
    ) -> None:
        self._lookup = lookup
        self._cached = cached
        self._attempt_delay_s = attempt_delay_s
        self._lookups: dict[tuple[str, int], asyncio.Task[list[AddressInfo]]] = {}
        self._accepted: dict[tuple[str, int], AddressInfo] = {}

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """Return the addresses in the order in which to try them. Raises OSError; a failure is not cached."""
        key = (host, port)
        if not self._cached:
            found = alternate_families(await self._lookup(host, port))
        else:
            if key not in self._lookups:
                self._lookups[key] = asyncio.create_task(_alternate(self._lookup(host, port)))
                # The callers may have been cancelled by then: retrieve the exception so that asyncio does not log it.
                self._lookups[key].add_done_callback(lambda task: task.cancelled() or task.exception())
            task = self._lookups[key]
            try:
                found = task.result() if task.done() else await asyncio.shield(task)
            except OSError:
                self._lookups.pop(key, None)
                raise
        return order_addresses(found, self._accepted.get(key))

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a non-blocking socket connected to the first address that accepts; see `happy_eyeballs`.

        Raises OSError, that of the last attempt to fail, when none accepts.
        """
        sock, row = await connect_first(await self.resolve(host, port), self._attempt_delay_s)
        self._accepted[host, port] = row
        return sock

    def close(self) -> None:
        """Cancel the pending look-ups."""
        for task in self._lookups.values():
            task.cancel()


async def _alternate(lookup: Awaitable[Sequence[AddressInfo]]) -> list[AddressInfo]:
    return alternate_families(await lookup)
