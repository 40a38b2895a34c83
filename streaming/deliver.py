"""Drives a strategy over a live stream: one pump, one bounded inbox, one timer."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NoReturn

from streaming.clock import Clock
from streaming.events import TERMINAL, Event, GrammarError
from streaming.strategies import Strategy

INBOX_EVENTS = 256


class Delivery:
    """An answer on its way to one reader: an async iterator of events that its owner closes (`aclosing`).

    The pump reads `source` in a task of its own, so that timeouts and closing work while the reader is busy; a reader
    that stops reading stops the pump after 256 events. `clock` has the timebase of the running loop. Closing, from any
    task, ends the source and waits until it has ended.
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
        self._stopping = False
        self.ended = False
        """True when nothing more will come: the terminal event was given, or the delivery was closed."""

    def __aiter__(self) -> "Delivery":
        return self

    async def __anext__(self) -> Event:
        if not self._out:
            self._out.extend(await self.ready())
        if not self._out:
            raise StopAsyncIteration
        return self._out.popleft()

    async def ready(self, timeout_s: float | None = None) -> list[Event]:
        """Wait for the next events and give all that are due, joined by nothing but time.

        Empty after `timeout_s` without any (a moment for a clock tick or a keep-alive), and once `ended`.
        """
        if self._pump is None and not self.ended:
            self._pump = asyncio.create_task(self._run_pump())
        until_s = None if timeout_s is None else self._clock() + timeout_s
        while not self.ended:
            # Nothing came and nothing is held: no step is due, which is so once for every event.
            if (self._inbox or self._strategy.wake_at is not None) and (out := self._step()):
                if isinstance(out[-1], TERMINAL):
                    self._end()
                return out
            if self._pump is not None and self._pump.done() and self._strategy.wake_at is None:
                self._broken(self._pump)
            if until_s is not None and until_s <= self._clock():
                return []
            await self._wait(until_s)
        return []

    async def aclose(self) -> None:
        """Stop: the source is closed and has ended when this returns, also when another task closes it already."""
        self._end()
        self._out.clear()
        _wake(self._reader)
        if self._pump is not None:
            if not self._stopping:
                # Once: a second one would break off the source's own cleaning up.
                self._stopping = True
                self._pump.cancel()
            await asyncio.wait([self._pump])
            if not self._pump.cancelled():
                self._pump.exception()
        await self._source.aclose()

    def _step(self) -> list[Event]:
        now = self._clock()
        out: list[Event] = []
        strategy, inbox = self._strategy, self._inbox
        if (wake_at := strategy.wake_at) is not None and wake_at <= now:
            out += strategy.wake(now)
        while inbox:
            out += strategy.feed(inbox.popleft(), now)
        _wake(self._space)
        return out

    async def _wait(self, until_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        reader = self._reader = loop.create_future()
        wake_at = self._strategy.wake_at
        due_s = until_s if wake_at is None else wake_at if until_s is None else min(wake_at, until_s)
        # An alarm that rings too early costs less than a new one for every event: it is looked again.
        if due_s is not None and (self._alarm is None or self._alarm.when() > due_s):
            self._silence()
            self._alarm = loop.call_at(due_s, self._ring)
        try:
            await reader
        finally:
            self._reader = None

    def _ring(self) -> None:
        self._alarm = None
        _wake(self._reader)

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _end(self) -> None:
        self.ended = True
        self._silence()

    async def _run_pump(self) -> None:
        try:
            async with aclosing(self._source) as source:
                async for event in source:
                    while len(self._inbox) >= INBOX_EVENTS:
                        self._space = asyncio.get_running_loop().create_future()
                        await self._space
                    self._inbox.append(event)
                    _wake(self._reader)
        finally:
            _wake(self._reader)

    def _broken(self, pump: "asyncio.Task[None]") -> NoReturn:
        self._end()
        pump.result()
        raise GrammarError("the source ended with neither Finish nor Failed")


def _wake(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
