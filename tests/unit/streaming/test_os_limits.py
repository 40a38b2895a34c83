"""The operating-system limits of a measuring process: real-time priority, open files and memory use."""

import os
import resource
from pathlib import Path

import pytest

from streaming import os_limits
from streaming.errors import UsageError


class FakeResourceLimits:
    """Resource limits that replace those of the system."""

    def __init__(self, soft: int, hard: int, most: int | None) -> None:
        self.now = (soft, hard)
        self._most = most

    def get(self, _: int) -> tuple[int, int]:
        return self.now

    def set(self, _: int, limits: tuple[int, int]) -> None:
        if self._most is not None and not 0 <= limits[0] <= self._most:
            raise ValueError("current limit exceeds maximum limit")
        self.now = limits


def fake_limits(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, *, most: int | None = None
) -> FakeResourceLimits:
    limits = FakeResourceLimits(soft, hard, most)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    return limits


@pytest.mark.parametrize(
    ("soft", "hard", "count", "after"),
    [
        (256, 4096, 512, 560),
        (1024, 4096, 512, 1024),
        (256, resource.RLIM_INFINITY, 100_000, 100_048),
        (256, 4096, None, 4096),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 512, resource.RLIM_INFINITY),
    ],
)
def test_raise_fd_limit_raises_soft_limit_as_needed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, count: int | None, after: int
) -> None:
    limits = fake_limits(monkeypatch, soft, hard)
    os_limits.raise_fd_limit(count)
    assert limits.now == (after, hard)


def test_raise_fd_limit_of_unlimited_system_that_rejects_more_takes_what_it_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = fake_limits(monkeypatch, 256, resource.RLIM_INFINITY, most=10_240)
    os_limits.raise_fd_limit(None)
    assert limits.now == (10_240, resource.RLIM_INFINITY)


def test_raise_fd_limit_beyond_hard_limit_raises_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = fake_limits(monkeypatch, 256, 512)
    with pytest.raises(
        UsageError, match=r"512 concurrent connections need 560, .* allows 512 \(use at most 464 .*-Hn 560"
    ):
        os_limits.raise_fd_limit(512)
    assert limits.now == (256, 512)


def test_peak_memory_bytes_is_plausible() -> None:
    result = os_limits.peak_memory_bytes()
    assert result is not None and 5_000_000 < result < 100_000_000_000


def test_set_realtime_priority_uses_second_lowest_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda _, policy, how: taken.append((policy, how.sched_priority)))
    assert os_limits.set_realtime_priority()
    assert taken == [(os.SCHED_RR, os.sched_get_priority_min(os.SCHED_RR) + 1)]


def test_set_realtime_priority_without_permission_returns_false(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_permission_error(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", raise_permission_error)
    assert not os_limits.set_realtime_priority()


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 16),
        ({"sys/box/cpu.max": "max 100000"}, 16),
        ({"sys/box/cpu.max": "200000 100000"}, 2),
        ({"sys/box/cpu.max": "150000 100000"}, 2),
        ({"sys/box/cpu.max": "10000 100000"}, 1),
        ({"sys/box/cpu.max": "6400000 100000"}, 16),
        ({"sys/cpu.max": "300000 100000", "sys/box/cpu.max": "max 100000"}, 3),
        ({"sys/cpu/box/cpu.cfs_quota_us": "400000", "sys/cpu/box/cpu.cfs_period_us": "100000"}, 4),
        ({"sys/cpu/box/cpu.cfs_quota_us": "-1", "sys/cpu/box/cpu.cfs_period_us": "100000"}, 16),
        ({"sys/box/cpu.max": "nonsense"}, 16),
    ],
)
def test_usable_processors_are_those_of_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "cgroup").write_text("0::/box\n")
    assert os_limits.usable_cpu_count(tmp_path / "sys", tmp_path / "cgroup") == count


def test_usable_processors_without_affinity_and_cgroups_are_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert os_limits.usable_cpu_count(tmp_path, tmp_path / "none") == 8
