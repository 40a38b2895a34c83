"""Rate limiting with a sliding window per caller, in this process and, with Redis, across all replicas."""

import math
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from limits import RateLimitItem

from guard.rejection import RejectionError
from streaming.clock import Clock

if TYPE_CHECKING:
    from guard.redis_backend import OptionalRedis

MAX_CALLERS = 50_000


class SlidingWindows:
    """The timestamps of each caller's admitted requests, on one clock. It reads no clock: `now` is an argument.

    It tracks at most `callers` callers and evicts the one whose last admitted request is the oldest. An attacker with
    that many addresses gains nothing from the eviction; the budgets limit all callers together.
    """

    def __init__(self, amount: int, window_s: float, callers: int = MAX_CALLERS) -> None:
        self._amount = amount
        self._window_s = window_s
        self._callers = callers
        self._let_in: OrderedDict[str, list[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._let_in)

    def wait_s(self, caller: str, now: float) -> float:
        """Return the seconds until the caller may send a request, or 0 if it may send one now."""
        moments = self._let_in.get(caller, [])
        if len(moments) < self._amount:
            return 0.0
        return max(moments[-self._amount] + self._window_s - now, 0.0)

    def hit(self, caller: str, now: float) -> float:
        """Admit the request if the window allows it. Return the seconds to wait, or 0 if it was admitted."""
        wait_s = self.wait_s(caller, now)
        if wait_s > 0:
            return wait_s
        moments = self._let_in.setdefault(caller, [])
        moments.append(now)
        del moments[: -self._amount]
        self._let_in.move_to_end(caller)
        self._evict_old(now)
        return 0.0

    def _evict_old(self, now: float) -> None:
        # Evict up to two callers per hit: eviction keeps ahead of new callers, and the work per hit stays bounded.
        for _ in range(2):
            eldest, moments = next(iter(self._let_in.items()))
            if moments[-1] + self._window_s > now and len(self._let_in) <= self._callers:
                return
            if len(self._let_in) > 1:
                del self._let_in[eldest]


class RateLimiter:
    """A rate limiter with a sliding window of at most `limit` requests per name. Rejected requests do not count.

    With Redis, all replicas share one window (implemented by `limits`). Requests that it admits are also counted
    locally, so that the local window is up to date when Redis fails. The in-memory storage of `limits` is not used: it
    never evicts callers, and its clean-up visits all of them with a thread switch for each.
    """

    def __init__(
        self,
        limit: RateLimitItem,
        clock: Clock,
        shared: "OptionalRedis | None",
        *,
        what: str = "requests",
        advice: str = "ask again",
        rule: str = "rate",
    ) -> None:
        self._limit = limit
        self._what, self._advice, self._rule = what, advice, rule
        self._clock = clock
        self._shared = shared
        self._windows = SlidingWindows(limit.amount, limit.get_expiry())

    async def hit(self, name: str) -> None:
        """Count one request. Raises RejectionError, with the seconds to wait, when the limit is reached."""
        self._reject_if_limited(self._windows.wait_s(name, self._clock()))
        if self._shared is not None:
            self._reject_if_limited(await self._shared.call(lambda: self._hit_redis(name), 0.0))
        self._reject_if_limited(self._windows.hit(name, self._clock()))

    async def _hit_redis(self, name: str) -> float:
        assert self._shared is not None
        limiter = self._shared.limiter
        if await limiter.hit(self._limit, name):
            return 0.0
        free_at_s = (await limiter.get_window_stats(self._limit, name)).reset_time
        return max(free_at_s - datetime.now(UTC).timestamp(), 1.0)

    def _reject_if_limited(self, wait_s: float) -> None:
        if wait_s <= 0:
            return
        seconds = math.ceil(wait_s)
        span = _format_period(self._limit.get_expiry())
        message = f"rate limit: more than {self._limit.amount} {self._what} in {span} ({self._advice} in {seconds} s)"
        raise RejectionError(self._rule, "rate_limited", message, retry_after_s=seconds)


def _format_period(seconds: int) -> str:
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"a {name}".replace("a hour", "an hour") if seconds == size else f"{seconds // size} {name}s"
    return f"{seconds} s"
