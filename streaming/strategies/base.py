"""The strategy protocol, and the buffer in which most strategies hold text."""

from typing import Protocol

from streaming.events import Event, TextDelta, ThinkingDelta

Delta = TextDelta | ThinkingDelta
DELTAS = (TextDelta, ThinkingDelta)


class Strategy(Protocol):
    """A delivery strategy for one answer. Times are seconds on the caller's monotonic clock."""

    name: str
    max_hold_s: float

    @property
    def wake_at(self) -> float | None:
        """The time at which `wake` is due, or None while no held text has a set time."""

    def feed(self, event: Event, now: float) -> list[Event]:
        """Process an event that arrived at `now` and return the events to release."""

    def wake(self, now: float) -> list[Event]:
        """Return the events to release at `now`. The caller calls this no earlier than `wake_at`."""


class DeltaBuffer:
    """A buffer of held deltas, in order; `drain` joins adjacent deltas of the same kind."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []

    def __bool__(self) -> bool:
        return bool(self._deltas)

    def add(self, delta: Delta) -> None:
        """Append a delta."""
        self._deltas.append(delta)

    def drain(self) -> list[Event]:
        """Return all held deltas, with adjacent deltas of the same kind joined, and empty the buffer."""
        deltas, self._deltas = self._deltas, []
        if len(deltas) < 2:
            return [*deltas]
        out: list[Event] = []
        start = 0
        for i in range(1, len(deltas) + 1):
            if i == len(deltas) or type(deltas[i]) is not type(deltas[start]):
                run = deltas[start:i]
                out.append(run[0] if len(run) == 1 else type(run[0])("".join(d.text for d in run)))
                start = i
        return out
