"""Buffers of resumable streams: their events are retained for a while, and can be read again from any number.

A disconnect does not stop such a stream; it is stopped after `BufferLimits.orphan_timeout_s` without a reader.
"""

import asyncio
from collections import OrderedDict, deque
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from server.streams.active import ActiveAnswer
from server.streams.events import TERMINAL_EVENTS, WireEvent, WireEventEncoder, WireEventSink, unknown_receipt_fields
from streaming.events import Failed

_TOO_SLOW = Failed(
    "lost", "stream: read too slowly, so its next events are no longer buffered (send the request again)"
)
_EVENT_OVERHEAD_BYTES = 150
"""The estimated memory of an event in addition to its data."""


@dataclass(frozen=True, slots=True)
class BufferLimits:
    """How long and how much is buffered.

    A stream continues without a reader for `orphan_timeout_s`, and can be read for `retention_s` after its end. Each
    stream may take `max_stream_bytes`, of which the oldest events are dropped first, and all together `max_bytes`.
    """

    orphan_timeout_s: float = 60.0
    retention_s: float = 300.0
    max_stream_bytes: int = 4 * 1024 * 1024
    max_bytes: int = 256 * 1024 * 1024
    max_streams: int = 2048


DEFAULT_LIMITS = BufferLimits()


class StreamReplicator(Protocol):
    """A receiver of buffer changes, which makes the streams readable at other replicas."""

    def on_append(self, buffered: "BufferedStream") -> None: ...

    def on_remove(self, buffered: "BufferedStream") -> None: ...


class StreamStoreFullError(Exception):
    """No more streams can be buffered now."""


class StreamUnavailableError(Exception):
    """Whether the caller has such a stream cannot be told now, because Redis does not respond."""


class StreamNotFoundError(LookupError):
    """The caller has no such stream, or its events after the requested number are not available."""


class BufferedStream:
    """The events of one stream, limited to the last `max_bytes`."""

    def __init__(
        self,
        stream: ActiveAnswer,
        max_bytes: int = DEFAULT_LIMITS.max_stream_bytes,
        orphan_timeout_s: float = DEFAULT_LIMITS.orphan_timeout_s,
    ) -> None:
        self._max_bytes = max_bytes
        self.orphan_timeout_s = orphan_timeout_s
        self.id = stream.id
        self.owner = stream.owner
        self.stream: ActiveAnswer | None = stream  # released at its end: an answer holds much memory
        self.entries: deque[WireEvent] = deque()
        self.bytes = 0
        self.ended = False
        self.readers = 0
        self.wake = asyncio.Event()
        self.orphan_timer: asyncio.TimerHandle | None = None
        self.expiry_timer: asyncio.TimerHandle | None = None

    @property
    def first_seq(self) -> int:
        """The number of the oldest buffered event, 1 before the first."""
        return self.entries[0][0] if self.entries else 1

    @property
    def last_seq(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self.entries[-1][0] if self.entries else 0

    def add(self, entries: list[WireEvent]) -> int:
        """Append events, drop the oldest beyond the limit, and return by how many bytes the buffer grew."""
        before = self.bytes
        for seq, name, data in entries:
            # Copy the data: orjson's bytes objects can hold on to a buffer of several kilobytes.
            self.entries.append((seq, name, bytes(memoryview(data))))
            self.bytes += len(data) + _EVENT_OVERHEAD_BYTES
        while self.bytes > self._max_bytes and len(self.entries) > 1:
            self.bytes -= len(self.entries.popleft()[2]) + _EVENT_OVERHEAD_BYTES
        self.ended = bool(entries) and entries[-1][1] in TERMINAL_EVENTS
        wake, self.wake = self.wake, asyncio.Event()
        wake.set()
        return self.bytes - before

    def events_after(self, seq: int) -> list[WireEvent]:
        """Return the events after that number. Raises StreamNotFoundError when some are no longer buffered."""
        if seq + 1 < self.first_seq:
            raise StreamNotFoundError(
                f"stream: the events from {seq + 1} on are no longer buffered (send the request again)"
            )
        start = seq + 1 - self.first_seq
        return [self.entries[i] for i in range(start, len(self.entries))]


class BufferedStreamReader:
    """A reader of a buffered stream after an event number. Closing the reader does not stop the stream."""

    def __init__(self, store: "StreamStore", buffered: BufferedStream, after: int) -> None:
        self.ended = buffered.ended and after >= buffered.last_seq
        self._store = store
        self._buffered = buffered
        self._seq = after
        store.reader_joined(buffered)
        self._joined = True

    async def next_batch(self, timeout_s: float | None = None, sink: WireEventSink | None = None) -> list[WireEvent]:
        """Wait for new events and return them; return an empty list after `timeout_s` and once closed."""
        buffered = self._buffered
        if buffered.last_seq <= self._seq and not self.ended:
            await wait_for(buffered.wake, timeout_s)
        if self.ended:
            return []
        try:
            entries = buffered.events_after(self._seq)
        except StreamNotFoundError:
            entries = [(self._seq + 1, "error", unknown_receipt_fields(_TOO_SLOW))]
        if entries:
            self._seq = entries[-1][0]
            self.ended = entries[-1][1] in TERMINAL_EVENTS
        return entries

    async def aclose(self) -> None:
        self.ended = True
        if self._joined:
            self._joined = False
            self._store.reader_left(self._buffered)


class StreamStore:
    """The buffered streams of this process, limited in number, bytes and time."""

    def __init__(self, replicator: StreamReplicator | None = None, limits: BufferLimits = DEFAULT_LIMITS) -> None:
        self._replicator = replicator
        self._limits = limits
        self._buffered: OrderedDict[str, BufferedStream] = OrderedDict()
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def add(
        self, stream: ActiveAnswer, entries: WireEventEncoder, orphan_timeout_s: float | None = None
    ) -> BufferedStreamReader:
        """Buffer the stream to its end, with or without readers, and return its first reader.

        `orphan_timeout_s` replaces that of the limits for this stream. Raises StreamStoreFullError when no more streams
        can be buffered.
        """
        self._make_room()
        timeout_s = self._limits.orphan_timeout_s if orphan_timeout_s is None else orphan_timeout_s
        buffered = self._buffered[stream.id] = BufferedStream(stream, self._limits.max_stream_bytes, timeout_s)
        task = asyncio.create_task(self._pump_events(buffered, entries))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return BufferedStreamReader(self, buffered, 0)

    def reader(self, stream_id: str, owner: str | None, after: int) -> BufferedStreamReader | None:
        """Return a reader after the event number `after`, or None when this process has no such stream of that owner.

        Raises StreamNotFoundError when the events after it are no longer buffered, or the stream has not reached it.
        """
        buffered = self._buffered.get(stream_id)
        if buffered is None or buffered.owner != owner:
            return None
        if after > buffered.last_seq:
            raise StreamNotFoundError(f"stream: has not reached event {after}")
        buffered.events_after(after)
        return BufferedStreamReader(self, buffered, after)

    def streams(self) -> list[BufferedStream]:
        return list(self._buffered.values())

    def reader_joined(self, buffered: BufferedStream) -> None:
        buffered.readers += 1
        _cancel_timer(buffered.orphan_timer)

    def reader_left(self, buffered: BufferedStream) -> None:
        buffered.readers -= 1
        if buffered.readers == 0 and not buffered.ended:
            self._abandon_later(buffered)

    def touch(self, stream_id: str) -> None:
        """Restart the timeout of a stream without a reader here, because another replica reads it."""
        buffered = self._buffered.get(stream_id)
        if buffered is not None and not buffered.ended and buffered.readers == 0:
            self._abandon_later(buffered)

    async def aclose(self) -> None:
        """Cancel the tasks that still write to buffers, after the streams were stopped."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        for buffered in self.streams():
            _cancel_timer(buffered.orphan_timer)
            _cancel_timer(buffered.expiry_timer)

    async def _pump_events(self, buffered: BufferedStream, entries: WireEventEncoder) -> None:
        async with aclosing(entries):
            while not entries.ended:
                self._append(buffered, await entries.next_batch())
        buffered.stream = None
        _cancel_timer(buffered.orphan_timer)
        loop = asyncio.get_running_loop()
        buffered.expiry_timer = loop.call_later(self._limits.retention_s, self._remove, buffered)

    def _append(self, buffered: BufferedStream, batch: list[WireEvent]) -> None:
        self._bytes += buffered.add(batch)
        if self._replicator is not None:
            self._replicator.on_append(buffered)

    def _abandon_later(self, buffered: BufferedStream) -> None:
        _cancel_timer(buffered.orphan_timer)
        loop = asyncio.get_running_loop()
        buffered.orphan_timer = loop.call_later(buffered.orphan_timeout_s, self._abandon, buffered)

    def _abandon(self, buffered: BufferedStream) -> None:
        if buffered.stream is None:
            return
        reason = Failed("abandoned", f"stopped: nobody read it for {buffered.orphan_timeout_s:g} s")
        task = asyncio.ensure_future(buffered.stream.stop(reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _remove(self, buffered: BufferedStream) -> None:
        if self._buffered.pop(buffered.id, None) is not None:
            self._bytes -= buffered.bytes
            _cancel_timer(buffered.expiry_timer)
            if self._replicator is not None:
                self._replicator.on_remove(buffered)

    def _make_room(self) -> None:
        ended = [buffered for buffered in self._buffered.values() if buffered.ended and buffered.readers == 0]
        while ended and self._is_full():
            self._remove(ended.pop(0))
        if self._is_full():
            raise StreamStoreFullError("resume: the buffer is full (send the request without resume, or retry later)")

    def _is_full(self) -> bool:
        return len(self._buffered) >= self._limits.max_streams or self._bytes >= self._limits.max_bytes


async def wait_for(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait for an event, at most `timeout_s`; return without an error when it elapses."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def _cancel_timer(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
