"""Operating-system limits that a measuring process needs to raise: scheduling priority and open files."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from streaming.errors import UsageError

_FIFO_PRIORITY = 2
_OPEN_MAX = 10_240
"""The real maximum on macOS when it reports no limit."""
_SPARE_FILES = 64
"""Files that a process has open besides its connections."""


def set_realtime_priority() -> bool:
    """Set a real-time scheduling priority for this process and return whether the system allowed it (root on Linux).

    Use it for short runs that wait most of the time. The priority is above the lowest real-time priority, which a
    server such as the simulator may have: of two processes with the same priority on one processor, each may run for
    0.1 s before the other, and data that arrives during that time is merged into one read.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_FIFO_PRIORITY))
    except (OSError, AttributeError):
        return False
    return True


@contextmanager
def realtime_priority() -> Iterator[bool]:
    """Take real-time priority while the context is open, if the system allows it; yield whether it was taken."""
    if sys.platform != "linux":
        yield False
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    taken = set_realtime_priority()
    try:
        yield taken
    finally:
        if taken:
            os.sched_setscheduler(0, *before)


def raise_fd_limit(count: int | None) -> None:
    """Raise the open-file limit so that this process and its children can hold `count` connections at a time.

    None raises the limit to the system's maximum. Raises UsageError when the system allows fewer than `count`.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    most = min(hard, _OPEN_MAX) if sys.platform == "darwin" else hard
    required = most if count is None else count + _SPARE_FILES
    if not unlimited and required > hard:
        raise UsageError(
            f"open files: {count} concurrent connections need {required}, this system allows {hard} "
            f"(use at most {max(hard - _SPARE_FILES, 1)} connections, or raise the limit: ulimit -Hn {required})"
        )
    if soft != resource.RLIM_INFINITY and (required > soft or required == resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (required, hard))


def peak_memory_bytes() -> int | None:
    """Return the peak memory use of this process in bytes, or None where the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    # macOS reports bytes, other systems kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
