"""Measures the event loop's lag, which the instrument itself may add to a trial's timestamps."""

import asyncio
import gc
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL_S = 0.02
DISTURBED_LAG_S = 0.005
"""A trial whose timestamps depend on the event loop is disturbed above this lag: a quarter of a typical 20 ms gap."""


def is_disturbed(stamp_source: str | None, merged_reads: int | None, lag_s: float | None) -> bool | None:
    """Return whether the instrument itself may have distorted a trial's metrics; None if that is not known.

    It is not known without timestamps, or if the timestamps are not the kernel's and no lag was measured. Kernel
    timestamps do not depend on this process: only merged reads, which may hide some of them, count. All other
    timestamps are late by at most the event loop's worst lag, `lag_s` in seconds.

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
    """A timer that measures the event loop's lag for any number of concurrent trials until `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lags_s = array("d")
        self._timer = self._set_timer()

    def mark(self) -> int:
        """Return a mark; pass it to `worst_s` to get the worst lag since now."""
        return len(self._lags_s)

    def worst_s(self, mark: int) -> float:
        """Return the worst lag since `mark` in seconds, including that of a timer that is overdue now."""
        return max(0.0, self._loop.time() - self._timer.when(), *self._lags_s[mark:])

    def close(self) -> None:
        self._timer.cancel()

    def _set_timer(self) -> asyncio.TimerHandle:
        return self._loop.call_later(INTERVAL_S, self._on_timer)

    def _on_timer(self) -> None:
        self._lags_s.append(self._loop.time() - self._timer.when())
        self._timer = self._set_timer()


_FULL_COLLECTION_EVERY = 1000
"""Collections of the middle generation per full collection: a full one runs once in some millions of chunks."""
_DEFAULT_THRESHOLDS = gc.get_threshold()


def freeze_gc() -> None:
    """Exclude all existing objects from garbage collection and make full collections rare.

    Call it after the providers have been imported and before the first measurement. Young garbage is collected before;
    looking through all old objects would take as long as a hundred answers, and there is little to find.
    """
    gc.collect(1)
    gc.freeze()
    gc.set_threshold(*_DEFAULT_THRESHOLDS[:2], _FULL_COLLECTION_EVERY)


@contextmanager
def frozen_gc() -> Iterator[None]:
    """Freeze the garbage collector, and restore its defaults at the end.

    Where the program had frozen objects of its own before, none is released: which ones they are is not known then.
    """
    was_frozen = gc.get_freeze_count() > 0
    freeze_gc()
    try:
        yield
    finally:
        gc.set_threshold(*_DEFAULT_THRESHOLDS)
        if not was_frozen:
            gc.unfreeze()
