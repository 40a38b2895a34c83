"""Reads, through Redis, a stream that another replica writes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis import asyncio as redis
from redis.exceptions import RedisError

from server.frames import LAST, Entry, EntryTaker, unbilled
from server.kept import Gone
from streaming.events import Failed

LOOK_S = 5.0
"""How long one look at Redis waits for more, and how often the writer is told that somebody reads."""
PATIENCE_S = 30.0
"""How long Redis may be away before the stream is given up."""
DOWN = (RedisError, OSError)

_LOST = Failed("lost", "the server that wrote this answer is gone: ask again")


def entries_key(stream_id: str) -> str:
    """Where a stream's entries stand."""
    return f"streamgauge:stream:{stream_id}:entries"


def head_key(stream_id: str) -> str:
    """Where it stands whose stream it is, and who writes it."""
    return f"streamgauge:stream:{stream_id}:head"


def alive_key(replica: str) -> str:
    """What a living replica renews."""
    return f"streamgauge:replica:{replica}"


class RemoteReader:
    """Gives the entries after a number as they come; closing it is leaving, not stopping."""

    def __init__(
        self, client: "redis.Redis", stream_id: str, replica: str, after: int, reads: Callable[[str], Awaitable[None]]
    ) -> None:
        self.ended = False
        self._redis = client
        self._id = stream_id
        self._replica = replica
        self._seq = after
        self._reads = reads
        self._tell_at_s = 0.0
        self._away_s = 0.0

    async def begins(self) -> bool:
        """Say whether the stream has come to that number; `ended` when nothing comes after it.

        Raises Gone when what comes after it is no longer kept.
        """
        key = entries_key(self._id)
        oldest = _entries(await self._redis.xrange(key, count=1))
        newest = _entries(await self._redis.xrevrange(key, count=1))
        if not newest or newest[0][0] < self._seq:
            return False
        if oldest[0][0] > self._seq + 1:
            raise Gone(f"the stream is no longer kept from {self._seq + 1} on")
        self.ended = newest[0][0] == self._seq and newest[0][1] in LAST
        return True

    async def batch(self, timeout_s: float | None = None, taker: EntryTaker | None = None) -> list[Entry]:
        """Give what is there beyond what was given, waiting for it; empty after `timeout_s`."""
        left_s = timeout_s
        while not self.ended:
            look_s = LOOK_S if left_s is None else min(LOOK_S, left_s)
            if entries := await self._look(look_s):
                self._seq = entries[-1][0]
                self.ended = entries[-1][1] in LAST
                return entries
            if left_s is not None and (left_s := left_s - look_s) <= 0:
                break
        return []

    async def aclose(self) -> None:
        self.ended = True

    async def _look(self, look_s: float) -> list[Entry]:
        try:
            key = entries_key(self._id)
            await self._tell_writer()
            found: Any = await self._redis.xread({key: f"{self._seq}-0"}, block=max(1, int(look_s * 1000)))
            self._away_s = 0.0
            if found:
                return _entries(found[0][1])
            if await self._redis.exists(alive_key(self._replica)):
                return []
        except DOWN:
            await asyncio.sleep(1.0)
            self._away_s += 1.0
            if self._away_s < PATIENCE_S:
                return []
        return [(self._seq + 1, "error", unbilled(_LOST))]

    async def _tell_writer(self) -> None:
        """Say that somebody reads, not for every entry: all replicas hear it."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._tell_at_s:
            await self._reads(self._id)
            self._tell_at_s = now_s + LOOK_S


def _entries(found: Any) -> list[Entry]:
    return [(int(at.partition(b"-")[0]), fields[b"n"].decode(), fields[b"d"]) for at, fields in found]
