"""A time limit that moves with every event: one timer for a whole stream, where a scope for each event costs as much as
decoding it."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from streaming.clock import Clock

T = TypeVar("T")


class DeadlineExceededError(Exception):
    """What was waited for did not come in time; unlike TimeoutError nobody else raises it."""


class Deadline:
    """Ends what a task waits for once `clock`, which has the running loop's timebase, comes to `due_s`.

    It belongs to the task that makes it. Outside `wait` nothing is ended. `close` gives the timer back.
    """

    def __init__(self, clock: Clock, due_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # only a task waits
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._due_s = due_s
        self._armed_s = due_s
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = self._expired = False

    def reschedule(self, due_s: float) -> None:
        """Set another moment."""
        self._due_s = due_s
        if self._timer is not None and due_s < self._armed_s:
            self.close()

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait at most until it is due. Raises DeadlinePassed."""
        if self._timer is None:
            self._schedule()
        cancelling = self._task.cancelling()
        self._waiting = True
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._expired and self._task.uncancel() <= cancelling:
                raise DeadlineExceededError from None
            raise
        finally:
            self._waiting = False

    def close(self) -> None:
        """Give the timer back; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._armed_s = self._due_s
        self._timer = self._loop.call_at(self._due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._clock() < self._due_s:
            self._schedule()
        elif self._waiting:
            self._expired = True
            self._task.cancel()
