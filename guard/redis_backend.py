"""Redis, where the replicas of a service count together; when it is down the work goes on without it, at once."""

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

from streaming.clock import Clock
from streaming.errors import UsageError

T = TypeVar("T")

TIMEOUT_S = 1.0
RETRY_AFTER_S = 2.0
"""How long Redis is left alone after a failure; then one call tries it for all."""

_log = logging.getLogger(__name__)


class OptionalRedis:
    """A Redis that may go and come back. Raises UsageError for an address that is none; connects at the first call."""

    def __init__(self, url: str, clock: Clock) -> None:
        try:
            if not url.startswith(("redis://", "rediss://")):
                raise ValueError(url)
            pool: Any = BlockingConnectionPool.from_url(
                url,
                max_connections=32,
                timeout=TIMEOUT_S,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # The address may hold a password: it is not repeated.
            raise UsageError("REDIS_URL is no address of a Redis: write redis://HOST:PORT/0") from None
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
        """Do work with Redis; return `otherwise` when Redis fails or is being left alone. Never raises for its sake."""
        return await asyncio.shield(self.start(work, otherwise))

    def start(self, work: Callable[[], Awaitable[T]], otherwise: T) -> asyncio.Task[T]:
        """Begin work that goes on when its caller is cancelled: a command cut off may have been done or not."""
        task = asyncio.create_task(self._run(work, otherwise))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def aclose(self) -> None:
        """Wait for what is under way, and close the connections."""
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
                _log.warning("Redis is not answering (%s): this process counts alone", type(error).__name__)
            self._down = True
            return otherwise
        if self._down:
            _log.warning("Redis answers again: the replicas count together")
        self._down = False
        return done
