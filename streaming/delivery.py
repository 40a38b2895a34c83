"""Drives a strategy over a live stream: one pump, one bounded inbox, one timer."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import NoReturn

from streaming.clock import Clock
from streaming.events import TERMINAL, Event, GrammarError
from streaming.strategies import Strategy

QUEUE_SIZE = 256

COALESCE_S = 0.001
"""What comes so soon after something that was handed over waits for the reader's turn, and so for what follows."""

EventSink = Callable[[list[Event]], Awaitable[None]]
"""Takes what is due to a reader; where that is slow, nothing more is read until it has been taken."""


class Delivery:
    """An answer on its way to one reader: an async iterator of events that its owner closes (`aclosing`).

    The pump reads `source` in a task of its own, so that timeouts and closing work while the reader is busy; a reader
    that stops reading stops the pump after 256 events, a taker that is busy at once. `clock` has the timebase of the
    running loop. Closing, from any task, ends the source and waits until it has ended.
    """

    def __init__(self, source: AsyncGenerator[Event, None], strategy: Strategy, clock: Clock) -> None:
        self._source = source
        self._strategy = strategy
        self._clock = clock
        self._inbox: deque[Event] = deque()
        self._out: deque[Event] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._space: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_s = math.inf
        self._sink: EventSink | None = None
        self._taking = False
        self._taken_s = -math.inf
        self._stopping = False
        self.ended = False
        """True when nothing more will come: the terminal event was given, or the delivery was closed."""

    def __aiter__(self) -> "Delivery":
        return self

    async def __anext__(self) -> Event:
        if not self._out:
            self._out.extend(await self.next_batch())
        if not self._out:
            raise StopAsyncIteration
        return self._out.popleft()

    async def next_batch(self, timeout_s: float | None = None, sink: EventSink | None = None) -> list[Event]:
        """Wait for the next events and give all that are due, joined by nothing but time.

        Empty after `timeout_s` without any (a moment for a clock tick or a keep-alive), and once `ended`. What becomes
        due while this waits may go to the `sink`, if there is one, in the pump's task: to wake the reader's for each
        event costs as much as all else about it. The terminal event is always given, so is what a strategy
        held until a time.
        """
        if self._pump is None and not self.ended:
            self._pump = asyncio.create_task(self._run_pump())
        began_s = self._clock()
        while not self.ended:
            if self._taking:
                await self._wait_for_events(sink)
                continue
            # Nothing came and nothing is held: no step is due, which is so once for every event.
            if (self._inbox or self._strategy.wake_at is not None) and (out := self._run_strategy(self._clock())):
                if isinstance(out[-1], TERMINAL):
                    self._mark_ended()
                return out
            if self._pump is not None and self._pump.done() and self._strategy.wake_at is None:
                self._raise_source_error(self._pump)
            until_s = None if timeout_s is None else max(began_s, self._taken_s) + timeout_s
            if until_s is not None and until_s <= self._clock():
                return []
            self._set_timer(self._strategy.wake_at)
            self._set_timer(until_s)
            await self._wait_for_events(sink)
        return []

    async def aclose(self) -> None:
        """Stop: the source is closed and has ended when this returns, also when another task closes it already."""
        self._mark_ended()
        self._out.clear()
        _resolve_future(self._reader)
        if self._pump is not None:
            if not self._stopping:
                # Once: a second one would break off the source's own cleaning up.
                self._stopping = True
                self._pump.cancel()
            await asyncio.wait([self._pump])
            if not self._pump.cancelled():
                self._pump.exception()
        await self._source.aclose()

    def _run_strategy(self, now: float) -> list[Event]:
        out: list[Event] = []
        strategy, inbox = self._strategy, self._inbox
        if (wake_at := strategy.wake_at) is not None and wake_at <= now:
            out += strategy.wake(now)
        while inbox:
            out += strategy.feed(inbox.popleft(), now)
        _resolve_future(self._space)
        return out

    async def _wait_for_events(self, sink: EventSink | None) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        self._sink = sink
        try:
            await self._reader
        finally:
            self._reader = self._sink = None

    def _set_timer(self, due_s: float | None) -> None:
        """Have the reader look again then. An alarm that rings too early costs less than a new one for every event."""
        if due_s is not None and due_s < self._rings_s:
            self._cancel_timer()
            self._rings_s = due_s
            self._alarm = asyncio.get_running_loop().call_at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._alarm, self._rings_s = None, math.inf
        _resolve_future(self._reader)

    def _cancel_timer(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm, self._rings_s = None, math.inf

    def _mark_ended(self) -> None:
        self.ended = True
        self._cancel_timer()

    async def _run_pump(self) -> None:
        try:
            async with aclosing(self._source) as source:
                async for event in source:
                    while len(self._inbox) >= QUEUE_SIZE:
                        self._space = asyncio.get_running_loop().create_future()
                        await self._space
                    self._inbox.append(event)
                    if self._sink is None or isinstance(event, TERMINAL):
                        _resolve_future(self._reader)
                    else:
                        await self._push_to_sink(self._sink)
        finally:
            _resolve_future(self._reader)

    async def _push_to_sink(self, sink: EventSink) -> None:
        """Let the taker have what is due to the reader, who waits, unless its own turn has come already."""
        reader, now = self._reader, self._clock()
        if now < self._taken_s + COALESCE_S:
            _resolve_future(reader)
        elif reader and not reader.done() and (out := self._run_strategy(now)):
            self._taken_s = now
            self._taking = True
            try:
                await sink(out)
            finally:
                self._taking = False
            if self._reader is not reader:
                _resolve_future(self._reader)  # it looked meanwhile, and left everything to this
        self._set_timer(self._strategy.wake_at)

    def _raise_source_error(self, pump: "asyncio.Task[None]") -> NoReturn:
        self._mark_ended()
        pump.result()
        raise GrammarError("the source ended with neither Finish nor Failed")


def _resolve_future(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
