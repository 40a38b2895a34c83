"""Several replicas as one service, through Redis: any of them continues or stops a stream of any other.

A replica copies what it keeps to Redis Streams in the background: its own readers never wait for Redis. When Redis was
away, or came back without what it had, what is missing there is written again, under the same numbers.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from server.streams.active import ActiveAnswers
from server.streams.buffer import RETENTION_S, BufferedStream, StreamGoneError, StreamStore
from server.streams.events import TERMINAL_EVENTS, WireEvent, WireEventSink, cancelled_fields, unknown_receipt_fields
from streaming.events import Failed

POLL_INTERVAL_S = 5.0
"""How long one look at Redis waits for more, and how often the writer is told that somebody reads."""
WRITER_TIMEOUT_S = 30.0
"""How long Redis may be away before the stream is given up."""
REDIS_ERRORS = (RedisError, OSError)

_WRITER_LOST = Failed("lost", "the server that wrote this answer is gone: ask again")


def entries_key(stream_id: str) -> str:
    """Where a stream's entries stand."""
    return f"streamgauge:stream:{stream_id}:entries"


def metadata_key(stream_id: str) -> str:
    """Where it stands whose stream it is, and who writes it."""
    return f"streamgauge:stream:{stream_id}:head"


def heartbeat_key(replica: str) -> str:
    """What a living replica renews."""
    return f"streamgauge:replica:{replica}"


class RedisStreamReader:
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

    async def open(self) -> bool:
        """Say whether the stream has come to that number; `ended` when nothing comes after it.

        Raises Gone when what comes after it is no longer kept.
        """
        key = entries_key(self._id)
        oldest = _parse_entries(await self._redis.xrange(key, count=1))
        newest = _parse_entries(await self._redis.xrevrange(key, count=1))
        if not newest or newest[0][0] < self._seq:
            return False
        if oldest[0][0] > self._seq + 1:
            raise StreamGoneError(f"the stream is no longer kept from {self._seq + 1} on")
        self.ended = newest[0][0] == self._seq and newest[0][1] in TERMINAL_EVENTS
        return True

    async def next_batch(self, timeout_s: float | None = None, sink: WireEventSink | None = None) -> list[WireEvent]:
        """Give what is there beyond what was given, waiting for it; empty after `timeout_s`."""
        left_s = timeout_s
        while not self.ended:
            look_s = POLL_INTERVAL_S if left_s is None else min(POLL_INTERVAL_S, left_s)
            if entries := await self._poll(look_s):
                self._seq = entries[-1][0]
                self.ended = entries[-1][1] in TERMINAL_EVENTS
                return entries
            if left_s is not None and (left_s := left_s - look_s) <= 0:
                break
        return []

    async def aclose(self) -> None:
        self.ended = True

    async def _poll(self, look_s: float) -> list[WireEvent]:
        try:
            key = entries_key(self._id)
            await self._notify_writer()
            found: Any = await self._redis.xread({key: f"{self._seq}-0"}, block=max(1, int(look_s * 1000)))
            self._away_s = 0.0
            if found:
                return _parse_entries(found[0][1])
            if await self._redis.exists(heartbeat_key(self._replica)):
                return []
        except REDIS_ERRORS:
            await asyncio.sleep(1.0)
            self._away_s += 1.0
            if self._away_s < WRITER_TIMEOUT_S:
                return []
        return [(self._seq + 1, "error", unknown_receipt_fields(_WRITER_LOST))]

    async def _notify_writer(self) -> None:
        """Say that somebody reads, not for every entry: all replicas hear it."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._tell_at_s:
            await self._reads(self._id)
            self._tell_at_s = now_s + POLL_INTERVAL_S


def _parse_entries(found: Any) -> list[WireEvent]:
    return [(int(at.partition(b"-")[0]), fields[b"n"].decode(), fields[b"d"]) for at, fields in found]


CONTROL_CHANNEL = "streamgauge:control"
HEARTBEAT_INTERVAL_S = 5.0
HEARTBEAT_TTL_S = 15.0
"""How long a replica is taken to live after its last sign of life."""
REPLY_TIMEOUT_S = 2.0
"""How long an answer from another replica is waited for."""
RETRY_INTERVAL_S = 1.0
MAX_COPY_LAG_S = 1.0
"""How long a copy may be behind what a reader has already seen."""
_COPY_INTERVAL_S = 0.05
_KEY_TTL_S = 900
"""How long Redis keeps what is still written; longer than any answer lasts."""

_MAX_CONNECTIONS = 2**16
"""Each reader of another replica's stream waits on one of its own: the library's 100 would turn the next away."""

_log = logging.getLogger(__name__)


class StreamReplication:
    """This process's part: copies the keeper's streams, hears the other replicas, reads and stops their streams."""

    def __init__(self, url: str, streams: ActiveAnswers) -> None:
        self._streams = streams
        self._store: StreamStore | None = None
        self._redis = redis.Redis.from_url(
            url,
            protocol=2,
            max_connections=_MAX_CONNECTIONS,
            socket_connect_timeout=1.0,
            socket_timeout=2 * HEARTBEAT_INTERVAL_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._name = secrets.token_urlsafe(8)
        self._written: dict[str, int] = {}
        self._behind: dict[str, BufferedStream] = {}
        self._more = asyncio.Event()
        self._resync = True
        self._server: object = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, store: StreamStore) -> None:
        """Begin to copy and to listen."""
        self._store = store
        self._tasks = [
            asyncio.create_task(work()) for work in (self._run_writer, self._run_listener, self._run_heartbeat)
        ]

    async def aclose(self) -> None:
        """Write what is still to be written, then go."""
        with suppress(TimeoutError, *REDIS_ERRORS):
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await self._copy_pending()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._redis.aclose()

    def on_append(self, kept: BufferedStream) -> None:
        """There is more of it; the keeper says so, and does not wait."""
        self._behind[kept.id] = kept
        self._more.set()

    def on_remove(self, kept: BufferedStream) -> None:
        """It is no longer kept here; Redis forgets it by itself."""
        self._behind.pop(kept.id, None)
        self._written.pop(kept.id, None)

    async def reader(self, stream_id: str, owner: str | None, after: int) -> RedisStreamReader | None:
        """Give a reader of another replica's stream, None where there is none of that owner, or Redis is away.

        Raises Gone when the entries after that one are no longer kept.
        """
        until_s = self._streams.clock() + MAX_COPY_LAG_S
        with suppress(*REDIS_ERRORS):
            async with asyncio.timeout(MAX_COPY_LAG_S + REPLY_TIMEOUT_S):
                while True:
                    found = await self._find_reader(stream_id, owner, after)
                    if found is not None or self._streams.clock() >= until_s:
                        return found
                    await asyncio.sleep(_COPY_INTERVAL_S)
        return None

    async def _find_reader(self, stream_id: str, owner: str | None, after: int) -> RedisStreamReader | None:
        head = orjson.loads(await self._redis.get(metadata_key(stream_id)) or b"null")
        if head is None or head["owner"] != owner:
            return None
        reader = RedisStreamReader(self._redis, stream_id, head["replica"], after, self._announce_reader)
        return reader if await reader.open() else None

    async def cancel(self, stream_id: str, owner: str | None) -> dict[str, Any] | None:
        """Stop a stream that another replica answers; gives its receipt, None where nobody has such a stream."""
        reply = f"streamgauge:reply:{secrets.token_urlsafe(8)}"
        message = {"op": "cancel", "stream_id": stream_id, "owner": owner, "reply": reply}
        with suppress(*REDIS_ERRORS):
            async with asyncio.timeout(MAX_COPY_LAG_S + REPLY_TIMEOUT_S):
                await self._redis.publish(CONTROL_CHANNEL, orjson.dumps(message))
                found = await self._redis.blpop([reply], timeout=REPLY_TIMEOUT_S)
            if found is not None:
                fields: dict[str, Any] = orjson.loads(found[1])
                return fields
        return None

    async def _announce_reader(self, stream_id: str) -> None:
        await self._redis.publish(CONTROL_CHANNEL, orjson.dumps({"op": "reads", "stream_id": stream_id}))

    async def _run_writer(self) -> None:
        while True:
            await self._more.wait()
            try:
                await self._copy_pending()
            except REDIS_ERRORS as error:
                self._resync = True
                _log.warning("Redis cannot be written: %s", type(error).__name__)
                await asyncio.sleep(RETRY_INTERVAL_S)

    async def _copy_pending(self) -> None:
        if self._resync:
            await self._resync_positions()
        self._more.clear()
        behind = list(self._behind.values())
        async with self._redis.pipeline(transaction=False) as pipe:
            for kept in behind:
                self._queue_writes(pipe, kept)
            last = {kept.id: kept.last_seq for kept in behind}
            await pipe.execute()
        self._written.update(last)
        for kept in behind:
            if kept.last_seq == last[kept.id]:
                self._behind.pop(kept.id, None)

    def _queue_writes(self, pipe: Any, kept: BufferedStream) -> None:
        stream_id = kept.id
        key, written = entries_key(stream_id), self._written.get(stream_id, 0)
        lasts_s = int(RETENTION_S) if kept.ended else _KEY_TTL_S
        if written == 0:
            head = {"owner": kept.owner, "replica": self._name}
            pipe.set(metadata_key(stream_id), orjson.dumps(head))
        for seq, name, data in kept.events_after(max(written, kept.first_seq - 1)):
            pipe.xadd(key, {"n": name, "d": data}, id=f"{seq}-0", minid=f"{kept.first_seq}-0")
        pipe.expire(key, lasts_s)
        pipe.expire(metadata_key(stream_id), lasts_s)

    async def _resync_positions(self) -> None:
        """Find out what Redis has of each stream: it may have been restarted, or a write may have been cut."""
        assert self._store is not None
        all_kept = self._store.streams()
        async with self._redis.pipeline(transaction=False) as pipe:
            for kept in all_kept:
                pipe.xrevrange(entries_key(kept.id), count=1)
            newest = await pipe.execute()
        for kept, found in zip(all_kept, newest, strict=True):
            self._written[kept.id] = int(found[0][0].partition(b"-")[0]) if found else 0
            self._behind[kept.id] = kept
        self._resync = False

    async def _run_heartbeat(self) -> None:
        """Show that this replica lives, and look whether Redis is still the one it was."""
        while True:
            with suppress(*REDIS_ERRORS):
                await self._redis.set(heartbeat_key(self._name), b"1", ex=int(HEARTBEAT_TTL_S))
                server = (await self._redis.info("server")).get("run_id")
                if server != self._server:
                    self._server, self._resync = server, True
                    self._more.set()
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    async def _run_listener(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CONTROL_CHANNEL)
                    while True:
                        message = await channel.get_message(timeout=HEARTBEAT_INTERVAL_S)
                        if message is not None:
                            await self._handle_message(orjson.loads(message["data"]))
            except REDIS_ERRORS:
                await asyncio.sleep(RETRY_INTERVAL_S)

    async def _handle_message(self, message: dict[str, Any]) -> None:
        stream_id = message["stream_id"]
        if message["op"] == "reads":
            assert self._store is not None
            self._store.touch(stream_id)
            return
        stream = self._streams.get(stream_id, message["owner"])
        if stream is not None and await stream.cancel():
            fields = {"stream_id": stream_id, **cancelled_fields(stream.receipt())}
            await self._redis.rpush(message["reply"], orjson.dumps(fields))
            await self._redis.expire(message["reply"], 30)
