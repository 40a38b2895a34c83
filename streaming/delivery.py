"""Delivery of a live stream through a strategy, with one pump task, one bounded inbox and one timer."""

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
"""Events that arrive this soon after a call of the sink are left to the reader's task, which delivers them together."""

EventSink = Callable[[list[Event]], Awaitable[None]]
"""Receives the events that are due to a reader. While a call is pending, nothing more is read from the source."""


class Delivery:
    """The delivery of one answer to one reader: an async iterator of events that its owner closes (`aclosing`).

    The pump reads `source` in a separate task, so that timeouts and closing work while the reader is busy. A reader
    that stops reading stops the pump after 256 events; a busy sink stops it at once. `clock` must have the timebase of
    the running loop. Closing, from any task, ends the source and waits until it has ended.
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
        """True when no more events will follow: the terminal event was returned, or the delivery was closed."""

    def __aiter__(self) -> "Delivery":
        return self

    async def __anext__(self) -> Event:
        if not self._out:
            self._out.extend(await self.next_batch())
        if not self._out:
            raise StopAsyncIteration
        return self._out.popleft()

    async def next_batch(self, timeout_s: float | None = None, sink: EventSink | None = None) -> list[Event]:
        """Wait for the next events and return all that are due; adjacent deltas are not merged.

        Returns an empty list after `timeout_s` without an event (so that the caller can send a keep-alive), and when
        `ended`. If there is a `sink`, events that become due during the wait may go to it in the pump's task: waking
        the reader's task for each event costs as much as the rest of its processing. The terminal event, and events
        that a strategy held until a set time, are always returned and never go to the sink.
        """
        if self._pump is None and not self.ended:
            self._pump = asyncio.create_task(self._run_pump())
        began_s = self._clock()
        while not self.ended:
            if self._taking:
                await self._wait_for_events(sink)
                continue
            # Skip the strategy when nothing arrived and nothing is held. That happens once for every event.
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
        """Close the source and wait until it has ended, also when another task is already closing it."""
        self._mark_ended()
        self._out.clear()
        _resolve_future(self._reader)
        if self._pump is not None:
            if not self._stopping:
                # Cancel only once: a second cancellation would interrupt the source's cleanup.
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
        """Wake the reader at `due_s` or earlier. A timer that fires too early costs less than a new one per event."""
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
        """Send the due events to the sink while the reader waits, unless the reader has already been woken."""
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
                _resolve_future(self._reader)  # a new wait began during the call and left the events to this method
        self._set_timer(self._strategy.wake_at)

    def _raise_source_error(self, pump: "asyncio.Task[None]") -> NoReturn:
        self._mark_ended()
        pump.result()
        raise GrammarError("source: ended with neither Finish nor Failed")


def _resolve_future(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
