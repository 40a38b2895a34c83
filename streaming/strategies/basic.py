"""The strategies that depend only on time: direct, whole, batch and debounce."""

import math

from streaming.events import TERMINAL, Event, TextDelta
from streaming.strategies.base import DELTAS, DeltaBuffer

DEBOUNCE_LIMIT = 10


class Direct:
    """The strategy that releases every delta at once."""

    max_hold_s = 0.0
    wake_at: float | None = None

    def __init__(self) -> None:
        self.name = "direct"

    def feed(self, event: Event, now: float) -> list[Event]:
        return [event]

    def wake(self, now: float) -> list[Event]:
        return []


class Whole:
    """The strategy that releases all text at the end, as a response without streaming does."""

    max_hold_s = math.inf
    wake_at: float | None = None

    def __init__(self) -> None:
        self.name = "whole"
        self._held = DeltaBuffer()

    def feed(self, event: Event, now: float) -> list[Event]:
        if isinstance(event, DELTAS):
            self._held.add(event)
            return []
        if isinstance(event, TERMINAL):
            return [*self._held.drain(), event]
        return [event]

    def wake(self, now: float) -> list[Event]:
        return []


class Batch:
    """The strategy that releases the first text at once, then at most one update every `interval_s`.

    Text that is still held at the end is released with the terminal event.
    """

    def __init__(self, interval_s: float) -> None:
        self.name = f"batch:{format_ms(interval_s)}"
        self.max_hold_s = interval_s
        self._held = DeltaBuffer()
        self._next_s = -math.inf
        self._text_seen = False

    @property
    def wake_at(self) -> float | None:
        return self._next_s if self._held else None

    def feed(self, event: Event, now: float) -> list[Event]:
        if isinstance(event, TERMINAL):
            return [*self._held.drain(), event]
        if not isinstance(event, DELTAS):
            return [event]
        self._held.add(event)
        first = not self._text_seen and isinstance(event, TextDelta)
        self._text_seen = self._text_seen or first
        return self.wake(now) if first or now >= self._next_s else []

    def wake(self, now: float) -> list[Event]:
        self._next_s = now + self.max_hold_s
        return self._held.drain()


class Debounce:
    """The strategy that releases text after `quiet_s` without new text.

    No text is held longer than 10 x `quiet_s`.
    """

    def __init__(self, quiet_s: float) -> None:
        self.name = f"debounce:{format_ms(quiet_s)}"
        self.max_hold_s = DEBOUNCE_LIMIT * quiet_s
        self._quiet_s = quiet_s
        self._held = DeltaBuffer()
        self._oldest_s = 0.0
        self._newest_s = 0.0

    @property
    def wake_at(self) -> float | None:
        return min(self._newest_s + self._quiet_s, self._oldest_s + self.max_hold_s) if self._held else None

    def feed(self, event: Event, now: float) -> list[Event]:
        if isinstance(event, TERMINAL):
            return [*self._held.drain(), event]
        if not isinstance(event, DELTAS):
            return [event]
        if not self._held:
            self._oldest_s = now
        self._newest_s = now
        self._held.add(event)
        return []

    def wake(self, now: float) -> list[Event]:
        return self._held.drain()


def format_ms(seconds: float) -> str:
    """Return an interval as strategy names write it: `100ms`."""
    return f"{seconds * 1000:g}ms"
