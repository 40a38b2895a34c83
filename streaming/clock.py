"""The only source of time. A `Clock` is an injected callable, so that tests can run on virtual time.

In production it is CLOCK_MONOTONIC. The asyncio event loop, every other process on the same machine and, after
conversion, the kernel's `SO_TIMESTAMPING` timestamps use the same timebase.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Returns seconds on a monotonic clock with the same zero as the running loop's `time()`."""

monotonic: Clock = time.monotonic


def cpu_s() -> float:
    """Return the CPU time in seconds that all threads of this process have used."""
    return time.process_time()


def unix_s() -> float:
    """Return the Unix time in seconds, for formats that require it. Never use it to measure."""
    return time.time()


def utc_now() -> str:
    """Return the wall-clock time for display, as ISO 8601 in UTC with milliseconds. Never use it to measure."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
