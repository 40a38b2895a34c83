"""The sliding window: how many, how long to wait, and how much is remembered."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse

from guard.rate_limit import RateLimit, Windows
from guard.refusal import Refusal


def test_the_window_slides() -> None:
    windows = Windows(10, 60.0)
    assert [windows.hit("a", 59.0) for _ in range(10)] == [0.0] * 10
    assert [windows.hit("a", 61.0) for _ in range(10)] == [58.0] * 10, "a new minute is not a new window"
    assert windows.hit("a", 119.0) == 0.0


def test_a_place_is_free_when_the_oldest_leaves() -> None:
    windows = Windows(2, 60.0)
    windows.hit("a", 0.0)
    windows.hit("a", 30.0)
    assert windows.wait_s("a", 59.5) == 0.5
    assert windows.hit("a", 60.0) == 0.0
    assert windows.wait_s("a", 60.0) == 30.0
    assert windows.hit("b", 60.0) == 0.0, "others are others"


@given(st.lists(st.floats(0, 20), max_size=80), st.integers(1, 5))
def test_never_more_than_the_limit_in_any_window(gaps: list[float], amount: int) -> None:
    windows, now, let_in = Windows(amount, 60.0), 0.0, []
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


def test_a_million_callers_take_bounded_memory() -> None:
    windows = Windows(10, 60.0, callers=1000)
    for number in range(1_000_000):
        windows.hit(str(number), number * 1e-6)
    assert len(windows) == 1000


def test_who_has_not_asked_for_a_window_is_forgotten() -> None:
    windows = Windows(10, 60.0)
    for number in range(500):
        windows.hit(str(number), 0.0)
    for number in range(500):
        windows.hit("late", 100.0 + 7 * number)
    assert len(windows) == 1


class Hand:
    """A clock that a test turns."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def let_in(limit: RateLimit, name: str, count: int) -> int:
    results = await asyncio.gather(*(limit.enter(name) for _ in range(count)), return_exceptions=True)
    assert all(result is None or isinstance(result, Refusal) for result in results)
    return results.count(None)


def test_fifty_at_once() -> None:
    assert asyncio.run(let_in(RateLimit(parse("10/minute"), Hand(), None), "a", 50)) == 10


def test_a_refusal_says_when_to_come_back() -> None:
    hand = Hand()
    limit = RateLimit(parse("2/hour"), hand, None)

    async def main() -> None:
        assert await let_in(limit, "a", 2) == 2
        hand.now += 12.25
        with pytest.raises(Refusal, match=r"^at most 2 questions in an hour: ask again in 3588 s$") as caught:
            await limit.enter("a")
        refusal = caught.value
        assert (refusal.rule, refusal.kind, refusal.status, refusal.retry_after_s) == (
            "rate",
            "rate_limited",
            429,
            3588,
        )
        hand.now += 3588
        await limit.enter("a")

    asyncio.run(main())
