"""What an instrument asks of the system: a processor when it wants one, and as many open files as connections."""

import os
import sys

from streaming.errors import UsageError

_FIFO_PRIORITY = 2
_OPEN_MAX = 10_240
"""What macOS allows at most where it says that there is no limit."""
_SPARE_FILES = 64
"""What a process has open beside its connections."""


def set_realtime_priority() -> bool:
    """Have this process run before ordinary ones, where the system allows it (root on Linux); say whether it does.

    For short runs that wait most of the time. It is above the lowest, which a server may have, as the simulator does:
    of two alike on one processor each may run for 0.1 s before the other does, and what arrives meanwhile is merged.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_FIFO_PRIORITY))
    except (OSError, AttributeError):
        return False
    return True


def raise_fd_limit(count: int | None) -> None:
    """Have this process, and those it starts, open so many connections at a time; None: as many as it may.

    Raises UsageError when the system allows fewer.
    """
    try:
        import resource
    except ImportError:  # no such limits here
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    most = min(hard, _OPEN_MAX) if sys.platform == "darwin" else hard
    wanted = most if count is None else count + _SPARE_FILES
    if not unlimited and wanted > hard:
        raise UsageError(
            f"{count} connections at a time need {wanted} open files, this system allows {hard}: "
            f"ask for {max(hard - _SPARE_FILES, 1)} at a time, or raise the limit first (ulimit -Hn {wanted})"
        )
    if soft != resource.RLIM_INFINITY and (wanted > soft or wanted == resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def peak_memory_bytes() -> int | None:
    """Give the most memory that this process ever had; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    # The kernel of macOS counts bytes, others kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
