"""Operating-system limits that a measuring process needs to raise: scheduling priority and open files."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from streaming.errors import UsageError

_FIFO_PRIORITY = 2
_OPEN_MAX = 10_240
"""The real maximum on macOS, which reports no limit and rejects a larger number."""
_CGROUPS, _MEMBERSHIPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_SPARE_FILES = 48
"""Files that a process has open besides its connections."""


def usable_cpu_count(cgroups: Path = _CGROUPS, memberships: Path = _MEMBERSHIPS) -> int:
    """Return how many processors this process may use: by its affinity and its cgroup's quota, at least 1.

    A container shows all of its host's processors, however few it may use. `cgroups` is the mount of Linux's cgroups,
    and `memberships` the file with those of this process.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = min(_read_cpu_quotas(cgroups, memberships), default=None)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def _read_cpu_quotas(root: Path, memberships: Path) -> Iterator[float]:
    """Yield the processor quotas of this process's cgroup and of those above it, as numbers of processors."""
    try:
        names = [line.split(":", 2)[2] for line in memberships.read_text().splitlines() if line.count(":") >= 2]
    except OSError:  # not Linux
        return
    for name in dict.fromkeys(names):
        path = PurePosixPath(name.lstrip("/"))
        for folder in (path, *path.parents):
            yield from _read_cpu_quota(root / folder)
            yield from _read_cpu_quota(root / "cpu" / folder)


def _read_cpu_quota(folder: Path) -> Iterator[float]:
    """Yield the quota of one cgroup, of version 2 (`cpu.max`) or 1 (`cpu.cfs_quota_us`), if it has one."""
    try:
        if (file := folder / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return


def set_realtime_priority(priority: int = _FIFO_PRIORITY) -> bool:
    """Set a real-time scheduling priority for this process and return whether the system allowed it (root on Linux).

    Use it for short runs that wait most of the time. The priority is above the lowest real-time priority, which a
    server such as the simulator may have: of two processes with the same priority on one processor, each may run for
    0.1 s before the other, and data that arrives during that time is merged into one read.
    """
    if sys.platform != "linux":  # macOS and Windows have no such call
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
    except (OSError, AttributeError):
        return False
    return True


@contextmanager
def realtime_priority() -> Iterator[bool]:
    """Take real-time priority while the context is open, if the system allows it; yield whether it was taken."""
    if sys.platform != "linux" or not hasattr(os, "sched_getscheduler"):
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
    required = hard if count is None else count + _SPARE_FILES
    if not unlimited and required > hard:
        fewer = f"use at most {hard - _SPARE_FILES} connections, or " if hard > _SPARE_FILES else ""
        raise UsageError(
            f"open files: {count} concurrent connections need {required}, this system allows {hard} "
            f"({fewer}raise the limit: ulimit -Hn {required})"
        )
    if soft != resource.RLIM_INFINITY and (required > soft or required == resource.RLIM_INFINITY):
        _set_fd_limit(required, hard)


def _set_fd_limit(required: int, hard: int) -> None:
    """Set the soft limit, to what macOS accepts where it reports no limit and rejects `required`."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (required, hard))
    except (ValueError, OSError):
        if hard != resource.RLIM_INFINITY:
            raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_MAX, hard))


def peak_memory_bytes() -> int | None:
    """Return the peak memory use of this process in bytes, or None where the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    # macOS reports bytes, other systems kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
