"""The addresses of a host, and the order in which to try them (RFC 8305)."""

import socket
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

ATTEMPT_DELAY_S = 0.25
"""How long an attempt may be silent before the next address is tried; the delay that RFC 8305 recommends."""

AddressInfo = tuple[Any, ...]
"""One row of `getaddrinfo`: family, kind, protocol, canonical name, address."""


def alternate_families(addresses: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Return the addresses with their families in turn, beginning with the first one's; else the order stays."""
    by_family: dict[Any, list[AddressInfo]] = {}
    for row in addresses:
        by_family.setdefault(row[0], []).append(row)
    return [row for rows in zip_longest(*by_family.values()) for row in rows if row is not None]


def order_addresses(addresses: list[AddressInfo], accepted: AddressInfo | None) -> list[AddressInfo]:
    """Return the addresses with the one that accepted last, if it is still among them, at the front."""
    if accepted is None or accepted not in addresses:
        return addresses
    return [accepted, *(row for row in addresses if row != accepted)]


def peer_address(sock: socket.socket) -> str | None:
    """Return the IP address at the other end of a connected socket; None if it is not connected any more."""
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return None
