"""Drives a strategy over recorded events: no loop, no waiting, the same output as live delivery at the same times."""

from collections.abc import Iterable, Iterator

from streaming.events import TimedEvent
from streaming.strategies import Strategy


def replay(events: Iterable[TimedEvent], strategy: Strategy) -> Iterator[TimedEvent]:
    """Give what `strategy` delivers, and when, for `events` in order of time (any zero, seconds)."""
    for timed in events:
        at_s = timed.at_s
        while (wake_at := strategy.wake_at) is not None and wake_at <= at_s:
            for event in strategy.wake(wake_at):
                yield TimedEvent(wake_at, event)
        for event in strategy.feed(timed.event, at_s):
            yield timed if event is timed.event else TimedEvent(at_s, event)
    while (wake_at := strategy.wake_at) is not None:
        for event in strategy.wake(wake_at):
            yield TimedEvent(wake_at, event)
