"""Watches how late the event loop runs its timers: what the instrument itself may have added to a trial's stamps."""

import asyncio
import gc
from array import array

INTERVAL_S = 0.02
DISTURBED_LAG_S = 0.005
"""From this lag on, a stamp that waits for the event loop is called disturbed: a quarter of a usual gap, 20 ms."""


def is_disturbed(stamp_source: str | None, merged_reads: int | None, lag_s: float | None) -> bool | None:
    """Say whether the instrument itself may be in a trial's figures; None where that is not known.

    So it is where nothing was stamped, and where the stamps are not the kernel's and no lag was watched. The kernel's
    do not wait for this program: only reads that may have hidden some count. All others are late by the loop's worst
    lag, `lag_s` in seconds, at most.

    >>> is_disturbed("kernel", 0, 0.2), is_disturbed("kernel", 1, 0.0), is_disturbed("in-process", None, 0.02)
    (False, True, True)
    """
    if stamp_source is None:
        return None
    if merged_reads:
        return True
    if stamp_source == "kernel":
        return False
    return None if lag_s is None else lag_s > DISTURBED_LAG_S


class LoopLagMonitor:
    """A light timer on the running loop, every 20 ms; `stop` ends it and gives the worst lateness in seconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst_s = 0.0
        self._due_s = 0.0
        self._timer = self._set_timer()

    def _set_timer(self) -> asyncio.TimerHandle:
        self._due_s = self._loop.time() + INTERVAL_S
        return self._loop.call_at(self._due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._worst_s = max(self._worst_s, self._loop.time() - self._due_s)
        self._timer = self._set_timer()

    def stop(self) -> float:
        """Give the worst lag seen; a timer that is overdue at this moment counts."""
        self._timer.cancel()
        self._worst_s = max(self._worst_s, self._loop.time() - self._due_s)
        return self._worst_s


class SharedLoopLagMonitor:
    """One such timer for any number of trials at once; `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lags_s = array("d")
        self._timer = self._set_timer()

    def mark(self) -> int:
        """Give the place in time from which `worst_s` counts."""
        return len(self._lags_s)

    def worst_s(self, mark: int) -> float:
        """Give the worst lag since, in seconds; a timer that is overdue at this moment counts."""
        return max(0.0, self._loop.time() - self._timer.when(), *self._lags_s[mark:])

    def close(self) -> None:
        self._timer.cancel()

    def _set_timer(self) -> asyncio.TimerHandle:
        return self._loop.call_later(INTERVAL_S, self._on_timer)

    def _on_timer(self) -> None:
        self._lags_s.append(self._loop.time() - self._timer.when())
        self._timer = self._set_timer()


_FULL_COLLECTION_EVERY = 1000
"""Collections of the middle generation to one of all: some millions of chunks."""
_DEFAULT_THRESHOLDS = gc.get_threshold()


def freeze_gc() -> None:
    """Freeze what is there; call it when the providers are imported and before anything is measured."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_DEFAULT_THRESHOLDS[:2], _FULL_COLLECTION_EVERY)


def unfreeze_gc() -> None:
    """Have the collector as it was."""
    gc.set_threshold(*_DEFAULT_THRESHOLDS)
    gc.unfreeze()
