"""Streams that outlive their reader's connection: their entries are kept for a while, and read again from any number.

Leaving such a stream is not stopping it; after `ALONE_S` without a reader it is stopped.
"""

import asyncio
from collections import OrderedDict, deque
from contextlib import aclosing
from typing import Protocol

from server.frames import LAST, Entries, Entry, EntryTaker, unbilled
from server.streams import Stream
from streaming.events import Failed

ALONE_S = 60.0
"""How long a stream goes on with no reader."""
KEPT_S = 300.0
"""How long it can be read after its end."""
MAX_STREAM_BYTES = 4 * 1024 * 1024
MAX_BYTES = 256 * 1024 * 1024
MAX_STREAMS = 2048

_ABANDONED = Failed("abandoned", f"stopped: nobody read it for {ALONE_S:g} s")
_TOO_SLOW = Failed("lost", "read too slowly: what comes next of this stream is no longer kept")
_ENTRY_BYTES = 150
"""What an entry takes beside its text."""


class Mirror(Protocol):
    """Is handed what is kept, so that other replicas can give it too."""

    def added(self, kept: "Kept") -> None: ...

    def forgotten(self, kept: "Kept") -> None: ...


class Full(Exception):
    """No more streams can be kept now."""


class Gone(Exception):
    """There is no such stream for this caller, or no longer from that place on."""


class Kept:
    """The entries of one stream, the last `MAX_STREAM_BYTES` of them."""

    def __init__(self, stream: Stream) -> None:
        self.id = stream.id
        self.owner = stream.owner
        self.stream: Stream | None = stream  # until its end: an answer holds much that nobody reads again
        self.entries: deque[Entry] = deque()
        self.bytes = 0
        self.ended = False
        self.readers = 0
        self.wake = asyncio.Event()
        self.alone: asyncio.TimerHandle | None = None
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def first(self) -> int:
        """The number of the oldest entry that is still kept."""
        return self.entries[0][0] if self.entries else 1

    @property
    def last(self) -> int:
        """The number of the newest entry, 0 before the first."""
        return self.entries[-1][0] if self.entries else 0

    def add(self, entries: list[Entry]) -> int:
        """Keep more; gives by how many bytes that grew."""
        before = self.bytes
        for seq, name, data in entries:
            # A copy: what the encoder gives stands in a buffer of some kilobytes.
            self.entries.append((seq, name, bytes(memoryview(data))))
            self.bytes += len(data) + _ENTRY_BYTES
        while self.bytes > MAX_STREAM_BYTES and len(self.entries) > 1:
            self.bytes -= len(self.entries.popleft()[2]) + _ENTRY_BYTES
        self.ended = bool(entries) and entries[-1][1] in LAST
        wake, self.wake = self.wake, asyncio.Event()
        wake.set()
        return self.bytes - before

    def after(self, seq: int) -> list[Entry]:
        """Give the entries after that number. Raises Gone when some of them are no longer kept."""
        if seq + 1 < self.first:
            raise Gone(f"the stream is no longer kept from {seq + 1} on")
        start = seq + 1 - self.first
        return [self.entries[i] for i in range(start, len(self.entries))]


class KeptReader:
    """Reads a kept stream from a number on; closing it is leaving, not stopping."""

    def __init__(self, keeper: "Keeper", kept: Kept, after: int) -> None:
        self.ended = kept.ended and after >= kept.last
        self._keeper = keeper
        self._kept = kept
        self._seq = after
        keeper.joined(kept)
        self._joined = True

    async def batch(self, timeout_s: float | None = None, taker: EntryTaker | None = None) -> list[Entry]:
        """Give what is there beyond what was given, waiting for it; empty after `timeout_s` and once closed."""
        kept = self._kept
        if kept.last <= self._seq and not self.ended:
            await wait_for(kept.wake, timeout_s)
        if self.ended:
            return []
        try:
            entries = kept.after(self._seq)
        except Gone:
            entries = [(self._seq + 1, "error", unbilled(_TOO_SLOW))]
        if entries:
            self._seq = entries[-1][0]
            self.ended = entries[-1][1] in LAST
        return entries

    async def aclose(self) -> None:
        self.ended = True
        if self._joined:
            self._joined = False
            self._keeper.left(self._kept)


class Keeper:
    """The kept streams of this process, bounded in number, bytes and time."""

    def __init__(self, mirror: Mirror | None = None) -> None:
        self._mirror = mirror
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._producing: set[asyncio.Task[None]] = set()

    def keep(self, stream: Stream, entries: Entries) -> KeptReader:
        """Read the stream to its end whoever listens, and give its first reader. Raises Full."""
        self._make_room()
        kept = self._kept[stream.id] = Kept(stream)
        task = asyncio.create_task(self._produce(kept, entries))
        self._producing.add(task)
        task.add_done_callback(self._producing.discard)
        return KeptReader(self, kept, 0)

    def reader(self, stream_id: str, owner: str | None, after: int) -> KeptReader | None:
        """Give a reader from after that entry on, None where this process keeps no such stream of that owner.

        Raises Gone when the entries after it are no longer kept, or when the stream has not come so far.
        """
        kept = self._kept.get(stream_id)
        if kept is None or kept.owner != owner:
            return None
        if after > kept.last:
            raise Gone(f"the stream has not come to {after}")
        kept.after(after)
        return KeptReader(self, kept, after)

    def all(self) -> list[Kept]:
        return list(self._kept.values())

    def joined(self, kept: Kept) -> None:
        kept.readers += 1
        _cancel(kept.alone)

    def left(self, kept: Kept) -> None:
        kept.readers -= 1
        if kept.readers == 0 and not kept.ended:
            self._abandon_later(kept)

    def heard_of(self, stream_id: str) -> None:
        """Another replica reads it: it is not alone."""
        kept = self._kept.get(stream_id)
        if kept is not None and not kept.ended and kept.readers == 0:
            self._abandon_later(kept)

    async def aclose(self) -> None:
        """End what is still written, once the streams were stopped."""
        for task in list(self._producing):
            task.cancel()
        if self._producing:
            await asyncio.wait(list(self._producing))
        for kept in self.all():
            _cancel(kept.alone)
            _cancel(kept.expiry)

    async def _produce(self, kept: Kept, entries: Entries) -> None:
        async with aclosing(entries):
            while not entries.ended:
                self._add(kept, await entries.batch())
        kept.stream = None
        _cancel(kept.alone)
        kept.expiry = asyncio.get_running_loop().call_later(KEPT_S, self._forget, kept)

    def _add(self, kept: Kept, batch: list[Entry]) -> None:
        self._bytes += kept.add(batch)
        if self._mirror is not None:
            self._mirror.added(kept)

    def _abandon_later(self, kept: Kept) -> None:
        _cancel(kept.alone)
        kept.alone = asyncio.get_running_loop().call_later(ALONE_S, self._abandon, kept)

    def _abandon(self, kept: Kept) -> None:
        if kept.stream is None:
            return
        task = asyncio.ensure_future(kept.stream.stop(_ABANDONED))
        self._producing.add(task)
        task.add_done_callback(self._producing.discard)

    def _forget(self, kept: Kept) -> None:
        if self._kept.pop(kept.id, None) is not None:
            self._bytes -= kept.bytes
            _cancel(kept.expiry)
            if self._mirror is not None:
                self._mirror.forgotten(kept)

    def _make_room(self) -> None:
        ended = [kept for kept in self._kept.values() if kept.ended and kept.readers == 0]
        while ended and (len(self._kept) >= MAX_STREAMS or self._bytes >= MAX_BYTES):
            self._forget(ended.pop(0))
        if len(self._kept) >= MAX_STREAMS or self._bytes >= MAX_BYTES:
            raise Full("the service keeps as many streams as it can: ask without resume, or later")


async def wait_for(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait for an event, at most so long."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
