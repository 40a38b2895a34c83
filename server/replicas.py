"""Several replicas as one service, through Redis: any of them continues or stops a stream of any other.

A replica copies what it keeps to Redis Streams in the background: its own readers never wait for Redis. When Redis was
away, or came back without what it had, what is missing there is written again, under the same numbers.
"""

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import Any

import orjson
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from server.frames import cancelled_fields
from server.kept import KEPT_S, Keeper, Kept
from server.remote import DOWN, RemoteReader, alive_key, entries_key, head_key
from server.streams import Streams

CONTROL = "streamgauge:control"
BEAT_S = 5.0
ALIVE_S = 15.0
"""How long a replica is taken to live after its last sign of life."""
REPLY_S = 2.0
"""How long an answer from another replica is waited for."""
RETRY_S = 1.0
LAG_S = 1.0
"""How long a copy may be behind what a reader has already seen."""
_AGAIN_S = 0.05
_KEY_S = 900
"""How long Redis keeps what is still written; longer than any answer lasts."""

_CONNECTIONS = 2**16
"""Each reader of another replica's stream waits on one of its own: the library's 100 would turn the next away."""

_log = logging.getLogger(__name__)


class Replicas:
    """This process's part: copies the keeper's streams, hears the other replicas, reads and stops their streams."""

    def __init__(self, url: str, streams: Streams) -> None:
        self._streams = streams
        self._keeper: Keeper | None = None
        self._redis = redis.Redis.from_url(
            url,
            protocol=2,
            max_connections=_CONNECTIONS,
            socket_connect_timeout=1.0,
            socket_timeout=2 * BEAT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._name = secrets.token_urlsafe(8)
        self._written: dict[str, int] = {}
        self._behind: dict[str, Kept] = {}
        self._more = asyncio.Event()
        self._resync = True
        self._server: object = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, keeper: Keeper) -> None:
        """Begin to copy and to listen."""
        self._keeper = keeper
        self._tasks = [asyncio.create_task(work()) for work in (self._write, self._hear, self._beat)]

    async def aclose(self) -> None:
        """Write what is still to be written, then go."""
        with suppress(TimeoutError, *DOWN):
            async with asyncio.timeout(REPLY_S):
                await self._copy()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._redis.aclose()

    def added(self, kept: Kept) -> None:
        """There is more of it; the keeper says so, and does not wait."""
        self._behind[kept.id] = kept
        self._more.set()

    def forgotten(self, kept: Kept) -> None:
        """It is no longer kept here; Redis forgets it by itself."""
        self._behind.pop(kept.id, None)
        self._written.pop(kept.id, None)

    async def reader(self, stream_id: str, owner: str | None, after: int) -> RemoteReader | None:
        """Give a reader of another replica's stream, None where there is none of that owner, or Redis is away.

        Raises Gone when the entries after that one are no longer kept.
        """
        until_s = self._streams.clock() + LAG_S
        with suppress(*DOWN):
            async with asyncio.timeout(LAG_S + REPLY_S):
                while True:
                    found = await self._found(stream_id, owner, after)
                    if found is not None or self._streams.clock() >= until_s:
                        return found
                    await asyncio.sleep(_AGAIN_S)
        return None

    async def _found(self, stream_id: str, owner: str | None, after: int) -> RemoteReader | None:
        head = orjson.loads(await self._redis.get(head_key(stream_id)) or b"null")
        if head is None or head["owner"] != owner:
            return None
        reader = RemoteReader(self._redis, stream_id, head["replica"], after, self._reads)
        return reader if await reader.begins() else None

    async def cancel(self, stream_id: str, owner: str | None) -> dict[str, Any] | None:
        """Stop a stream that another replica answers; gives its receipt, None where nobody has such a stream."""
        reply = f"streamgauge:reply:{secrets.token_urlsafe(8)}"
        message = {"op": "cancel", "stream_id": stream_id, "owner": owner, "reply": reply}
        with suppress(*DOWN):
            async with asyncio.timeout(LAG_S + REPLY_S):
                await self._redis.publish(CONTROL, orjson.dumps(message))
                found = await self._redis.blpop([reply], timeout=REPLY_S)
            if found is not None:
                fields: dict[str, Any] = orjson.loads(found[1])
                return fields
        return None

    async def _reads(self, stream_id: str) -> None:
        await self._redis.publish(CONTROL, orjson.dumps({"op": "reads", "stream_id": stream_id}))

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            try:
                await self._copy()
            except DOWN as error:
                self._resync = True
                _log.warning("Redis cannot be written: %s", type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _copy(self) -> None:
        if self._resync:
            await self._look_what_is_there()
        self._more.clear()
        behind = list(self._behind.values())
        async with self._redis.pipeline(transaction=False) as pipe:
            for kept in behind:
                self._queue(pipe, kept)
            last = {kept.id: kept.last for kept in behind}
            await pipe.execute()
        self._written.update(last)
        for kept in behind:
            if kept.last == last[kept.id]:
                self._behind.pop(kept.id, None)

    def _queue(self, pipe: Any, kept: Kept) -> None:
        stream_id = kept.id
        key, written = entries_key(stream_id), self._written.get(stream_id, 0)
        lasts_s = int(KEPT_S) if kept.ended else _KEY_S
        if written == 0:
            head = {"owner": kept.owner, "replica": self._name}
            pipe.set(head_key(stream_id), orjson.dumps(head))
        for seq, name, data in kept.after(max(written, kept.first - 1)):
            pipe.xadd(key, {"n": name, "d": data}, id=f"{seq}-0", minid=f"{kept.first}-0")
        pipe.expire(key, lasts_s)
        pipe.expire(head_key(stream_id), lasts_s)

    async def _look_what_is_there(self) -> None:
        """Find out what Redis has of each stream: it may have been restarted, or a write may have been cut."""
        assert self._keeper is not None
        all_kept = self._keeper.all()
        async with self._redis.pipeline(transaction=False) as pipe:
            for kept in all_kept:
                pipe.xrevrange(entries_key(kept.id), count=1)
            newest = await pipe.execute()
        for kept, found in zip(all_kept, newest, strict=True):
            self._written[kept.id] = int(found[0][0].partition(b"-")[0]) if found else 0
            self._behind[kept.id] = kept
        self._resync = False

    async def _beat(self) -> None:
        """Show that this replica lives, and look whether Redis is still the one it was."""
        while True:
            with suppress(*DOWN):
                await self._redis.set(alive_key(self._name), b"1", ex=int(ALIVE_S))
                server = (await self._redis.info("server")).get("run_id")
                if server != self._server:
                    self._server, self._resync = server, True
                    self._more.set()
            await asyncio.sleep(BEAT_S)

    async def _hear(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CONTROL)
                    while True:
                        message = await channel.get_message(timeout=BEAT_S)
                        if message is not None:
                            await self._heard(orjson.loads(message["data"]))
            except DOWN:
                await asyncio.sleep(RETRY_S)

    async def _heard(self, message: dict[str, Any]) -> None:
        stream_id = message["stream_id"]
        if message["op"] == "reads":
            assert self._keeper is not None
            self._keeper.heard_of(stream_id)
            return
        stream = self._streams.get(stream_id, message["owner"])
        if stream is not None and await stream.cancel():
            fields = {"stream_id": stream_id, **cancelled_fields(stream.receipt())}
            await self._redis.rpush(message["reply"], orjson.dumps(fields))
            await self._redis.expire(message["reply"], 30)
