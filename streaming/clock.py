"""The one source of time. A `Clock` is a callable, injected, so that tests run on virtual time.

Live it is CLOCK_MONOTONIC, the timebase of asyncio's loop, of `SO_TIMESTAMPING` after conversion, and of any other
process on the same machine.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Seconds on a monotonic clock with the same zero as the running loop's `time()`."""

monotonic: Clock = time.monotonic


def cpu_s() -> float:
    """Seconds of CPU that this process has used, all threads."""
    return time.process_time()


def unix_s() -> float:
    """Seconds since 1970, for those who ask for them; never used to measure."""
    return time.time()


def utc_now() -> str:
    """Wall-clock time for people, ISO 8601 in UTC to the millisecond; never used to measure."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
