"""A pool of HTTP/1.1 keep-alive connections, used for live answers that need no kernel timestamps.

The number of concurrent requests is not limited, because a wait for a connection would look like latency of the
provider. The pool does not retry, follow redirects or support proxies.

A connection is reused only if its response reached its announced end on HTTP/1.1 (on 1.0 with `keep-alive`), had no
`close` and not both a length and chunks, if nothing followed the response, and if the whole request had been sent by
then. A connection that receives anything while idle is closed.
"""

import asyncio
import select
from collections import defaultdict
from typing import cast

from streaming.http.connection import Origin
from streaming.http.resolver import Resolver
from streaming.http.response_parser import HTTPParseError, ResponseHead, ResponseParser

KEEPALIVE_EXPIRY_S = 4.0
"""How long an idle connection is kept; short, because the peer may close it at any time."""
MAX_UNREAD_BYTES = 128 * 1024
"""How much of a response is buffered before the connection stops receiving."""


class ConnectError(Exception):
    """The connection could not be opened; the cause is the system's error."""


class ConnectionClosedError(Exception):
    """The peer ended the connection before the response was complete; the cause is the system's error, if any."""


class Response:
    """One response. After its end or `aclose` it no longer affects its connection.

    The response buffers its own data, because the connection may already carry another response.
    """

    def __init__(self, connection: "_PooledConnection") -> None:
        self._connection: _PooledConnection | None = connection
        self._reader = ResponseParser()
        self._parts: list[bytes] = []
        self._unread = 0
        self.fault: Exception | None = None
        """Why nothing more can be read: the response is invalid or incomplete, or its connection was closed."""
        self._waiter: asyncio.Future[None] | None = None

    @property
    def head(self) -> ResponseHead:
        """The status and the headers."""
        assert self._reader.head is not None  # `ConnectionPool.send` has waited for it
        return self._reader.head

    async def more(self) -> bytes:
        """Wait for more of the body and return it; empty at the end of the body and after `aclose`.

        Raises ConnectionClosedError and HTTPParseError.
        """
        while not self._parts:
            if self._connection is None:
                return b""
            if self._reader.complete:
                self._detach()
                return b""
            await self._wait_for_data()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._unread > MAX_UNREAD_BYTES and self._connection is not None:
            self._connection.resume()
        self._unread = 0
        return data

    async def aclose(self) -> None:
        """Stop reading: the connection is reused if the response is complete, else closed at once."""
        self._parts.clear()
        self._detach()
        self._wake()

    async def wait_for_head(self) -> None:
        """Wait until the head is complete. Raises ConnectionClosedError and HTTPParseError."""
        while self._reader.head is None:
            await self._wait_for_data()

    def receive(self, data: bytes) -> None:
        """Parse bytes from the connection, which passes none on after a fault."""
        try:
            part = self._reader.feed(data)
        except HTTPParseError as error:
            part = error.body
            self.fail(error)
        if part:
            self._parts.append(part)
            self._unread += len(part)
            if self._unread > MAX_UNREAD_BYTES and self._connection is not None:
                self._connection.pause()
        self._wake()

    def fail(self, fault: Exception, *, closed: bool = False) -> None:
        """Record that no more data will arrive. `closed`: the peer closed the connection.

        Closing ends a body whose length was not announced.
        """
        if closed and self.fault is None:
            self._reader.flush()
        self.fault = self.fault or fault
        self._wake()

    def _detach(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(reusable=self.fault is None and self._reader.allows_reuse)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wait_for_data(self) -> asyncio.Future[None]:
        """Return a future that is done when more data has arrived or the connection has ended.

        Raises ConnectionClosedError and HTTPParseError.
        """
        if self.fault is not None:
            raise self.fault
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


class ConnectionPool:
    """The connections of one event loop, by origin. An idle connection is closed after `keepalive_expiry_s`."""

    def __init__(self, keepalive_expiry_s: float = KEEPALIVE_EXPIRY_S, resolver: Resolver | None = None) -> None:
        self.keepalive_expiry_s = keepalive_expiry_s
        self._resolver = resolver or Resolver(cached=False)
        self._idle: defaultdict[Origin, list[_PooledConnection]] = defaultdict(list)
        self._open: set[_PooledConnection] = set()

    async def send(self, target: Origin, request: bytes, connect_s: float) -> Response:
        """Send a complete request and wait for the head of its response.

        Raises ConnectError, TimeoutError when connecting takes longer than `connect_s`, ConnectionClosedError and
        HTTPParseError. Cancelling it closes the connection.
        """
        connection = self._take_idle(target) or await self._connect(target, connect_s)
        response = Response(connection)
        try:
            connection.send(request, response)
            await response.wait_for_head()
        except BaseException:
            connection.close()
            raise
        return response

    async def aclose(self) -> None:
        """Close all connections and wait until they are closed."""
        connections = list(self._open)
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.lost

    def release(self, connection: "_PooledConnection") -> None:
        """Make a connection available for the next request."""
        self._idle[connection.target].append(connection)

    def discard(self, connection: "_PooledConnection") -> None:
        """Remove a connection that has ended."""
        self._open.discard(connection)
        self.remove_idle(connection)

    def remove_idle(self, connection: "_PooledConnection") -> None:
        """Remove a connection from the idle ones, so that it is not reused."""
        idle = self._idle.get(connection.target)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.target]

    def _take_idle(self, target: Origin) -> "_PooledConnection | None":
        while idle := self._idle.get(target):
            connection = idle.pop()
            if connection.acquire():
                return connection
            connection.close()
        return None

    async def _connect(self, target: Origin, connect_s: float) -> "_PooledConnection":
        loop = asyncio.get_running_loop()
        connection = _PooledConnection(self, target)
        try:
            async with asyncio.timeout(connect_s):
                sock = await self._resolver.connect(target.host, target.port)
                await loop.create_connection(
                    lambda: connection, sock=sock, ssl=target.tls, server_hostname=target.host if target.tls else None
                )
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectError(str(error)) from error
        self._open.add(connection)
        return connection


class _PooledConnection(asyncio.Protocol):
    """One connection of the pool; it carries one response at a time."""

    def __init__(self, pool: ConnectionPool, target: Origin) -> None:
        self.target = target
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._fault: Exception | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, request: bytes, response: Response) -> None:
        """Send a request and pass its response on to `response`.

        Raises ConnectionClosedError and HTTPParseError when the connection has already failed.
        """
        if self._fault is not None:
            raise self._fault
        assert self._transport is not None  # it is connected
        self._response = response
        self._transport.write(request)

    def acquire(self) -> bool:
        """Reserve the idle connection; return False if data or its end has arrived, so that it cannot be reused."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._fault is not None:
            return False
        assert self._transport is not None  # it was connected
        poller = select.poll()
        poller.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poller.poll(0)

    def release(self, *, reusable: bool) -> None:
        """Detach the response, and return the connection to the pool or close it."""
        self._response = None
        transport = self._transport
        assert transport is not None  # it was connected
        # With reading paused, the next response would never arrive. With unsent data, the rest of the last request
        # would precede the next one.
        idle = not transport.is_closing() and transport.is_reading() and transport.get_write_buffer_size() == 0
        if not (reusable and idle) or self._fault is not None:
            self.close()
            return
        self._expiry = asyncio.get_running_loop().call_later(self._pool.keepalive_expiry_s, self.close)
        self._pool.release(self)

    def close(self) -> None:
        """Close the connection at once and remove it from the idle ones."""
        self._fault = self._fault or _closed_error(None)
        if self._expiry is not None:
            self._expiry.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._pool.remove_idle(self)

    def pause(self) -> None:
        """Stop reading from the socket."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Continue reading from the socket."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._fault is not None:
            return
        if self._response is None:
            # No request is pending, so these bytes belong to none.
            self._fault = HTTPParseError(f"response: bytes that belong to no request ({data[:80]!r})")
            self.close()
            return
        self._response.receive(data)
        if self._response.fault is not None:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        closed = error is None and self._fault is None
        self._fault = self._fault or _closed_error(error)
        if self._response is not None:
            self._response.fail(self._fault, closed=closed)
        self._pool.discard(self)
        self.lost.set_result(None)


def _closed_error(error: Exception | None) -> ConnectionClosedError:
    ended = ConnectionClosedError(str(error or "connection: closed by the peer"))
    ended.__cause__ = error
    return ended
