"""HTTP/1.1 connections that are kept for the next request: what live answers come over, where stamps are not needed.

No number of requests at once is too many: waiting for a connection would pass for the other side's slowness. Nothing is
retried or redirected. Proxies are not spoken to.
"""

import asyncio
import select
from collections import defaultdict
from typing import cast

from streaming.connecting import Target
from streaming.http1 import Head, Http1Error, ResponseReader

IDLE_S = 4.0
"""How long a connection is kept that nobody uses; short, for the other side may close it at any moment."""
_UNREAD_BYTES = 128 * 1024


class NoConnection(Exception):
    """There was no connection; the cause is the system's error."""


class Ended(Exception):
    """The other side ended the connection before the response was complete; the cause is the system's error, if any."""


class Response:
    """One response whose head has come; `aclose` leaves it where it is.

    `more` gives what has come of its body, waiting for it, and nothing at its end. It raises Ended and Http1Error.
    """

    def __init__(self, connection: "_Connection", head: Head) -> None:
        self.head = head
        self.more = connection.more
        self._connection = connection

    async def aclose(self) -> None:
        """A connection whose response is complete is used again, any other is closed at once."""
        self._connection.left()


class Pool:
    """The connections of one event loop, by target."""

    def __init__(self) -> None:
        self._idle: defaultdict[Target, list[_Connection]] = defaultdict(list)
        self._open: set[_Connection] = set()

    async def ask(self, target: Target, request: bytes, connect_s: float) -> Response:
        """Send a whole request and wait for the head of its response.

        Raises NoConnection, TimeoutError when connecting took longer than `connect_s`, Ended and Http1Error. When it is
        cancelled, the connection is closed.
        """
        connection = self._kept(target) or await self._opened(target, connect_s)
        try:
            return Response(connection, await connection.head(request))
        except BaseException:
            connection.close()
            raise

    async def aclose(self) -> None:
        """Close them all, and wait until they are."""
        connections = list(self._open)
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.lost

    def keep(self, connection: "_Connection") -> None:
        """A connection is free."""
        self._idle[connection.target].append(connection)

    def lost(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self._open.discard(connection)
        self.forget(connection)

    def forget(self, connection: "_Connection") -> None:
        """A connection is not to be used again."""
        idle = self._idle.get(connection.target)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.target]

    def _kept(self, target: Target) -> "_Connection | None":
        while idle := self._idle.get(target):
            connection = idle.pop()
            if connection.wanted():
                return connection
            connection.close()
        return None

    async def _opened(self, target: Target, connect_s: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        connection = _Connection(self, target)
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
            raise NoConnection(str(error)) from error
        self._open.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self, pool: Pool, target: Target) -> None:
        self.target = target
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()
        self._parts: list[bytes] = []
        self._unread = 0
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._busy = True
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def head(self, request: bytes) -> Head:
        self._reader = ResponseReader()
        assert self._transport is not None  # it is connected
        self._transport.write(request)
        while self._reader.head is None:
            await self._news()
        return self._reader.head

    async def more(self) -> bytes:
        """Give what has come of the body, waiting for it; empty at its end. Raises Ended and Http1Error."""
        while not self._parts:
            if self._reader.complete:
                return b""
            await self._news()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._unread > _UNREAD_BYTES and self._transport is not None:
            self._transport.resume_reading()
        self._unread = 0
        return data

    def wanted(self) -> bool:
        """Take it up again; False when something has come already, which can only be its end."""
        self._busy = True
        if self._expiry is not None:
            self._expiry.cancel()
        assert self._transport is not None  # it was connected
        look = select.poll()
        look.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not look.poll(0)

    def left(self) -> None:
        if not self._busy:
            return
        self._busy = False
        head = self._reader.head
        closing = head is None or "close" in head.headers.get("connection", "").lower()
        # With so much unread it is paused: the next response would never be heard on it.
        closing = closing or self._unread > _UNREAD_BYTES
        self._parts, self._unread = [], 0
        if closing or not self._reader.complete or self._fault is not None:
            self.close()
            return
        self._expiry = asyncio.get_running_loop().call_later(IDLE_S, self.close)
        self._pool.keep(self)

    def close(self) -> None:
        self._busy = False
        if self._expiry is not None:
            self._expiry.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._pool.forget(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            # Nothing was asked: what comes now belongs to no request.
            self.close()
            return
        try:
            part = self._reader.feed(data)
        except Http1Error as error:
            part, self._fault = error.body, error
        if part:
            self._parts.append(part)
            self._unread += len(part)
            if self._unread > _UNREAD_BYTES and self._transport is not None:
                self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._reader.flush()
        self._fault = self._fault or _ended(error)
        self._pool.lost(self)
        self.lost.set_result(None)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _news(self) -> asyncio.Future[None]:
        """Give what ends when more has come, or the connection has ended. Raises Ended and Http1Error."""
        if self._fault is not None:
            raise self._fault
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


def _ended(error: Exception | None) -> Ended:
    ended = Ended(str(error or "the connection was closed"))
    ended.__cause__ = error
    return ended
