"""One stream under several delivery strategies at once: each receives the same events at the same timestamps."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from streaming.clock import Clock
from streaming.events import TERMINAL, Event, TextDelta, TimedEvent
from streaming.strategies import Strategy
from ui.types import PageAnswer

_GRADIO_MESSAGE = {
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


def gradio_update_size(text: str) -> int:
    """Return the size in bytes of the server-sent event with which Gradio appends `text` in the browser."""
    output = {**_GRADIO_MESSAGE["output"], "data": [[["append", [], text]]]}  # type: ignore[dict-item]  # a mapping
    return len(f"data: {json.dumps({**_GRADIO_MESSAGE, 'output': output})}\n\n".encode())


@dataclass(frozen=True, slots=True)
class PaneStats:
    """Metrics of a strategy so far; delays are the buffering time per character in seconds, None before any text."""

    chunks: int
    updates: int
    sent_bytes: int
    delay_mean_s: float | None
    delay_max_s: float | None


class Pane:
    """A strategy with the events of a stream as input; `text` is the text released to the reader."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.text = ""
        self.ended = False
        self.arrived: list[tuple[float, int]] = []
        """Each chunk of text: timestamp, number of characters."""
        self.released: list[tuple[float, int]] = []
        """Each release of text: timestamp, number of characters."""
        self.holds: list[tuple[float, float, int]] = []
        """Runs of characters: timestamp of arrival, timestamp of release, number of characters."""
        self._held: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._delay_s = self._longest_s = 0.0

    @property
    def wake_at(self) -> float | None:
        """Timestamp at which `step` is due without an event; None if it is not."""
        return self.strategy.wake_at

    def step(self, events: Sequence[Event], now: float) -> bool:
        """Advance to `now` and feed the events that arrived then; return True if text was released."""
        out: list[Event] = []
        if self.wake_at is not None and self.wake_at <= now:
            out += self.strategy.wake(now)
        for event in events:
            if isinstance(event, TextDelta):
                self.arrived.append((now, len(event.text)))
                self._held.append(self.arrived[-1])
            out += self.strategy.feed(event, now)
        self.ended = self.ended or any(isinstance(event, TERMINAL) for event in out)
        text = "".join(event.text for event in out if isinstance(event, TextDelta))
        if text:
            self._add_released(text, now)
        return bool(text)

    def stats(self) -> PaneStats:
        """Return the metrics so far."""
        chars = len(self.text)
        mean_s = self._delay_s / chars if chars else None
        return PaneStats(len(self.arrived), len(self.released), self._bytes, mean_s, self._longest_s if chars else None)

    def _add_released(self, text: str, now: float) -> None:
        self.text += text
        self.released.append((now, len(text)))
        self._bytes += gradio_update_size(text)
        left = len(text)
        while left and self._held:
            arrived_s, chars = self._held.popleft()
            taken = min(left, chars)
            self.holds.append((arrived_s, now, taken))
            self._delay_s += taken * (now - arrived_s)
            self._longest_s = max(self._longest_s, now - arrived_s)
            left -= taken
            if chars > taken:
                self._held.appendleft((arrived_s, chars - taken))


def replay_pane(events: Sequence[TimedEvent], strategy: Strategy) -> Pane:
    """Return the pane that a strategy would have filled, had these events arrived at exactly their timestamps."""
    pane = Pane(strategy)
    for timed in events:
        _wake(pane, timed.at_s)
        pane.step([timed.event], timed.at_s)
    _wake(pane, float("inf"))
    return pane


def _wake(pane: Pane, until_s: float) -> None:
    while (wake_at := pane.wake_at) is not None and wake_at <= until_s:
        pane.step([], wake_at)


OnEvents = Callable[[Sequence[Event], float], None]
"""Called with the events that arrived and their timestamp; with no events when only time has passed."""


class PanePlayback:
    """Playback of an answer into several panes. `tick_s` is the longest time between two updates.

    A separate task feeds the panes, so that a slow browser does not delay a strategy.
    """

    def __init__(
        self, answer: PageAnswer, panes: Sequence[Pane], clock: Clock, on_events: OnEvents, tick_s: float
    ) -> None:
        self._answer = answer
        self._panes = panes
        self._clock = clock
        self._on_events = on_events
        self._tick_s = tick_s
        self._changed = asyncio.Event()
        self.received: list[TimedEvent] = []
        """The events that the panes have received, with the timestamps at which they did."""

    async def updates(self) -> AsyncGenerator[None, None]:
        """Yield after changes until all panes have ended or the answer is stopped."""
        feeding = asyncio.create_task(self._feed_panes())
        feeding.add_done_callback(lambda _: self._changed.set())
        try:
            while not feeding.done():
                await self._changed.wait()
                self._changed.clear()
                yield
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])
        feeding.result()

    async def _feed_panes(self) -> None:
        complete = False
        while not all(pane.ended for pane in self._panes):
            now = self._clock()
            due = [pane.wake_at for pane in self._panes if pane.wake_at is not None]
            wait_s = max(min([*due, now + self._tick_s]) - now, 0.0)
            events: list[Event] = []
            if complete:
                # No more events arrive: wait until a strategy releases the text that it still buffers.
                await asyncio.sleep(wait_s)
            else:
                events = await self._answer.next_events(wait_s)
            complete = complete or any(isinstance(event, TERMINAL) for event in events)
            if self._answer.ended and not complete:
                return
            now = self._clock()
            self.received += (TimedEvent(now, event) for event in events)
            self._on_events(events, now)
            for pane in self._panes:
                pane.step(events, now)
            self._changed.set()
