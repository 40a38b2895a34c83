"""HTTP/1.1 connections that are kept for the next request: what live answers come over, where stamps are not needed.

No number of requests at once is too many: waiting for a connection would pass for the other side's slowness. Nothing is
retried or redirected. Proxies are not spoken to.

A connection is kept only when its response came to the end that it announced, on HTTP/1.1 (on 1.0 with `keep-alive`),
without `close`, not with both a length and chunks, when nothing came after it, and when the request had been sent whole
by then. One on which anything comes while it is idle is closed.
"""

import asyncio
import select
from collections import defaultdict
from typing import cast

from streaming.http.connection import Origin
from streaming.http.response_parser import HTTPParseError, ResponseHead, ResponseParser

KEEPALIVE_EXPIRY_S = 4.0
"""How long a connection is kept that nobody uses; short, for the other side may close it at any moment."""
_MAX_UNREAD_BYTES = 128 * 1024


class ConnectError(Exception):
    """There was no connection; the cause is the system's error."""


class ConnectionClosedError(Exception):
    """The other side ended the connection before the response was complete; the cause is the system's error, if any."""


class Response:
    """One response whose head has come, good for one use: after its end or its closing it reads and closes nothing.

    What arrives for it is kept here and not with the connection, which may carry another response by then.
    """

    def __init__(self, connection: "_PooledConnection") -> None:
        self._connection: _PooledConnection | None = connection
        self._reader = ResponseParser()
        self._parts: list[bytes] = []
        self._unread = 0
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def head(self) -> ResponseHead:
        """Status and headers."""
        assert self._reader.head is not None  # `ConnectionPool.send` has waited for it
        return self._reader.head

    async def more(self) -> bytes:
        """Return what has come of the body, waiting for it; empty at its end, and after `aclose`.

        Raises Ended and Http1Error.
        """
        while not self._parts:
            if self._connection is None:
                return b""
            if self._reader.complete:
                self._leave()
                return b""
            await self._news()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._unread > _MAX_UNREAD_BYTES and self._connection is not None:
            self._connection.resume()
        self._unread = 0
        return data

    async def aclose(self) -> None:
        """Leave it where it is: a connection whose response is complete is used again, any other is closed at once."""
        self._parts.clear()
        self._leave()
        self._wake()

    async def wait_for_head(self) -> None:
        """Wait until the head has come. Raises Ended and Http1Error."""
        while self._reader.head is None:
            await self._news()

    def receive(self, data: bytes) -> None:
        """Take bytes of the connection; after a fault there are none."""
        try:
            part = self._reader.feed(data)
        except HTTPParseError as error:
            part = error.body
            self.fail(error)
        if part:
            self._parts.append(part)
            self._unread += len(part)
            if self._unread > _MAX_UNREAD_BYTES and self._connection is not None:
                self._connection.pause()
        self._wake()

    @property
    def is_broken(self) -> bool:
        """Whether what came is no response, so that nothing after it can be read."""
        return self._fault is not None

    def fail(self, fault: Exception, *, closed: bool = False) -> None:
        """No more will come. `closed`: the other side closed the connection, which ends a body of no told length."""
        if closed and self._fault is None:
            self._reader.flush()
        self._fault = self._fault or fault
        self._wake()

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(reusable=self._fault is None and self._reader.allows_reuse)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _news(self) -> asyncio.Future[None]:
        """Return what ends when more has come, or the connection has ended. Raises Ended and Http1Error."""
        if self._fault is not None:
            raise self._fault
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


class ConnectionPool:
    """The connections of one event loop, by target."""

    def __init__(self) -> None:
        self._idle: defaultdict[Origin, list[_PooledConnection]] = defaultdict(list)
        self._open: set[_PooledConnection] = set()

    async def send(self, target: Origin, request: bytes, connect_s: float) -> Response:
        """Send a whole request and wait for the head of its response.

        Raises NoConnection, TimeoutError when connecting took longer than `connect_s`, Ended and Http1Error. When it is
        cancelled, the connection is closed.
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
        """Close them all, and wait until they are."""
        connections = list(self._open)
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.lost

    def release(self, connection: "_PooledConnection") -> None:
        """A connection is free."""
        self._idle[connection.target].append(connection)

    def discard(self, connection: "_PooledConnection") -> None:
        """A connection has ended."""
        self._open.discard(connection)
        self.remove_idle(connection)

    def remove_idle(self, connection: "_PooledConnection") -> None:
        """A connection is not to be used again."""
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
                await loop.create_connection(
                    lambda: connection,
                    target.host,
                    target.port,
                    ssl=target.tls,
                    server_hostname=target.host if target.tls else None,
                )
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectError(str(error)) from error
        self._open.add(connection)
        return connection


class _PooledConnection(asyncio.Protocol):
    """One connection, which carries one response at a time."""

    def __init__(self, pool: ConnectionPool, target: Origin) -> None:
        self.target = target
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._fault: Exception | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, request: bytes, response: Response) -> None:
        """Send a request whose response this is. Raises Ended and Http1Error when the connection is broken already."""
        if self._fault is not None:
            raise self._fault
        assert self._transport is not None  # it is connected
        self._response = response
        self._transport.write(request)

    def acquire(self) -> bool:
        """Take it up again; False when something has come already, which can only be its end."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._fault is not None:
            return False
        assert self._transport is not None  # it was connected
        look = select.poll()
        look.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not look.poll(0)

    def release(self, *, reusable: bool) -> None:
        """The response has been left: keep the connection for the next one, or close it."""
        self._response = None
        transport = self._transport
        assert transport is not None  # it was connected
        # Where reading is paused the next response would never be heard; a request that was answered before it was
        # sent whole would go on in front of the next one.
        idle = not transport.is_closing() and transport.is_reading() and transport.get_write_buffer_size() == 0
        if not (reusable and idle) or self._fault is not None:
            self.close()
            return
        self._expiry = asyncio.get_running_loop().call_later(KEEPALIVE_EXPIRY_S, self.close)
        self._pool.release(self)

    def close(self) -> None:
        self._fault = self._fault or _closed_error(None)
        if self._expiry is not None:
            self._expiry.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._pool.remove_idle(self)

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._fault is not None:
            return
        if self._response is None:
            # Nothing was asked: what comes now belongs to no request.
            self._fault = HTTPParseError(f"bytes that nothing was asked for: {data[:80]!r}")
            self.close()
            return
        self._response.receive(data)
        if self._response.is_broken:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        closed = error is None and self._fault is None
        self._fault = self._fault or _closed_error(error)
        if self._response is not None:
            self._response.fail(self._fault, closed=closed)
        self._pool.discard(self)
        self.lost.set_result(None)


def _closed_error(error: Exception | None) -> ConnectionClosedError:
    ended = ConnectionClosedError(str(error or "the connection was closed"))
    ended.__cause__ = error
    return ended
