"""Replication of buffered streams through Redis: any replica can resume or cancel a stream of any other.

A replica copies its buffers to Redis Streams in the background, so its own readers never wait for Redis. After an
outage of Redis or a loss of its data, the missing events are written again under the same numbers.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from server.streams.active import ActiveAnswers
from server.streams.buffer import (
    DEFAULT_LIMITS,
    BufferedStream,
    StreamNotFoundError,
    StreamStore,
    StreamUnavailableError,
)
from server.streams.events import TERMINAL_EVENTS, WireEvent, WireEventSink, cancelled_fields, unknown_receipt_fields
from server.streams.replication_intervals import DEFAULT_INTERVALS, ReplicationIntervals
from server.tasks import end_tasks
from settings import DEFAULT_REDIS_TIMEOUT_S
from streaming.events import Failed

REDIS_ERRORS = (RedisError, OSError)

_WRITER_LOST = Failed("lost", "stream: the replica that wrote it does not respond (send the request again)")


def entries_key(stream_id: str) -> str:
    """Return the Redis key of a stream's events."""
    return f"streamgauge:stream:{stream_id}:entries"


def metadata_key(stream_id: str) -> str:
    """Return the Redis key of a stream's owner and of the replica that writes it."""
    return f"streamgauge:stream:{stream_id}:head"


def heartbeat_key(replica: str) -> str:
    """Return the Redis key that a running replica renews."""
    return f"streamgauge:replica:{replica}"


class RedisStreamReader:
    """A reader of another replica's stream after an event number. Closing the reader does not stop the stream."""

    def __init__(
        self,
        client: "redis.Redis",
        stream_id: str,
        replica: str,
        after: int,
        notify: Callable[[str], Awaitable[None]],
        intervals: ReplicationIntervals = DEFAULT_INTERVALS,
    ) -> None:
        self.ended = False
        self._redis = client
        self._id = stream_id
        self._replica = replica
        self._seq = after
        self._notify = notify
        self._intervals = intervals
        self._next_notice_s = 0.0
        self._outage_s = 0.0

    async def open(self) -> bool:
        """Return whether the stream has reached the event number; set `ended` when no events follow it.

        Raises StreamNotFoundError when the events after it are no longer buffered.
        """
        key = entries_key(self._id)
        oldest = _parse_entries(await self._redis.xrange(key, count=1))
        newest = _parse_entries(await self._redis.xrevrange(key, count=1))
        if not newest or newest[0][0] < self._seq:
            return False
        if oldest[0][0] > self._seq + 1:
            raise StreamNotFoundError(
                f"stream: the events from {self._seq + 1} on are no longer buffered (send the request again)"
            )
        self.ended = newest[0][0] == self._seq and newest[0][1] in TERMINAL_EVENTS
        return True

    async def next_batch(self, timeout_s: float | None = None, sink: WireEventSink | None = None) -> list[WireEvent]:
        """Wait for new events and return them; return an empty list after `timeout_s` and once `ended`."""
        left_s, interval_s = timeout_s, self._intervals.poll_s
        while not self.ended:
            poll_s = interval_s if left_s is None else min(interval_s, left_s)
            if entries := await self._poll(poll_s):
                self._seq = entries[-1][0]
                self.ended = entries[-1][1] in TERMINAL_EVENTS
                return entries
            if left_s is not None and (left_s := left_s - poll_s) <= 0:
                break
        return []

    async def aclose(self) -> None:
        self.ended = True

    async def _poll(self, poll_s: float) -> list[WireEvent]:
        try:
            key = entries_key(self._id)
            await self._notify_writer()
            streams: Any = await self._redis.xread({key: f"{self._seq}-0"}, block=max(1, int(poll_s * 1000)))
            self._outage_s = 0.0
            if streams:
                return _parse_entries(streams[0][1])
            if await self._redis.exists(heartbeat_key(self._replica)):
                return []
        except REDIS_ERRORS:
            await asyncio.sleep(1.0)
            self._outage_s += 1.0
            if self._outage_s < self._intervals.writer_timeout_s:
                return []
        return [(self._seq + 1, "error", unknown_receipt_fields(_WRITER_LOST))]

    async def _notify_writer(self) -> None:
        """Notify the writing replica that the stream is read, at most once per interval: every replica receives it."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._next_notice_s:
            await self._notify(self._id)
            self._next_notice_s = now_s + self._intervals.poll_s


def _parse_entries(entries: Any) -> list[WireEvent]:
    return [(int(at.partition(b"-")[0]), fields[b"n"].decode(), fields[b"d"]) for at, fields in entries]


CONTROL_CHANNEL = "streamgauge:control"
_COPY_INTERVAL_S = 0.05
_CANCEL_ATTEMPTS = 4
"""How often a cancellation is published: a replica that is connecting again to Redis misses what is published."""
_KEY_TTL_S = 900
"""How long Redis keeps a stream that is still being written; longer than any answer lasts."""

_MAX_CONNECTIONS = 2**16
"""The size of the connection pool. Each reader of another replica's stream blocks one connection, and the library's
default of 100 would reject the next reader.
"""

_log = logging.getLogger(__name__)


class StreamReplication:
    """The replication of this process: it copies buffers to Redis, and reads and cancels streams of other replicas."""

    def __init__(
        self,
        url: str,
        streams: ActiveAnswers,
        *,
        timeout_s: float = DEFAULT_REDIS_TIMEOUT_S,
        retention_s: float = DEFAULT_LIMITS.retention_s,
        intervals: ReplicationIntervals = DEFAULT_INTERVALS,
    ) -> None:
        self._streams = streams
        self._lookup_s = max(intervals.max_copy_lag_s, timeout_s)
        self._retention_s = retention_s
        self._intervals = intervals
        self._store: StreamStore | None = None
        self._redis = redis.Redis.from_url(
            url,
            protocol=2,
            max_connections=_MAX_CONNECTIONS,
            socket_connect_timeout=timeout_s,
            socket_timeout=2 * max(intervals.heartbeat_s, intervals.poll_s),
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
        """Start the tasks that copy to Redis, listen for messages, and send heartbeats."""
        self._store = store
        self._tasks = [
            asyncio.create_task(work()) for work in (self._run_writer, self._run_listener, self._run_heartbeat)
        ]

    async def aclose(self) -> None:
        """Write the events that are not yet in Redis, within a time limit, and close the connections."""
        with suppress(TimeoutError, *REDIS_ERRORS):
            async with asyncio.timeout(self._intervals.reply_timeout_s):
                await self._copy_pending()
        await end_tasks(self._tasks)
        await self._redis.aclose()

    def on_append(self, buffered: BufferedStream) -> None:
        """Schedule a copy of a buffer that has new events; does not wait for it."""
        self._behind[buffered.id] = buffered
        self._more.set()

    def on_remove(self, buffered: BufferedStream) -> None:
        """Stop copying a buffer that was removed; its copy in Redis expires."""
        self._behind.pop(buffered.id, None)
        self._written.pop(buffered.id, None)

    async def reader(self, stream_id: str, owner: str | None, after: int) -> RedisStreamReader | None:
        """Return a reader of another replica's stream, or None when that owner has none.

        Raises StreamNotFoundError when the events after `after` are no longer buffered, and StreamUnavailableError when
        Redis does not respond.
        """
        until_s = self._streams.clock() + self._lookup_s
        with _reporting_outages():
            async with asyncio.timeout(self._lookup_s + self._intervals.reply_timeout_s):
                while True:
                    entry_reader = await self._find_reader(stream_id, owner, after)
                    if entry_reader is not None or self._streams.clock() >= until_s:
                        return entry_reader
                    await asyncio.sleep(_COPY_INTERVAL_S)

    async def _find_reader(self, stream_id: str, owner: str | None, after: int) -> RedisStreamReader | None:
        head = orjson.loads(await self._redis.get(metadata_key(stream_id)) or b"null")
        if head is None or head["owner"] != owner:
            return None
        reader = RedisStreamReader(
            self._redis, stream_id, head["replica"], after, self._announce_reader, self._intervals
        )
        return reader if await reader.open() else None

    async def cancel(self, stream_id: str, owner: str | None) -> dict[str, Any] | None:
        """Cancel a stream of another replica and return the fields of its receipt; None when no replica has it.

        Raises StreamUnavailableError when Redis does not respond.
        """
        reply = f"streamgauge:reply:{secrets.token_urlsafe(8)}"
        message = orjson.dumps({"op": "cancel", "stream_id": stream_id, "owner": owner, "reply": reply})
        with _reporting_outages():
            async with asyncio.timeout(self._lookup_s + self._intervals.reply_timeout_s):
                for _ in range(_CANCEL_ATTEMPTS):
                    await self._redis.publish(CONTROL_CHANNEL, message)
                    timeout_s = self._intervals.reply_timeout_s / _CANCEL_ATTEMPTS
                    if response := await self._redis.blpop([reply], timeout=timeout_s):
                        fields: dict[str, Any] = orjson.loads(response[1])
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
                _log.warning("cannot write to Redis: %s", type(error).__name__)
                await asyncio.sleep(self._intervals.retry_s)

    async def _copy_pending(self) -> None:
        if self._resync:
            await self._resync_positions()
        self._more.clear()
        behind = list(self._behind.values())
        async with self._redis.pipeline(transaction=False) as pipe:
            for buffered in behind:
                self._queue_writes(pipe, buffered)
            last = {buffered.id: buffered.last_seq for buffered in behind}
            await pipe.execute()
        self._written.update(last)
        for buffered in behind:
            if buffered.last_seq == last[buffered.id]:
                self._behind.pop(buffered.id, None)

    def _queue_writes(self, pipe: Any, buffered: BufferedStream) -> None:
        stream_id = buffered.id
        key, written = entries_key(stream_id), self._written.get(stream_id, 0)
        ttl_s = max(1, int(self._retention_s)) if buffered.ended else _KEY_TTL_S
        if written == 0:
            head = {"owner": buffered.owner, "replica": self._name}
            pipe.set(metadata_key(stream_id), orjson.dumps(head))
        for seq, name, data in buffered.events_after(max(written, buffered.first_seq - 1)):
            pipe.xadd(key, {"n": name, "d": data}, id=f"{seq}-0", minid=f"{buffered.first_seq}-0")
        pipe.expire(key, ttl_s)
        pipe.expire(metadata_key(stream_id), ttl_s)

    async def _resync_positions(self) -> None:
        """Read from Redis the newest event number of each stream: Redis may have been restarted, or a write failed."""
        assert self._store is not None
        all_buffered = self._store.streams()
        async with self._redis.pipeline(transaction=False) as pipe:
            for buffered in all_buffered:
                pipe.xrevrange(entries_key(buffered.id), count=1)
            newest = await pipe.execute()
        for buffered, entry in zip(all_buffered, newest, strict=True):
            self._written[buffered.id] = int(entry[0][0].partition(b"-")[0]) if entry else 0
            self._behind[buffered.id] = buffered
        self._resync = False

    async def _run_heartbeat(self) -> None:
        """Renew this replica's heartbeat at each interval, and schedule a resync when Redis was restarted."""
        while True:
            with suppress(*REDIS_ERRORS):
                await self._redis.set(heartbeat_key(self._name), b"1", ex=int(self._intervals.heartbeat_ttl_s))
                server = (await self._redis.info("server")).get("run_id")
                if server != self._server:
                    self._server, self._resync = server, True
                    self._more.set()
            await asyncio.sleep(self._intervals.heartbeat_s)

    async def _run_listener(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CONTROL_CHANNEL)
                    while True:
                        message = await channel.get_message(timeout=self._intervals.heartbeat_s)
                        if message is not None:
                            await self._handle_message(orjson.loads(message["data"]))
            except REDIS_ERRORS:
                await asyncio.sleep(self._intervals.retry_s)

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


@contextmanager
def _reporting_outages() -> Iterator[None]:
    """Raise StreamUnavailableError for an error of Redis in the body of this context."""
    try:
        yield
    except REDIS_ERRORS:
        raise StreamUnavailableError(
            "stream: cannot be looked up now, because Redis does not respond (retry in a moment)"
        ) from None
