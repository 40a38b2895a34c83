"""The client's side of SOCKS5 (RFC 1928), with a user name and a password if the proxy wants them (RFC 1929)."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

Exchange = Callable[[bytes, int], Awaitable[bytes]]
"""Sends bytes, and returns exactly as many bytes of the proxy's reply as the second argument says."""
DEFAULT_PORT = 1080
_VERSION, _CONNECT = 5, 1
_NO_AUTHENTICATION, _PASSWORD = 0, 2
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REPLIES = {
    1: "general failure", 2: "not allowed by its rules", 3: "network unreachable", 4: "host unreachable",
    5: "connection refused", 6: "time to live expired", 7: "command not supported", 8: "address type not supported",
}  # fmt: skip


class SocksError(OSError):
    """The proxy did not open a tunnel."""


@dataclass(frozen=True, slots=True)
class SocksProxy:
    """A SOCKS5 proxy. It looks up the names of hosts."""

    host: str
    port: int
    user: str | None = None
    password: str = field(default="", repr=False)

    @classmethod
    def from_url(cls, url: str) -> "SocksProxy | None":
        """Return the proxy of a URL with the scheme socks5 or socks5h; None for another scheme."""
        parts = urlsplit(url)
        if parts.scheme not in ("socks5", "socks5h") or not parts.hostname:
            return None
        user = None if parts.username is None else unquote(parts.username)
        return cls(parts.hostname, parts.port or DEFAULT_PORT, user, unquote(parts.password or ""))


async def open_socks_tunnel(exchange: Exchange, proxy: SocksProxy, host: str, port: int) -> None:
    """Ask a proxy on an open connection for a tunnel to a host. Raises SocksError when it opens none."""
    methods = [_NO_AUTHENTICATION] if proxy.user is None else [_NO_AUTHENTICATION, _PASSWORD]
    version, method = await exchange(bytes([_VERSION, len(methods), *methods]), 2)
    if version != _VERSION:
        raise SocksError("proxy: the response is not SOCKS5")
    if method == _PASSWORD and proxy.user is not None:
        await _authenticate(exchange, proxy.user, proxy.password)
    elif method != _NO_AUTHENTICATION:
        raise SocksError("proxy: it wants another authentication (write socks5://user:password@host:port)")
    request = bytes([_VERSION, _CONNECT, 0]) + _encode_address(host) + port.to_bytes(2, "big")
    version, reply, _, kind = await exchange(request, 4)
    if version != _VERSION or reply != 0:
        raise SocksError(f"proxy: the tunnel was rejected ({_REPLIES.get(reply, f'reply {reply}')})")
    size = {_IPV4: 4, _IPV6: 16}.get(kind)
    await exchange(b"", 2 + (size if size is not None else (await exchange(b"", 1))[0]))


async def open_socks_tunnel_on(sock: socket.socket, proxy: SocksProxy, host: str, port: int) -> None:
    """Open a tunnel on a non-blocking socket that is connected to the proxy. Raises OSError when there is none."""
    loop = asyncio.get_running_loop()

    async def exchange(data: bytes, size: int) -> bytes:
        await loop.sock_sendall(sock, data)
        found = b""
        while len(found) < size:
            if not (more := await loop.sock_recv(sock, size - len(found))):
                raise SocksError("proxy: closed the connection before the tunnel was open")
            found += more
        return found

    await open_socks_tunnel(exchange, proxy, host, port)


async def _authenticate(exchange: Exchange, user: str, password: str) -> None:
    name, secret = user.encode(), password.encode()
    if max(len(name), len(secret)) > 255:
        raise SocksError("proxy: the user name or the password is longer than 255 bytes")
    _, status = await exchange(bytes([1, len(name)]) + name + bytes([len(secret)]) + secret, 2)
    if status != 0:
        raise SocksError("proxy: it rejected the user name and the password")


def _encode_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            name = host.encode("idna")
            return bytes([_NAME, len(name)]) + name
        except ValueError:  # UnicodeError is one, and so is a length above 255
            raise SocksError("proxy: the host's name is not valid") from None
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed
