"""Fluidity and QoE: worked by hand, and their edges."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.experience import Deadlines, Reader, fluidity, qoe
from evaluation.measures import Chunks

DEADLINES = Deadlines(first_s=1.0, token_s=0.1)
READER = Reader(chars_per_s=10.0, first_s=1.0)


def chunks(*pairs: tuple[float, int]) -> Chunks:
    return Chunks([at for at, _ in pairs], [chars for _, chars in pairs])


def test_tokens_at_their_deadlines_are_all_met() -> None:
    on_time = chunks(*((1.0 + 0.1 * i, 4) for i in range(10)))
    assert fluidity(on_time, 10, DEADLINES) == 1.0


def test_slack_of_early_tokens_carries_over_a_silence() -> None:
    # ten tokens at 0.5 s have deadlines up to 1.9 s; the eleventh is due at 2.0 s
    assert fluidity(chunks((0.5, 40), (2.0, 4)), 11, DEADLINES) == 1.0
    assert fluidity(chunks((0.5, 40), (2.05, 4)), 11, DEADLINES) == pytest.approx(10 / 11)


def test_a_silence_misses_every_deadline_that_passes_in_it() -> None:
    # due at 1.0; at 1.35 the deadlines of 1.0, 1.1, 1.2 and 1.3 have passed; then tokens every 0.1 s are met
    late = chunks((1.35, 4), (1.45, 4), (1.55, 4))
    assert fluidity(late, 3, DEADLINES) == pytest.approx(2 / 6)


def test_lateness_does_not_follow_a_stream_after_its_deadlines_restart() -> None:
    late_once = chunks((1.05, 4), *((1.05 + 0.1 * i, 4) for i in range(1, 10)))
    assert fluidity(late_once, 10, DEADLINES) == pytest.approx(9 / 10)


def test_tokens_are_spread_over_the_characters_not_over_the_chunks() -> None:
    # 4 tokens over 16 characters: three in the first chunk of 12, one in the second, due at 1.3
    assert fluidity(chunks((1.0, 12), (1.3, 4)), 4, DEADLINES) == 1.0
    assert fluidity(chunks((1.0, 12), (1.31, 4)), 4, DEADLINES) == pytest.approx(3 / 4)


@pytest.mark.parametrize("tokens", [None, 0])
def test_fluidity_is_unknown_without_tokens(tokens: int | None) -> None:
    assert fluidity(chunks((0.5, 4)), tokens, DEADLINES) is None


def test_fluidity_and_qoe_are_unknown_without_text() -> None:
    assert fluidity(chunks(), 3, DEADLINES) is None and qoe(chunks(), READER) is None


def test_a_reader_who_never_waits_has_qoe_one() -> None:
    assert qoe(chunks((0.3, 10), (1.5, 10)), READER) == pytest.approx(1.0)


def test_qoe_of_a_late_start_by_hand() -> None:
    # 10 characters at 2 s: read until 3 s. Real area 10 x 0.5 = 5, ideal 10 x (3 - 1 - 0.5) = 15.
    assert qoe(chunks((2.0, 10)), READER) == pytest.approx(5 / 15)


def test_text_in_one_piece_at_the_end_is_worse_than_text_that_flows() -> None:
    flowing = chunks(*((1.0 + i, 10) for i in range(10)))
    whole = chunks((10.0, 100))
    at_the_end, as_it_comes = qoe(whole, READER), qoe(flowing, READER)
    assert at_the_end is not None and as_it_comes == pytest.approx(1.0) and at_the_end < 0.5


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 40)), min_size=1, max_size=30), st.integers(1, 200))
def test_both_stay_between_zero_and_one_and_waiting_never_helps(pairs: list[tuple[float, int]], tokens: int) -> None:
    at_s = list(accumulate(gap for gap, _ in pairs))
    chars = [count for _, count in pairs]
    early, late = Chunks(at_s, chars), Chunks([at + 0.7 for at in at_s], chars)
    found, later = qoe(early, READER), qoe(late, READER)
    assert found is not None and later is not None and 0 < later <= found + 1e-9 <= 1 + 2e-9
    share = fluidity(early, tokens, DEADLINES)
    assert share is not None and 0 <= share <= 1
