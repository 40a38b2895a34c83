"""The operating-system limits of a measuring process: real-time priority, open files and memory use."""

import os
import resource
import sys

import pytest

from streaming import os_limits
from streaming.errors import UsageError


class FakeResourceLimits:
    """Resource limits that replace those of the system."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self, _: int) -> tuple[int, int]:
        return self.now

    def set(self, _: int, limits: tuple[int, int]) -> None:
        self.now = limits


def fake_limits(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> FakeResourceLimits:
    limits = FakeResourceLimits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    return limits


@pytest.mark.parametrize(
    ("soft", "hard", "count", "after"),
    [
        (256, 4096, 512, 576),
        (1024, 4096, 512, 1024),
        (256, resource.RLIM_INFINITY, 100_000, 100_064),
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


def test_raise_fd_limit_on_darwin_uses_open_max(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = fake_limits(monkeypatch, 256, 2**63 - 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    os_limits.raise_fd_limit(None)
    assert limits.now == (10_240, 2**63 - 1)


def test_raise_fd_limit_beyond_hard_limit_raises_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = fake_limits(monkeypatch, 256, 512)
    with pytest.raises(
        UsageError, match=r"512 concurrent connections need 576, .* allows 512 \(use at most 448 .*-Hn 576"
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
