"""One stream under several delivery strategies at once: the same events, at the same moments. Pure."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from streaming.events import TERMINAL, Event, TextDelta
from streaming.strategies import Strategy

_ENVELOPE = {
    "msg": "process_generating",
    "event_id": "0" * 32,
    "output": {
        "data": [],
        "is_generating": True,
        "duration": 0.001234567890123,
        "average_duration": 0.001234567890123,
        "render_config": None,
        "changed_state_ids": [],
    },
    "success": True,
    "time_limit": None,
}


def update_bytes(text: str) -> int:
    """Give the bytes by which Gradio tells the browser that `text` was appended: one server-sent event."""
    output = {**_ENVELOPE["output"], "data": [[["append", [], text]]]}  # type: ignore[dict-item]  # a mapping it is
    return len(f"data: {json.dumps({**_ENVELOPE, 'output': output})}\n\n".encode())


@dataclass(frozen=True, slots=True)
class Tally:
    """What a strategy made of the stream so far; delays are seconds a character was held, None before any text."""

    chunks: int
    updates: int
    sent_bytes: int
    delay_mean_s: float | None
    delay_max_s: float | None


class Side:
    """A strategy that is fed what a stream brings; `text` is what its reader sees."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.text = ""
        self.ended = False
        self.released: list[tuple[float, int]] = []
        """When text went on, and how many characters."""
        self._held: deque[tuple[float, int]] = deque()
        self._chunks = self._bytes = 0
        self._delay_s = self._longest_s = 0.0

    @property
    def wake_at(self) -> float | None:
        """When `step` is due without an event."""
        return self.strategy.wake_at

    def step(self, events: Sequence[Event], now: float) -> bool:
        """Let time pass to `now` and take what has arrived then; True when the reader sees more."""
        out: list[Event] = []
        if self.wake_at is not None and self.wake_at <= now:
            out += self.strategy.wake(now)
        for event in events:
            if isinstance(event, TextDelta):
                self._chunks += 1
                self._held.append((now, len(event.text)))
            out += self.strategy.feed(event, now)
        self.ended = self.ended or any(isinstance(event, TERMINAL) for event in out)
        text = "".join(event.text for event in out if isinstance(event, TextDelta))
        if text:
            self._release(text, now)
        return bool(text)

    def tally(self) -> Tally:
        """Give the figures so far."""
        chars = len(self.text)
        mean_s = self._delay_s / chars if chars else None
        return Tally(self._chunks, len(self.released), self._bytes, mean_s, self._longest_s if chars else None)

    def _release(self, text: str, now: float) -> None:
        self.text += text
        self.released.append((now, len(text)))
        self._bytes += update_bytes(text)
        left = len(text)
        while left and self._held:
            arrived_s, chars = self._held.popleft()
            taken = min(left, chars)
            self._delay_s += taken * (now - arrived_s)
            self._longest_s = max(self._longest_s, now - arrived_s)
            left -= taken
            if chars > taken:
                self._held.appendleft((arrived_s, chars - taken))
