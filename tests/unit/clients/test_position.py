"""The position of a reader in its stream, and the backoff between connections."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.errors import ClientError, InvalidResponseError
from clients.position import Backoff, StreamPosition


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8))
def test_repeated_events_are_counted_once_and_in_order(length: int, pieces: list[tuple[int, int]]) -> None:
    progress = StreamPosition(resumable=True)
    taken = []
    for back, count in [*pieces, (0, length)]:
        start = max(1, progress.seq + 1 - back)
        for seq in range(start, min(start + count, length + 1)):
            if progress.advance(f"s:{seq}", "done" if seq == length else "chunk"):
                taken.append(seq)
    assert taken == list(range(1, progress.seq + 1))
    assert progress.over == (progress.seq == length)


@pytest.mark.parametrize(
    ("id", "reason"), [("s:4", "events are missing"), ("t:3", "another stream"), ("", "id"), ("s", "id"), ("s:²", "id")]
)
def test_missing_or_foreign_event_raises(id: str, reason: str) -> None:
    progress = StreamPosition(resumable=True)
    assert progress.advance("s:1", "start") and progress.advance("s:2", "chunk")
    with pytest.raises(InvalidResponseError, match=reason):
        progress.advance(id, "chunk")
    assert progress.last_id == "s:2"


def test_position_is_ended_at_finish_and_over_at_done() -> None:
    progress = StreamPosition(resumable=False)
    progress.advance("s:1", "start")
    assert (progress.ended, progress.over) == (False, False)
    progress.advance("s:2", "finish")
    assert (progress.ended, progress.over) == (True, False)
    progress.advance("s:3", "done")
    assert (progress.ended, progress.over) == (True, True)


def test_from_last_id_validates_stream_and_position() -> None:
    assert StreamPosition.from_last_id("s", "s:12").last_id == "s:12"
    assert StreamPosition.from_last_id("s", None).last_id is None
    for wrong in ("t:12", "12", "s:x"):
        with pytest.raises(ClientError, match="s:NUMBER"):
            StreamPosition.from_last_id("s", wrong)


def test_backoff_doubles_to_maximum_and_ends() -> None:
    backoff = Backoff(6, 1.0, 10.0, random.Random(1))
    waits = [backoff.next_delay_s() for _ in range(7)]
    for wait_s, most_s in zip(waits, [1, 2, 4, 8, 10, 10], strict=False):
        assert wait_s is not None and most_s / 2 <= wait_s <= most_s
    assert waits[6] is None
    backoff.reset()
    assert (backoff.next_delay_s() or 0) <= 1.0


def test_backoff_honours_retry_after_up_to_maximum() -> None:
    backoff = Backoff(5, 1.0, 10.0)
    assert backoff.next_delay_s(7.5) == 7.5
    assert backoff.next_delay_s(0.0) == 0.0
    assert backoff.next_delay_s(10.5) is None


def test_backoff_delays_are_randomized() -> None:
    assert len({Backoff(1, rng=random.Random(seed)).next_delay_s() for seed in range(20)}) == 20
