"""A stream played into several strategies at once, each at its own moments, however slowly it is looked at."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from streaming.clock import Clock
from streaming.events import TERMINAL, Event
from streaming.pipeline import Answer
from ui.sides import Side

See = Callable[[Sequence[Event], float], None]
"""Is told of what came, and when; also of nothing, when time alone has passed."""


class Play:
    """Feeds what an answer brings to its sides. `tick_s` is the longest time without a change.

    A task of its own does so: a browser that draws slowly makes no strategy late.
    """

    def __init__(self, answered: Answer, sides: Sequence[Side], clock: Clock, see: See, tick_s: float) -> None:
        self._answered = answered
        self._sides = sides
        self._clock = clock
        self._see = see
        self._tick_s = tick_s
        self._changed = asyncio.Event()

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield when something has changed; ends with the last side, or when the answer is stopped."""
        feeding = asyncio.create_task(self._feed())
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

    async def _feed(self) -> None:
        complete = False
        while not all(side.ended for side in self._sides):
            now = self._clock()
            due = [side.wake_at for side in self._sides if side.wake_at is not None]
            wait_s = max(min([*due, now + self._tick_s]) - now, 0.0)
            events: list[Event] = []
            if complete:
                # Nothing more arrives: what a strategy still holds goes at its own times.
                await asyncio.sleep(wait_s)
            else:
                events = await self._answered.ready(wait_s)
            complete = complete or any(isinstance(event, TERMINAL) for event in events)
            if self._answered.ended and not complete:
                return
            now = self._clock()
            self._see(events, now)
            for side in self._sides:
                side.step(events, now)
            self._changed.set()
