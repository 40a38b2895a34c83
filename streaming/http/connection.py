"""A timestamped connection to an origin: address resolution, an optional proxy and optional TLS."""

import asyncio
import base64
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from streaming.http.response_parser import HTTPParseError, ResponseParser
from streaming.http.socks import SocksProxy, open_socks_tunnel
from streaming.http.timestamped_sockets import TimestampedSocket, TimestampingSelector, TimestampSource

_READ_SIZE = 65_536
_INBOX_BYTES = 1_048_576
"""Bytes that may arrive unread while a connection is being opened; certificates take a few kilobytes."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `authorization` is the value of the Proxy-Authorization header, or None without one."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def basic(cls, host: str, port: int, user: str, password: str) -> "Proxy":
        """Return a proxy that uses basic authentication."""
        return cls(host, port, "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


@dataclass(frozen=True, slots=True)
class Origin:
    """The server to connect to. `tls` None means plain HTTP. TLS through an HTTP proxy uses CONNECT.

    The caller must write a plain request through an HTTP proxy with its URL in absolute form.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    proxy: Proxy | SocksProxy | None = None

    @property
    def first_hop(self) -> "Origin | Proxy | SocksProxy":
        """The proxy if there is one, else this origin: the peer of the TCP connection."""
        return self.proxy or self


class ProxyError(OSError):
    """The proxy did not open a tunnel; the message has its HTTP status."""


DataCallback = Callable[[bytes, float, float], None]
CloseCallback = Callable[[OSError | None], None]


def _ignore_data(data: bytes, at_s: float, unread_s: float) -> None: ...


def _ignore_close(error: OSError | None) -> None: ...


class TimestampedConnection:
    """A connection for one request, or with `rebind` for one after the other.

    `receive` is called with decrypted bytes and the arguments of `SocketProtocol.data_received`. `end` is called once
    when the peer ends the connection, but not after `close`.
    """

    def __init__(self, sockets: TimestampingSelector, receive: DataCallback, end: CloseCallback) -> None:
        self._sockets = sockets
        self._receive = receive
        self._end = end
        self._socket: TimestampedSocket | None = None
        self._source: TimestampSource = "callback"
        self.peer_address: str | None = None
        """The IP address that accepted the connection, the proxy's if there is one; None before that."""
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._opening = True
        self._inbox = bytearray()
        self._open_error: OSError | None = None
        self._data_waiter: asyncio.Future[None] | None = None

    @property
    def timestamp_source(self) -> TimestampSource:
        """The source of all timestamps so far: `callback` as soon as one did not come from the kernel."""
        return self._source if self._socket is None else self._socket.stamp_source

    async def open(self, target: Origin) -> None:
        """Connect, through the proxy if there is one, and do the TLS handshake.

        Raises OSError, of which `ssl.SSLError` is a subclass; the connection is closed then.
        """
        proxy = target.proxy
        try:
            sock = await self._sockets.addresses.connect(target.first_hop.host, target.first_hop.port)
            if self._open_error is not None:
                sock.close()
                raise self._open_error
            self._socket = TimestampedSocket(self._sockets, sock, self)
            self.peer_address = self._socket.peer_address
            if isinstance(proxy, SocksProxy):
                await open_socks_tunnel(self._exchange, proxy, target.host, target.port)
            elif proxy is not None and target.tls is not None:
                await self._open_tunnel(target, proxy)
            if target.tls is not None:
                await self._do_handshake(target.tls, target.host)
            self._opening = False
        except BaseException:
            self.close()
            raise

    async def send(self, data: bytes) -> float:
        """Send `data` and return the timestamp directly before the system call that took the last byte.

        Raises OSError.
        """
        if self._socket is None:
            raise self._open_error or ConnectionAbortedError("connection: closed by this process")
        if self._tls is None:
            return await self._socket.send(data)
        self._tls.write(data)
        return await self._socket.send(self._outgoing.read())

    def rebind(self, receive: DataCallback, end: CloseCallback) -> None:
        """Replace the callbacks of an open connection whose response is complete."""
        self._receive, self._end = receive, end

    def close(self) -> None:
        """Close at once. Safe to call twice. A pending `open` raises OSError.

        The references to the callbacks are dropped, because objects left to the garbage collector would delay all
        other connections when it runs.
        """
        if self._socket is not None:
            self._socket.close()
            self._source, self._socket = self._socket.stamp_source, None
        self._receive, self._end = _ignore_data, _ignore_close
        if self._opening:
            self._open_error = self._open_error or ConnectionAbortedError("connection: closed by this process")
            self._wake_reader()

    def data_received(self, data: bytes, at_s: float, unread_s: float) -> None:
        """Process bytes from the socket; see `SocketProtocol`."""
        if self._opening:
            self._inbox += data
            if len(self._inbox) > _INBOX_BYTES:
                self._open_error = self._open_error or ConnectionAbortedError(
                    "connection: too much data arrived while it was being opened"
                )
            self._wake_reader()
        elif self._tls is None:
            self._receive(data, at_s, unread_s)
        else:
            self._on_encrypted_data(self._tls, data, at_s, unread_s)

    def connection_lost(self, error: OSError | None) -> None:
        """Process the end of the connection; see `SocketProtocol`."""
        if self._opening:
            self._open_error = error or ConnectionResetError("connection: closed by the peer while it was being opened")
            self._wake_reader()
        else:
            self._end(error)

    def _wake_reader(self) -> None:
        if self._data_waiter is not None and not self._data_waiter.done():
            self._data_waiter.set_result(None)

    async def _read_more(self) -> bytes:
        """Wait for bytes while the connection is being opened. Raises OSError."""
        while not self._inbox or self._open_error is not None:
            if self._open_error is not None:
                raise self._open_error
            self._data_waiter = asyncio.get_running_loop().create_future()
            await self._data_waiter
        data = bytes(self._inbox)
        self._inbox.clear()
        return data

    async def _exchange(self, data: bytes, size: int) -> bytes:
        """Send bytes while the connection is being opened, and return the next `size` bytes. Raises OSError."""
        if data:
            await self.send(data)
        found = b""
        while len(found) < size:
            found += await self._read_more()
        self._inbox[:0] = found[size:]
        return found[:size]

    async def _open_tunnel(self, target: Origin, proxy: Proxy) -> None:
        host = f"[{target.host}]" if ":" in target.host else target.host
        authority = f"{host}:{target.port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        await self.send("\r\n".join([*lines, "", ""]).encode())
        reader = ResponseParser(has_body=False)
        try:
            while reader.head is None:
                reader.feed(await self._read_more())
        except HTTPParseError as error:
            raise ProxyError(f"proxy: the response is not HTTP ({error})") from None
        if not 200 <= reader.head.status < 300:
            raise ProxyError(f"proxy: the tunnel was rejected with status {reader.head.status}")

    async def _do_handshake(self, context: ssl.SSLContext, host: str) -> None:
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            # A handshake step computes for up to a millisecond, in which nothing is read. Allow one step in each pass
            # of the event loop.
            await self._sockets.wait_turn()
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            if self._socket is None:
                raise self._open_error or ConnectionAbortedError("connection: closed by this process")
            if self._outgoing.pending:
                await self._socket.send(self._outgoing.read())
            if done:
                self._tls = tls
                return
            self._incoming.write(await self._read_more())

    def _on_encrypted_data(self, tls: ssl.SSLObject, data: bytes, at_s: float, unread_s: float) -> None:
        self._incoming.write(data)
        plain, has_ended, failure = self._decrypt_pending(tls)
        if plain:
            self._receive(plain, at_s, unread_s)
        if has_ended:
            end = self._end
            self.close()
            end(failure)

    def _decrypt_pending(self, tls: ssl.SSLObject) -> tuple[bytes, bool, OSError | None]:
        """Return the decrypted bytes so far, whether the TLS stream has ended, and the error that ended it, if any."""
        parts: list[bytes] = []
        try:
            while self._incoming.pending or tls.pending():
                parts.append(tls.read(_READ_SIZE))
                if not parts[-1]:
                    return b"".join(parts), True, None
            if self._outgoing.pending and self._socket is not None:
                # The reply to the peer's key update.
                self._socket.write(self._outgoing.read())
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return b"".join(parts), True, None
        except OSError as error:
            return b"".join(parts), True, error
        return b"".join(parts), False, None
