"""What an instrument asks of the system: a processor, files for its connections, or words."""

import os
import resource
import sys

import pytest

from streaming import priority
from streaming.errors import UsageError


class Limits:
    """The limits of a system, in the place of the real ones."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self, _: int) -> tuple[int, int]:
        return self.now

    def set(self, _: int, limits: tuple[int, int]) -> None:
        self.now = limits


def limited(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> Limits:
    limits = Limits(soft, hard)
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
def test_the_limit_of_files_is_raised_to_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, count: int | None, after: int
) -> None:
    limits = limited(monkeypatch, soft, hard)
    priority.allow_connections(count)
    assert limits.now == (after, hard)


def test_where_no_limit_is_told_that_does_not_hold_the_known_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = limited(monkeypatch, 256, 2**63 - 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    priority.allow_connections(None)
    assert limits.now == (10_240, 2**63 - 1)


def test_what_the_system_forbids_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = limited(monkeypatch, 256, 512)
    with pytest.raises(
        UsageError, match=r"512 connections .* need 576 open files, .* allows 512: ask for 448 .*-Hn 576"
    ):
        priority.allow_connections(512)
    assert limits.now == (256, 512)


def test_memory_is_that_of_this_process() -> None:
    found = priority.peak_memory_bytes()
    assert found is not None and 5_000_000 < found < 100_000_000_000


def test_the_instrument_goes_before_a_server_of_the_lowest_real_time_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda _, policy, how: taken.append((policy, how.sched_priority)))
    assert priority.take_real_time_priority()
    assert taken == [(os.SCHED_RR, os.sched_get_priority_min(os.SCHED_RR) + 1)]


def test_a_system_that_gives_no_priority_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    assert not priority.take_real_time_priority()
