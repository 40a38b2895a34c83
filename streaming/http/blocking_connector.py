"""Happy eyeballs (RFC 8305) for threads and greenlets; it needs no asyncio. See `happy_eyeballs`."""

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from streaming.http.addresses import ATTEMPT_DELAY_S, AddressInfo, alternate_families, order_addresses


class BlockingConnector:
    """Connects to hosts, which are looked up every time; the last address of a host that accepted is tried first."""

    def __init__(self, lookup: Callable[[str, int], Sequence[AddressInfo]] | None = None) -> None:
        self._lookup = lookup or _look_up_blocking
        self._accepted: dict[tuple[str, int], AddressInfo] = {}

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Return a socket with this timeout that is connected to the first address that accepts. Raises OSError."""
        addresses = alternate_families(self._lookup(host, port))
        ordered = order_addresses(addresses, self._accepted.get((host, port)))
        sock, row = connect_first_blocking(ordered, timeout_s)
        self._accepted[host, port] = row
        return sock


def _look_up_blocking(host: str, port: int) -> Sequence[AddressInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def connect_first_blocking(
    addresses: Sequence[AddressInfo], timeout_s: float, attempt_delay_s: float = ATTEMPT_DELAY_S
) -> tuple[socket.socket, AddressInfo]:
    """Try the addresses in this order; return a socket connected to the first that accepts, and its row.

    The socket has the timeout `timeout_s`. Raises OSError when no address accepts, and TimeoutError when none has after
    `timeout_s`.
    """
    end_s = time.monotonic() + timeout_s
    failure: OSError = OSError("no address found")
    left = deque(addresses)
    with selectors.DefaultSelector() as selector:
        try:
            while left or selector.get_map():
                next_s = end_s
                if left:
                    failure = _begin_attempt(selector, left.popleft()) or failure
                    next_s = min(end_s, time.monotonic() + attempt_delay_s) if left else end_s
                    if not selector.get_map():
                        continue
                for key, _ in selector.select(max(0.0, next_s - time.monotonic())):
                    sock, row = selector.unregister(key.fileobj).data
                    if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        sock.close()
                        failure = OSError(code, f"{row[4][0]}: no connection")
                        continue
                    sock.settimeout(timeout_s)
                    return sock, row
                if time.monotonic() >= end_s:
                    raise TimeoutError(f"no connection within {timeout_s:g} s")
        finally:
            for key in list(selector.get_map().values()):
                key.data[0].close()
    raise failure


def _begin_attempt(selector: selectors.BaseSelector, row: AddressInfo) -> OSError | None:
    """Begin to connect and register the socket; return the error if that fails at once."""
    sock = None
    try:
        sock = socket.socket(*row[:3])
        sock.setblocking(False)
        with suppress(BlockingIOError):  # it has begun
            sock.connect(row[4])
        selector.register(sock, selectors.EVENT_WRITE, (sock, row))
    except OSError as error:
        if sock is not None:
            sock.close()
        return error
    return None
