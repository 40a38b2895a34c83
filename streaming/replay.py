"""Replay of recorded events through a strategy, without an event loop; the output equals that of live delivery."""

from collections.abc import Iterable, Iterator

from streaming.events import TimedEvent
from streaming.strategies import Strategy


def replay(events: Iterable[TimedEvent], strategy: Strategy) -> Iterator[TimedEvent]:
    """Yield the events that `strategy` delivers, with timestamps, for `events` in order of time (seconds, any zero)."""
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
