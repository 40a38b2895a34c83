"""An address of this machine that drops what asks to connect, as a broken IPv6 route does, and its look-up."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from streaming.http.addresses import AddressInfo
from streaming.http.resolver import Lookup


def address_info(host: str, port: int) -> AddressInfo:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


@contextmanager
def open_silent_address() -> Iterator[AddressInfo]:
    """Yield an address whose listener has a full queue: the kernel drops every further request to connect."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(address)
        yield address_info(*address)


def lookup_of(*addresses: AddressInfo) -> Lookup:
    """Return a look-up that finds these addresses for every host."""

    async def look_up(host: str, port: int) -> tuple[AddressInfo, ...]:
        return addresses

    return look_up
