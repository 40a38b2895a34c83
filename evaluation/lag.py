"""Watches how late the event loop runs its timers: what the instrument itself may have added to a trial's stamps."""

import asyncio

INTERVAL_S = 0.02


class LagWatch:
    """A light timer on the running loop, every 20 ms; `stop` ends it and gives the worst lateness in seconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst_s = 0.0
        self._due_s = 0.0
        self._timer = self._set()

    def _set(self) -> asyncio.TimerHandle:
        self._due_s = self._loop.time() + INTERVAL_S
        return self._loop.call_at(self._due_s, self._ring)

    def _ring(self) -> None:
        self._worst_s = max(self._worst_s, self._loop.time() - self._due_s)
        self._timer = self._set()

    def stop(self) -> float:
        """Give the worst lag seen; a timer that is overdue at this moment counts."""
        self._timer.cancel()
        self._worst_s = max(self._worst_s, self._loop.time() - self._due_s)
        return self._worst_s
