"""A timeout that is rescheduled with every event.

It uses one timer for a whole stream: an `asyncio.timeout` scope for each event would cost as much as decoding it.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from streaming.clock import Clock

T = TypeVar("T")


class DeadlineExceededError(Exception):
    """The awaited result did not arrive in time. Unlike TimeoutError, no other code raises it."""


class Deadline:
    """A timeout that interrupts the current task's `wait` when `clock` reaches `due_s`.

    `clock` must have the running loop's timebase. The deadline belongs to the task that creates it and interrupts
    nothing outside `wait`. `close` cancels the timer.
    """

    def __init__(self, clock: Clock, due_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # only a task can be interrupted
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._due_s = due_s
        self._armed_s = due_s
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = self._expired = False

    def reschedule(self, due_s: float) -> None:
        """Move the deadline to `due_s`."""
        self._due_s = due_s
        if self._timer is not None and due_s < self._armed_s:
            self.close()

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait for `awaitable`, at most until the deadline. Raises DeadlineExceededError."""
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
        """Cancel the timer. Safe to call twice."""
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
