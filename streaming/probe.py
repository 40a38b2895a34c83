"""Stamps events as they pass: `source` on arrival from the provider, `delivered` on leaving towards the reader."""

from streaming.clock import Clock
from streaming.events import Event, Timed


class Probe:
    """Keeps both stamps of one answer, in seconds on `clock`, in order; `called_s` is the moment of the call."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.called_s = clock()
        self.source: list[Timed] = []
        self.delivered: list[Timed] = []

    def on_source(self, event: Event) -> None:
        self.source.append(Timed(self._clock(), event))

    def on_delivered(self, event: Event) -> None:
        self.delivered.append(Timed(self._clock(), event))
