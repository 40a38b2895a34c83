"""Where a reader is in its stream, and how long it waits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.errors import ClientError, WireError
from clients.progress import Backoff, Progress


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8))
def test_whatever_is_sent_again_each_frame_counts_once_and_in_order(length: int, pieces: list[tuple[int, int]]) -> None:
    progress = Progress(resumable=True)
    taken = []
    for back, count in [*pieces, (0, length)]:
        start = max(1, progress.seq + 1 - back)
        for seq in range(start, min(start + count, length + 1)):
            if progress.take(f"s:{seq}", "done" if seq == length else "chunk"):
                taken.append(seq)
    assert taken == list(range(1, progress.seq + 1))
    assert progress.over == (progress.seq == length)


@pytest.mark.parametrize(
    ("id", "reason"), [("s:4", "from event 2 to 4"), ("t:3", "another stream"), ("", "id"), ("s", "id"), ("s:²", "id")]
)
def test_what_is_missing_or_foreign_is_not_passed_over(id: str, reason: str) -> None:
    progress = Progress(resumable=True)
    assert progress.take("s:1", "start") and progress.take("s:2", "chunk")
    with pytest.raises(WireError, match=reason):
        progress.take(id, "chunk")
    assert progress.last_id == "s:2"


def test_an_answer_has_ended_with_its_finish_and_is_over_with_its_last_frame() -> None:
    progress = Progress(resumable=False)
    progress.take("s:1", "start")
    assert (progress.ended, progress.over) == (False, False)
    progress.take("s:2", "finish")
    assert (progress.ended, progress.over) == (True, False)
    progress.take("s:3", "done")
    assert (progress.ended, progress.over) == (True, True)


def test_an_older_place_is_taken_up_by_its_id() -> None:
    assert Progress.at("s", "s:12").last_id == "s:12"
    assert Progress.at("s", None).last_id is None
    for wrong in ("t:12", "12", "s:x"):
        with pytest.raises(ClientError, match="s:NUMBER"):
            Progress.at("s", wrong)


def test_waits_double_up_to_the_longest_and_end() -> None:
    backoff = Backoff(6, 1.0, 10.0, random.Random(1))
    waits = [backoff.next_s() for _ in range(7)]
    for wait_s, most_s in zip(waits, [1, 2, 4, 8, 10, 10], strict=False):
        assert wait_s is not None and most_s / 2 <= wait_s <= most_s
    assert waits[6] is None
    backoff.reset()
    assert (backoff.next_s() or 0) <= 1.0


def test_what_the_service_asks_for_is_waited_for_unless_it_is_too_long() -> None:
    backoff = Backoff(5, 1.0, 10.0)
    assert backoff.next_s(7.5) == 7.5
    assert backoff.next_s(0.0) == 0.0
    assert backoff.next_s(10.5) is None


def test_clients_do_not_come_back_together() -> None:
    assert len({Backoff(1, rng=random.Random(seed)).next_s() for seed in range(20)}) == 20
