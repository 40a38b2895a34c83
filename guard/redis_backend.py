"""Optional Redis backend that shares counters between replicas. While Redis is down, each process counts locally."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from settings import DEFAULT_REDIS_TIMEOUT_S
from streaming.clock import Clock
from streaming.errors import UsageError

T = TypeVar("T")

RETRY_AFTER_S = 2.0
"""The backoff in seconds after a Redis failure. Then a single call checks whether Redis is available again."""

_log = logging.getLogger(__name__)


class OptionalRedis:
    """A Redis client that tolerates outages and connects at the first call.

    `timeout_s` applies to a connection and to each command. Raises UsageError for an invalid URL.
    """

    def __init__(self, url: str, clock: Clock, timeout_s: float = DEFAULT_REDIS_TIMEOUT_S) -> None:
        try:
            if not url.startswith(("redis://", "rediss://")):
                raise ValueError(url)
            pool: Any = BlockingConnectionPool.from_url(
                url,
                max_connections=32,
                timeout=timeout_s,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # The message does not include the URL, which may contain a password.
            raise UsageError("REDIS_URL: not the address of a Redis server (write redis://HOST:PORT/0)") from None
        self.redis = Redis(connection_pool=pool)
        self.limiter = MovingWindowRateLimiter(
            RedisStorage(url, implementation="redispy", key_prefix="guard", connection_pool=pool)
        )
        self._pool = pool
        self._clock = clock
        self._down = False
        self._again_s = 0.0
        self._under_way: set[asyncio.Task[Any]] = set()

    async def call(self, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Run `work` against Redis and return its result, or `otherwise` if Redis fails or the backoff is active.

        Redis and connection errors are never raised.
        """
        return await asyncio.shield(self.start(work, otherwise))

    def start(self, work: Callable[[], Awaitable[T]], otherwise: T) -> asyncio.Task[T]:
        """Start `work` as a task that continues if its caller is cancelled.

        The outcome of an interrupted Redis command would be unknown.
        """
        task = asyncio.create_task(self._run(work, otherwise))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def aclose(self) -> None:
        """Wait for running tasks and close the connections."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._pool.aclose()

    async def _run(self, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        if self._down:
            if self._clock() < self._again_s:
                return otherwise
            self._again_s = self._clock() + RETRY_AFTER_S
        try:
            done = await work()
        except (RedisError, OSError, TimeoutError) as error:
            self._again_s = self._clock() + RETRY_AFTER_S
            if not self._down:
                _log.warning("Redis does not respond (%s): this process counts alone", type(error).__name__)
            self._down = True
            return otherwise
        if self._down:
            _log.warning("Redis responds again: the replicas count together")
        self._down = False
        return done
