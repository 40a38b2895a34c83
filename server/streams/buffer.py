"""Buffers of resumable streams: their events are retained for a while, and can be read again from any number.

A disconnect does not stop such a stream; it is stopped after `ORPHAN_TIMEOUT_S` without a reader.
"""

import asyncio
from collections import OrderedDict, deque
from contextlib import aclosing
from typing import Protocol

from server.streams.active import ActiveAnswer
from server.streams.events import TERMINAL_EVENTS, WireEvent, WireEventEncoder, WireEventSink, unknown_receipt_fields
from streaming.events import Failed

ORPHAN_TIMEOUT_S = 60.0
"""How long a stream continues without a reader."""
RETENTION_S = 300.0
"""How long a stream can be read after its end."""
MAX_STREAM_BYTES = 4 * 1024 * 1024
MAX_BYTES = 256 * 1024 * 1024
MAX_STREAMS = 2048

_ABANDONED = Failed("abandoned", f"stopped: nobody read it for {ORPHAN_TIMEOUT_S:g} s")
_TOO_SLOW = Failed("lost", "read too slowly: the next events of this stream are no longer kept")
_EVENT_OVERHEAD_BYTES = 150
"""The estimated memory of an event in addition to its data."""


class StreamReplicator(Protocol):
    """A receiver of buffer changes, which makes the streams readable at other replicas."""

    def on_append(self, kept: "BufferedStream") -> None: ...

    def on_remove(self, kept: "BufferedStream") -> None: ...


class StreamStoreFullError(Exception):
    """No more streams can be buffered now."""


class StreamNotFoundError(Exception):
    """The caller has no such stream, or its events after the requested number are not available."""


class BufferedStream:
    """The events of one stream, limited to the last `MAX_STREAM_BYTES`."""

    def __init__(self, stream: ActiveAnswer) -> None:
        self.id = stream.id
        self.owner = stream.owner
        self.stream: ActiveAnswer | None = stream  # released at its end: an answer holds much memory
        self.entries: deque[WireEvent] = deque()
        self.bytes = 0
        self.ended = False
        self.readers = 0
        self.wake = asyncio.Event()
        self.alone: asyncio.TimerHandle | None = None
        self.expiry: asyncio.TimerHandle | None = None

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
        while self.bytes > MAX_STREAM_BYTES and len(self.entries) > 1:
            self.bytes -= len(self.entries.popleft()[2]) + _EVENT_OVERHEAD_BYTES
        self.ended = bool(entries) and entries[-1][1] in TERMINAL_EVENTS
        wake, self.wake = self.wake, asyncio.Event()
        wake.set()
        return self.bytes - before

    def events_after(self, seq: int) -> list[WireEvent]:
        """Return the events after that number. Raises StreamNotFoundError when some are no longer buffered."""
        if seq + 1 < self.first_seq:
            raise StreamNotFoundError(f"the stream is no longer kept from {seq + 1} on")
        start = seq + 1 - self.first_seq
        return [self.entries[i] for i in range(start, len(self.entries))]


class BufferedStreamReader:
    """A reader of a buffered stream after an event number. Closing the reader does not stop the stream."""

    def __init__(self, store: "StreamStore", kept: BufferedStream, after: int) -> None:
        self.ended = kept.ended and after >= kept.last_seq
        self._store = store
        self._kept = kept
        self._seq = after
        store.reader_joined(kept)
        self._joined = True

    async def next_batch(self, timeout_s: float | None = None, sink: WireEventSink | None = None) -> list[WireEvent]:
        """Wait for new events and return them; return an empty list after `timeout_s` and once closed."""
        kept = self._kept
        if kept.last_seq <= self._seq and not self.ended:
            await wait_for(kept.wake, timeout_s)
        if self.ended:
            return []
        try:
            entries = kept.events_after(self._seq)
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
            self._store.reader_left(self._kept)


class StreamStore:
    """The buffered streams of this process, limited in number, bytes and time."""

    def __init__(self, mirror: StreamReplicator | None = None) -> None:
        self._mirror = mirror
        self._kept: OrderedDict[str, BufferedStream] = OrderedDict()
        self._bytes = 0
        self._producing: set[asyncio.Task[None]] = set()

    def add(self, stream: ActiveAnswer, entries: WireEventEncoder) -> BufferedStreamReader:
        """Buffer the stream to its end, with or without readers, and return its first reader.

        Raises StreamStoreFullError when no more streams can be buffered.
        """
        self._make_room()
        kept = self._kept[stream.id] = BufferedStream(stream)
        task = asyncio.create_task(self._pump_events(kept, entries))
        self._producing.add(task)
        task.add_done_callback(self._producing.discard)
        return BufferedStreamReader(self, kept, 0)

    def reader(self, stream_id: str, owner: str | None, after: int) -> BufferedStreamReader | None:
        """Return a reader after the event number `after`, or None when this process has no such stream of that owner.

        Raises StreamNotFoundError when the events after it are no longer buffered, or the stream has not reached it.
        """
        kept = self._kept.get(stream_id)
        if kept is None or kept.owner != owner:
            return None
        if after > kept.last_seq:
            raise StreamNotFoundError(f"the stream has not reached event {after}")
        kept.events_after(after)
        return BufferedStreamReader(self, kept, after)

    def streams(self) -> list[BufferedStream]:
        return list(self._kept.values())

    def reader_joined(self, kept: BufferedStream) -> None:
        kept.readers += 1
        _cancel_timer(kept.alone)

    def reader_left(self, kept: BufferedStream) -> None:
        kept.readers -= 1
        if kept.readers == 0 and not kept.ended:
            self._abandon_later(kept)

    def touch(self, stream_id: str) -> None:
        """Restart the timeout of a stream without a reader here, because another replica reads it."""
        kept = self._kept.get(stream_id)
        if kept is not None and not kept.ended and kept.readers == 0:
            self._abandon_later(kept)

    async def aclose(self) -> None:
        """Cancel the tasks that still write to buffers, after the streams were stopped."""
        for task in list(self._producing):
            task.cancel()
        if self._producing:
            await asyncio.wait(list(self._producing))
        for kept in self.streams():
            _cancel_timer(kept.alone)
            _cancel_timer(kept.expiry)

    async def _pump_events(self, kept: BufferedStream, entries: WireEventEncoder) -> None:
        async with aclosing(entries):
            while not entries.ended:
                self._append(kept, await entries.next_batch())
        kept.stream = None
        _cancel_timer(kept.alone)
        kept.expiry = asyncio.get_running_loop().call_later(RETENTION_S, self._remove, kept)

    def _append(self, kept: BufferedStream, batch: list[WireEvent]) -> None:
        self._bytes += kept.add(batch)
        if self._mirror is not None:
            self._mirror.on_append(kept)

    def _abandon_later(self, kept: BufferedStream) -> None:
        _cancel_timer(kept.alone)
        kept.alone = asyncio.get_running_loop().call_later(ORPHAN_TIMEOUT_S, self._abandon, kept)

    def _abandon(self, kept: BufferedStream) -> None:
        if kept.stream is None:
            return
        task = asyncio.ensure_future(kept.stream.stop(_ABANDONED))
        self._producing.add(task)
        task.add_done_callback(self._producing.discard)

    def _remove(self, kept: BufferedStream) -> None:
        if self._kept.pop(kept.id, None) is not None:
            self._bytes -= kept.bytes
            _cancel_timer(kept.expiry)
            if self._mirror is not None:
                self._mirror.on_remove(kept)

    def _make_room(self) -> None:
        ended = [kept for kept in self._kept.values() if kept.ended and kept.readers == 0]
        while ended and (len(self._kept) >= MAX_STREAMS or self._bytes >= MAX_BYTES):
            self._remove(ended.pop(0))
        if len(self._kept) >= MAX_STREAMS or self._bytes >= MAX_BYTES:
            raise StreamStoreFullError(
                "the buffer of resumable streams is full: send the request without resume, or retry later"
            )


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
