"""Drives a strategy over recorded events: no loop, no waiting, the same output as live delivery at the same times."""

from collections.abc import Iterable, Iterator
from math import inf

from streaming.events import Timed
from streaming.strategies import Strategy


def replay(events: Iterable[Timed], strategy: Strategy) -> Iterator[Timed]:
    """Give what `strategy` delivers, and when, for `events` in order of time (any zero, seconds)."""
    feed = strategy.feed
    for timed in events:
        at_s = timed.at_s
        if (wake_at := strategy.wake_at) is not None and wake_at <= at_s:
            yield from _woken(strategy, at_s)
        for event in feed(timed.event, at_s):
            yield timed if event is timed.event else Timed(at_s, event)
    yield from _woken(strategy, inf)


def _woken(strategy: Strategy, until_s: float) -> Iterator[Timed]:
    while (at_s := strategy.wake_at) is not None and at_s <= until_s:
        for event in strategy.wake(at_s):
            yield Timed(at_s, event)
