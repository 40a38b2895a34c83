"""The sliding window: how many, how long to wait, and how much is remembered."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse

from guard.rate_limit import RateLimiter, SlidingWindows
from guard.rejection import RejectionError


def test_rate_window_slides() -> None:
    windows = SlidingWindows(10, 60.0)
    assert [windows.hit("a", 59.0) for _ in range(10)] == [0.0] * 10
    assert [windows.hit("a", 61.0) for _ in range(10)] == [58.0] * 10, "a new minute is not a new window"
    assert windows.hit("a", 119.0) == 0.0


def test_hit_is_admitted_when_oldest_expires() -> None:
    windows = SlidingWindows(2, 60.0)
    windows.hit("a", 0.0)
    windows.hit("a", 30.0)
    assert windows.wait_s("a", 59.5) == 0.5
    assert windows.hit("a", 60.0) == 0.0
    assert windows.wait_s("a", 60.0) == 30.0
    assert windows.hit("b", 60.0) == 0.0, "others are others"


@given(st.lists(st.floats(0, 20), max_size=80), st.integers(1, 5))
def test_any_window_admits_at_most_the_limit(gaps: list[float], amount: int) -> None:
    windows, now, let_in = SlidingWindows(amount, 60.0), 0.0, []
    for gap in gaps:
        now += gap
        wait_s = windows.wait_s("a", now)
        if windows.hit("a", now) == 0.0:
            let_in.append(now)
        else:
            assert wait_s > 0
            assert windows.wait_s("a", now + wait_s + 1e-6) == 0.0, "who waits so long is let in"
    for moment in let_in:
        assert sum(moment <= other < moment + 60.0 for other in let_in) <= amount


def test_million_callers_use_bounded_memory() -> None:
    windows = SlidingWindows(10, 60.0, callers=1000)
    for number in range(1_000_000):
        windows.hit(str(number), number * 1e-6)
    assert len(windows) == 1000


def test_idle_callers_are_evicted() -> None:
    windows = SlidingWindows(10, 60.0)
    for number in range(500):
        windows.hit(str(number), 0.0)
    for number in range(500):
        windows.hit("late", 100.0 + 7 * number)
    assert len(windows) == 1


class AdjustableClock:
    """A clock that a test turns."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def count_admitted(limit: RateLimiter, name: str, count: int) -> int:
    results = await asyncio.gather(*(limit.hit(name) for _ in range(count)), return_exceptions=True)
    assert all(result is None or isinstance(result, RejectionError) for result in results)
    return results.count(None)


def test_fifty_concurrent_hits_admit_ten() -> None:
    assert asyncio.run(count_admitted(RateLimiter(parse("10/minute"), AdjustableClock(), None), "a", 50)) == 10


def test_rate_rejection_has_retry_after() -> None:
    hand = AdjustableClock()
    limit = RateLimiter(parse("2/hour"), hand, None)

    async def main() -> None:
        assert await count_admitted(limit, "a", 2) == 2
        hand.now += 12.25
        with pytest.raises(
            RejectionError, match=r"^rate limit: more than 2 requests in an hour \(ask again in 3588 s\)$"
        ) as excinfo:
            await limit.hit("a")
        rejection = excinfo.value
        assert (rejection.rule, rejection.kind, rejection.status, rejection.retry_after_s) == (
            "rate",
            "rate_limited",
            429,
            3588,
        )
        hand.now += 3588
        await limit.hit("a")

    asyncio.run(main())
