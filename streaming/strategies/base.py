"""What every strategy is, and the buffer that most of them hold text in."""

from typing import Protocol

from streaming.events import Event, TextDelta, ThinkingDelta

Delta = TextDelta | ThinkingDelta
DELTAS = (TextDelta, ThinkingDelta)


class Strategy(Protocol):
    """What every strategy is; times are seconds on the caller's monotonic clock."""

    name: str
    max_hold_s: float

    @property
    def wake_at(self) -> float | None:
        """When `wake` is due, None while nothing is held back to a time."""

    def feed(self, event: Event, now: float) -> list[Event]:
        """Take an event that arrived; give what goes on now."""

    def wake(self, now: float) -> list[Event]:
        """Act on `wake_at`, called no earlier than it; give what goes on now."""


class DeltaBuffer:
    """Text held back, in order; neighbours of one kind are joined when they go."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []

    def __bool__(self) -> bool:
        return bool(self._deltas)

    def add(self, delta: Delta) -> None:
        self._deltas.append(delta)

    def drain(self) -> list[Event]:
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
