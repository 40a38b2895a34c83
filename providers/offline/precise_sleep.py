"""Sleeping until the times of a schedule, more precisely than an event loop's timers, which are up to 1 ms late."""

import asyncio

from streaming.clock import Clock

_SPIN_S = 0.001
_MAX_SPINNING_WAITERS = 4
"""How many concurrent waiters may poll the clock during the last millisecond; more would use too much CPU time."""


class PreciseSleeper:
    """A sleeper until absolute times of `clock`, so that delays do not add up.

    The clock must have the running loop's timebase.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting = 0

    async def sleep_until(self, due_s: float) -> None:
        """Wait until `due_s`, never less; return at once if it has passed."""
        self._waiting += 1
        try:
            if self._waiting <= _MAX_SPINNING_WAITERS:
                await self._sleep_on_timer(due_s - _SPIN_S)
                await self._spin_until(due_s)
            await self._sleep_on_timer(due_s)
        finally:
            self._waiting -= 1

    async def _spin_until(self, due_s: float) -> None:
        before_s = self._clock()
        while before_s < due_s:
            await asyncio.sleep(0)
            now_s = self._clock()
            if now_s <= before_s:
                # A virtual clock, as in tests, which only timers advance: polling it would never end.
                return
            before_s = now_s

    async def _sleep_on_timer(self, due_s: float) -> None:
        loop = asyncio.get_running_loop()
        while self._clock() < due_s:
            reached: asyncio.Future[None] = loop.create_future()
            timer = loop.call_at(due_s, _resolve_future, reached)
            try:
                await reached
            finally:
                timer.cancel()


def _resolve_future(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
