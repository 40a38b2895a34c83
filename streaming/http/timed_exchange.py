"""One request and its response on a separate timestamped connection, with the timestamp of each phase and body read.

An exchange does not retry or follow redirects, and the number of concurrent exchanges is not limited. Its connection is
its own, unless the sockets are a `KeepAliveSelector`: then it may be one that an earlier exchange has left open. It
never raises for a network failure: `ending` reports it. There are two ways to use it:

    async with TimedExchange(sockets, target, request, limits) as exchange:
        await exchange.wait_closed()                    measuring: the bytes are stored and decoded afterwards
        async for chunk in exchange.aiter_chunks()      live: the bytes are yielded as they arrive

With a gate, the connection is opened at once, and the request is sent when the gate opens.

**Merged reads.** The kernel reports one timestamp for all bytes that one read returns: that of the last byte. A read is
`merged` when it may contain several sends, so that the timestamps of the earlier ones are lost. This is assumed when
the socket had not been polled for MERGE_WINDOW_S before the timestamp (the event loop was blocked) and the read
contains parts of more than one chunk, or the body is not chunked. Several sends within MERGE_WINDOW_S are not marked,
because the timestamps of the earlier ones are late by less than that.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from streaming.clock import monotonic
from streaming.http.close_reason import CloseReason
from streaming.http.connection import Origin, TimestampedConnection
from streaming.http.idle_connections import KeepAliveSelector
from streaming.http.response_parser import HTTPLimitError, HTTPParseError, ResponseHead, ResponseParser
from streaming.http.timestamped_sockets import TimestampingSelector, TimestampSource
from streaming.limits import MAX_ERROR_BODY_BYTES, MAX_STREAM_BYTES, max_body_bytes, size_text

Gate = Callable[[], Awaitable[object]]
"""Returns when a request is due that is ready to be sent. What it raises ends the sending."""

MERGE_WINDOW_S = 0.005
_MIN_LIMIT_BYTES = min(MAX_ERROR_BODY_BYTES, MAX_STREAM_BYTES)


@dataclass(frozen=True, slots=True)
class ExchangeTimeouts:
    """Timeouts in seconds; None is no limit.

    `idle_s` applies between any two bytes and before the first one; `total_s` runs from `begun_s`.
    """

    connect_s: float | None = 10.0
    idle_s: float | None = None
    total_s: float | None = None


class BodyChunk(NamedTuple):
    """One read's part of the body; `at_s` is the timestamp of its last byte, in seconds on CLOCK_MONOTONIC."""

    at_s: float
    data: bytes
    merged: bool


class TimedExchange:
    """One request and its response. Timestamps are seconds on CLOCK_MONOTONIC, None until they are known.

    `queued_s`: the exchange was created. `begun_s`: the address is resolved and connecting begins, or the gate has
    opened: timeouts count from there. `connected_s`: the connection is open, including proxy and TLS, which took
    `connect_s`. `sent_s`: the last byte of the request was passed to the kernel.
    `first_byte_s`, `headers_s`: the first byte and the complete head of the response. `ended_s`: the last byte's
    timestamp, or the time at which a timeout or the end of the connection was noticed. `unread_max_s`: an upper bound
    on the time between the first byte of a read and the read's timestamp.
    """

    def __init__(
        self,
        sockets: TimestampingSelector,
        target: Origin,
        request: bytes,
        limits: ExchangeTimeouts,
        gate: Gate | None = None,
    ) -> None:
        self.queued_s = monotonic()
        self.reused = False
        """Whether an earlier exchange has used the connection."""
        self.begun_s: float | None = None
        self.connect_s: float | None = None
        """How long it took to open the connection; None if it is reused."""
        self.connected_s: float | None = None
        self.sent_s: float | None = None
        self.first_byte_s: float | None = None
        self.headers_s: float | None = None
        self.last_byte_s: float | None = None
        self.ended_s: float | None = None
        self.ending: CloseReason = CloseReason.OPEN
        self.fault: Exception | None = None
        self.reads: list[BodyChunk] = []
        self.merged_reads = 0
        self.unread_max_s = 0.0
        self._target, self._request, self._limits, self._gate = target, request, limits, gate
        self._is_waiting = False
        self._sockets = sockets
        self._connection = TimestampedConnection(sockets, self._on_data, self._on_closed)
        self._reader = ResponseParser()
        self._body_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._wakes_on_reads = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def found_closed(self) -> bool:
        """Whether the request found no connection, so that it has not been processed and can be sent over another one.

        The peer had closed the reused connection, or the one that was opened ahead, or had refused that one.
        """
        ended = self.ending in (CloseReason.CLOSED, CloseReason.RESET)
        if self._gate is not None and self.sent_s is None:
            return ended or self.ending == CloseReason.UNREACHABLE
        return self.reused and self.first_byte_s is None and ended

    @property
    def response_head(self) -> ResponseHead | None:
        """The status and the headers, or None until they have arrived."""
        return self._reader.head

    @property
    def timestamp_source(self) -> TimestampSource:
        """The source of the timestamps: `kernel` if every one came from the kernel, else `callback`."""
        return self._connection.timestamp_source

    @property
    def peer_address(self) -> str | None:
        """The IP address that accepted the connection, the proxy's if there is one; None before that."""
        return self._connection.peer_address

    async def __aenter__(self) -> "TimedExchange":
        try:
            await self._open()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket at once. Safe to call twice."""
        self._finish(CloseReason.LEFT, None, monotonic())

    async def wait_closed(self, until_s: float | None = None) -> bool:
        """Wait for the end, at most until `until_s` on CLOCK_MONOTONIC, and return whether the exchange has ended."""
        if self.ending == CloseReason.OPEN:
            await self._wait(on_reads=False, until_s=until_s)
        return self.ending != CloseReason.OPEN

    async def aiter_chunks(self) -> AsyncGenerator[BodyChunk, None]:
        """Yield each part of the body as it arrives, from the first one until the exchange ends for any reason."""
        count = 0
        while True:
            while count < len(self.reads):
                count += 1
                yield self.reads[count - 1]
            if self.ending != CloseReason.OPEN:
                return
            await self._wait(on_reads=True, until_s=None)

    async def _open(self) -> None:
        await self._connect_in_time()
        if self._gate is not None:
            self._is_waiting = True
            await self._gate()
            self._is_waiting, self.begun_s = False, monotonic()
        if self.ending != CloseReason.OPEN:
            return
        try:
            self.sent_s = await self._connection.send(self._request)
        except OSError as error:
            self._finish(CloseReason.RESET, error, monotonic())

    async def _connect_in_time(self) -> None:
        limits = [limit for limit in (self._limits.connect_s, self._limits.total_s) if limit is not None]
        try:
            async with asyncio.timeout(min(limits, default=None)):
                await self._connect()
        except TimeoutError:
            self._finish(CloseReason.CONNECT_TIMEOUT, None, monotonic())
        except OSError as error:
            self._finish(CloseReason.UNREACHABLE, error, monotonic())

    async def _connect(self) -> None:
        if isinstance(self._sockets, KeepAliveSelector) and (kept := self._sockets.take(self._target)) is not None:
            self.reused, self.begun_s, self.connected_s = True, monotonic(), monotonic()
            self._connection.close()
            self._connection = kept
            kept.rebind(self._on_data, self._on_closed)
            self._check_timeouts()
            return
        hop = self._target.first_hop
        # All exchanges that wait for an address receive it in one pass of the event loop. Let them connect one by one.
        await self._sockets.addresses.resolve(hop.host, hop.port)
        await self._sockets.wait_turn()
        self.begun_s = monotonic()
        self._check_timeouts()
        await self._connection.open(self._target)
        self.connected_s = monotonic()
        self.connect_s = self.connected_s - self.begun_s

    def _on_data(self, data: bytes, at_s: float, unread_s: float) -> None:
        if self._is_waiting:  # the peer reports an error before the request, and closes
            self._finish(CloseReason.CLOSED, None, at_s)
            return
        if self.first_byte_s is None:
            self.first_byte_s = at_s
        self.last_byte_s = at_s
        reader = self._reader
        try:
            body = reader.feed(data)
        except HTTPParseError as error:
            if error.body:
                self.reads.append(BodyChunk(at_s, error.body, False))
            self._finish(CloseReason.NOT_HTTP, error, at_s)
            return
        if self.headers_s is None and reader.head is not None:
            self.headers_s = at_s
        if body:
            self._add_body(body, at_s, unread_s)
        if reader.complete or self._body_bytes > _MIN_LIMIT_BYTES:
            self._end_if_due(at_s)

    def _add_body(self, body: bytes, at_s: float, unread_s: float) -> None:
        self._body_bytes += len(body)
        self.unread_max_s = max(self.unread_max_s, unread_s)
        merged = unread_s > MERGE_WINDOW_S and self._reader.chunks != 1
        self.merged_reads += merged
        self.reads.append(BodyChunk(at_s, body, merged))
        if self._wakes_on_reads:
            self._wake()

    def _end_if_due(self, at_s: float) -> None:
        """End the exchange when its body is complete or exceeds the size limit."""
        limit = max_body_bytes(self._reader.head.status if self._reader.head else 200)
        if self._reader.complete:
            self._finish(CloseReason.COMPLETE, None, at_s)
        elif self._body_bytes > limit:
            self._finish(CloseReason.NOT_HTTP, HTTPLimitError(f"response body: larger than {size_text(limit)}"), at_s)

    def _on_closed(self, error: OSError | None) -> None:
        if error is not None:
            self._finish(CloseReason.RESET, error, monotonic())
        else:
            self._finish(CloseReason.COMPLETE if self._reader.flush() else CloseReason.CLOSED, None, monotonic())

    def _finish(self, ending: CloseReason, fault: Exception | None, at_s: float) -> None:
        if self.ending != CloseReason.OPEN:
            return
        self.ending, self.fault, self.ended_s = ending, fault, at_s
        if (
            ending == CloseReason.COMPLETE
            and self._reader.allows_reuse
            and isinstance(self._sockets, KeepAliveSelector)
        ):
            self._sockets.put(self._target, self._connection)
        else:
            self._connection.close()
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    async def _wait(self, *, on_reads: bool, until_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        self._wakes_on_reads = on_reads
        timer = None if until_s is None else loop.call_at(until_s, self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_timeouts(self) -> None:
        """End the exchange if a timeout has expired, else check again when the next one can expire.

        So the arrival of bytes does not have to reschedule a timer.
        """
        assert self.begun_s is not None  # limits count from there
        now_s = monotonic()
        last_s = max(filter(None, (self.begun_s, self.connected_s, self.sent_s, self.last_byte_s)))
        idle_due_s = None if self._limits.idle_s is None else last_s + self._limits.idle_s
        total_due_s = None if self._limits.total_s is None else self.begun_s + self._limits.total_s
        if total_due_s is not None and total_due_s <= now_s:
            self._finish(CloseReason.TOTAL, None, now_s)
        elif idle_due_s is not None and idle_due_s <= now_s:
            self._finish(CloseReason.IDLE, None, now_s)
        elif due := [due_s for due_s in (idle_due_s, total_due_s) if due_s is not None]:
            self._timer = asyncio.get_running_loop().call_at(min(due), self._check_timeouts)
