"""Fluidity and QoE: examples worked by hand, and edge cases."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics.cadence import Chunks
from evaluation.metrics.experience import (
    MAX_PACE_TPS,
    ReaderModel,
    TokenDeadlines,
    fluid_pace_tps,
    fluidity,
    qoe,
    waited_s,
)

DEADLINES = TokenDeadlines(first_s=1.0, token_s=0.1)
READER = ReaderModel(chars_per_s=10.0, first_s=1.0)


def make_chunks(*pairs: tuple[float, int]) -> Chunks:
    return Chunks([at for at, _ in pairs], [chars for _, chars in pairs])


def test_fluidity_of_tokens_at_deadlines_is_one() -> None:
    on_time = make_chunks(*((1.0 + 0.1 * i, 4) for i in range(10)))
    assert fluidity(on_time, 10, DEADLINES) == 1.0


def test_fluidity_slack_of_early_tokens_covers_a_stall() -> None:
    # ten tokens at 0.5 s have deadlines up to 1.9 s; the eleventh is due at 2.0 s
    assert fluidity(make_chunks((0.5, 40), (2.0, 4)), 11, DEADLINES) == 1.0
    assert fluidity(make_chunks((0.5, 40), (2.05, 4)), 11, DEADLINES) == pytest.approx(10 / 11)


def test_fluidity_stall_misses_every_deadline_within_it() -> None:
    # due at 1.0; at 1.35 the deadlines of 1.0, 1.1, 1.2 and 1.3 have passed; then tokens every 0.1 s are met
    late = make_chunks((1.35, 4), (1.45, 4), (1.55, 4))
    assert fluidity(late, 3, DEADLINES) == pytest.approx(2 / 6)


def test_fluidity_deadlines_restart_after_late_token() -> None:
    late_once = make_chunks((1.05, 4), *((1.05 + 0.1 * i, 4) for i in range(1, 10)))
    assert fluidity(late_once, 10, DEADLINES) == pytest.approx(9 / 10)


def test_fluidity_spreads_tokens_over_characters() -> None:
    # 4 tokens over 16 characters: three in the first chunk of 12, one in the second, due at 1.3
    assert fluidity(make_chunks((1.0, 12), (1.3, 4)), 4, DEADLINES) == 1.0
    assert fluidity(make_chunks((1.0, 12), (1.31, 4)), 4, DEADLINES) == pytest.approx(3 / 4)


@pytest.mark.parametrize("tokens", [None, 0])
def test_fluidity_is_unknown_without_tokens(tokens: int | None) -> None:
    assert fluidity(make_chunks((0.5, 4)), tokens, DEADLINES) is None


def test_fluidity_and_qoe_are_unknown_without_text() -> None:
    assert fluidity(make_chunks(), 3, DEADLINES) is None and qoe(make_chunks(), READER) is None


def test_fluid_pace_of_steady_stream_is_its_speed() -> None:
    steady = make_chunks(*((2.0 + 0.02 * i, 4) for i in range(200)))
    assert fluid_pace_tps(steady, 200, DEADLINES) == pytest.approx(50)
    assert fluidity(steady, 200, TokenDeadlines(2.0, 1 / 50)) == 1.0


def test_fluid_pace_tolerates_one_late_token_in_a_hundred() -> None:
    # token 99 of 200 arrives 10 s late, alone: the pace of the others is still met
    at_s = [1.0 + 0.02 * i for i in range(200)]
    late = make_chunks(*((at, 4) for at in at_s[:199]), (at_s[199] + 10, 4))
    assert fluid_pace_tps(late, 200, DEADLINES) == pytest.approx(50)
    stalled = make_chunks(*((at + (10 if place >= 100 else 0), 4) for place, at in enumerate(at_s)))
    found = fluid_pace_tps(stalled, 200, DEADLINES)
    assert found is not None and 8 < found < 9, "token 102 is 12 s after the start"


def test_fluid_pace_of_text_at_once_is_the_limit() -> None:
    assert fluid_pace_tps(make_chunks((5.0, 400)), 100, DEADLINES) == MAX_PACE_TPS
    assert fluid_pace_tps(make_chunks((0.5, 4)), None, DEADLINES) is None
    assert fluid_pace_tps(make_chunks(), 4, DEADLINES) is None


def test_reader_waits_only_between_texts() -> None:
    assert waited_s(make_chunks((5.0, 10), (5.5, 10)), READER) == 0.0
    # 10 characters are read from 5 to 6 s, the rest comes at 8 s
    assert waited_s(make_chunks((5.0, 10), (8.0, 10)), READER) == pytest.approx(2.0)
    assert waited_s(make_chunks((0.2, 10), (8.0, 10)), READER) == pytest.approx(6.0), "reading starts at 1 s"
    assert waited_s(make_chunks(), READER) is None


def test_qoe_of_reader_who_never_waits_is_one() -> None:
    assert qoe(make_chunks((0.3, 10), (1.5, 10)), READER) == pytest.approx(1.0)


def test_qoe_of_late_start_matches_worked_example() -> None:
    # 10 characters at 2 s: read until 3 s. Real area 10 x 0.5 = 5, ideal 10 x (3 - 1 - 0.5) = 15.
    assert qoe(make_chunks((2.0, 10)), READER) == pytest.approx(5 / 15)


def test_qoe_of_text_in_one_piece_is_below_streamed_text() -> None:
    flowing = make_chunks(*((1.0 + i, 10) for i in range(10)))
    whole = make_chunks((10.0, 100))
    at_the_end, as_it_comes = qoe(whole, READER), qoe(flowing, READER)
    assert at_the_end is not None and as_it_comes == pytest.approx(1.0) and at_the_end < 0.5


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 40)), min_size=1, max_size=30), st.integers(1, 200))
def test_fluidity_and_qoe_stay_in_bounds_and_never_gain_from_delay(pairs: list[tuple[float, int]], tokens: int) -> None:
    at_s = list(accumulate(gap for gap, _ in pairs))
    chars = [count for _, count in pairs]
    early, late = Chunks(at_s, chars), Chunks([at + 0.7 for at in at_s], chars)
    result, later = qoe(early, READER), qoe(late, READER)
    assert result is not None and later is not None and 0 < later <= result + 1e-9 <= 1 + 2e-9
    share = fluidity(early, tokens, DEADLINES)
    assert share is not None and 0 <= share <= 1
