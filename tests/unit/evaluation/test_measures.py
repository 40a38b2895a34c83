"""The measures of cadence: their worked examples, their edges, and that they stay quick on long streams."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import experience, lag, measures, rows
from evaluation.measures import Chunks
from streaming.events import Finish, Notice, TextDelta, ThinkingDelta, Timed, Usage


def chunks(*pairs: tuple[float, int]) -> Chunks:
    return Chunks([at for at, _ in pairs], [chars for _, chars in pairs])


@pytest.mark.parametrize("module", [measures, experience, rows, lag])
def test_the_worked_examples_in_the_docstrings_hold(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type] # typed for modules, which `object` hides
    assert found.attempted and found.failed == 0


def test_chunks_are_the_answer_text_alone_counted_from_sent() -> None:
    events = [
        Timed(10.0, Notice("connected", "")),
        Timed(10.1, ThinkingDelta("hm")),
        Timed(10.25, TextDelta("Hello")),
        Timed(10.5, TextDelta(", you")),
        Timed(10.5, Usage(output_tokens=4)),
        Timed(10.6, Finish("stop")),
    ]
    found = Chunks.of(events, sent_s=10.0)
    assert found.at_s == pytest.approx([0.25, 0.5]) and found.chars == [5, 5]
    assert found.span_s == pytest.approx(0.25)


def test_cadence_interpolates_between_gaps() -> None:
    found = measures.cadence([0.01, 0.02, 0.03, 0.04])
    assert found.p50_s == pytest.approx(0.025) and found.max_s == 0.04
    assert found.p95_s == pytest.approx(0.03 + 0.85 * 0.01)
    assert found.p99_s == pytest.approx(0.03 + 0.97 * 0.01)


@given(st.lists(st.floats(0, 60), min_size=2, max_size=70))
def test_cadence_agrees_with_numpy(gaps_s: list[float]) -> None:
    found, gaps = measures.cadence(gaps_s), np.array(gaps_s)
    percentiles = (found.p50_s, found.p95_s, found.p99_s, found.max_s)
    assert percentiles == pytest.approx(tuple(np.percentile(gaps, [50, 95, 99, 100])), abs=1e-12)
    assert found.cv is None or found.cv == pytest.approx(gaps.std() / gaps.mean(), rel=1e-6, abs=1e-6)


def test_cadence_of_an_even_stream_has_no_spread() -> None:
    assert measures.cadence([0.02, 0.02, 0.02]).cv == pytest.approx(0.0, abs=1e-12)


def test_without_gaps_nothing_is_known_of_cadence_and_stalls() -> None:
    assert measures.cadence([]) == measures.Cadence()
    assert measures.stalls([]) == (None, None)


def test_one_gap_has_percentiles_but_no_spread() -> None:
    found = measures.cadence([0.5])
    assert (found.p50_s, found.p99_s, found.cv) == (0.5, 0.5, None)


def test_a_gap_at_the_threshold_is_no_stall_and_one_beyond_it_is() -> None:
    assert measures.stalls([0.02, 0.02, 0.25]) == (0, 0.0)
    assert measures.stalls([0.02, 0.02, 0.26]) == (1, 0.01)


def test_a_slow_stream_stalls_at_five_times_its_own_median() -> None:
    assert measures.stalls([0.2, 0.2, 0.2, 0.9, 1.5]) == (1, 0.5)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (Usage(output_tokens=64, thinking_tokens=0), 64),
        (Usage(output_tokens=64, thinking_tokens=0, source="counted"), 64),
        (Usage(output_tokens=64, thinking_tokens=0, source="estimated"), None),
        (Usage(output_tokens=None, thinking_tokens=0), None),
        (Usage(output_tokens=64, thinking_tokens=None), None),
    ],
)
def test_answer_tokens_are_known_only_from_a_report_or_a_count(usage: Usage, tokens: int | None) -> None:
    assert measures.answer_tokens(usage) == tokens


def test_token_rates_need_two_tokens_two_chunks_and_time_between_them() -> None:
    stream = chunks((0.2, 4), (0.5, 4))
    assert measures.itl_s(stream, 4) == pytest.approx(0.1) and measures.output_tps(stream, 4) == pytest.approx(10)
    for other, tokens in ((stream, 1), (stream, None), (chunks((0.2, 8)), 4), (chunks(), 4)):
        assert measures.itl_s(other, tokens) is None and measures.output_tps(other, tokens) is None
    at_once = chunks((0.2, 4), (0.2, 4))
    assert measures.itl_s(at_once, 4) == 0.0 and measures.output_tps(at_once, 4) is None


def test_rates_over_no_time_are_unknown() -> None:
    for stream in (chunks(), chunks((0.2, 8)), chunks((0.2, 4), (0.2, 4))):
        assert measures.chars_per_s(stream) is None and measures.updates_per_s(stream) is None


def test_updates_per_s_counts_the_intervals_between_updates() -> None:
    assert measures.updates_per_s(chunks((1.0, 1), (1.1, 9), (1.2, 1))) == pytest.approx(10.0)


def test_delay_is_of_characters_matched_by_their_place() -> None:
    source = chunks((0.0, 3), (0.1, 3))
    found = experience.delay(source, chunks((0.2, 1), (0.3, 5)))
    # characters: 0.2, 0.3, 0.3 (arrived at 0) and three times 0.2 (arrived at 0.1)
    assert found.mean_s == pytest.approx((0.2 + 0.3 + 0.3 + 3 * 0.2) / 6)
    assert found.max_s == pytest.approx(0.3)
    assert found.p95_s == pytest.approx(np.percentile([0.2, 0.3, 0.3, 0.2, 0.2, 0.2], 95))


def test_characters_that_never_left_have_no_delay() -> None:
    found = experience.delay(chunks((0.0, 4), (0.1, 4)), chunks((0.05, 4)))
    assert found.mean_s == pytest.approx(0.05) and found.max_s == pytest.approx(0.05)
    assert experience.delay(chunks((0.0, 4)), chunks()) == experience.Delay()


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 9)), min_size=1, max_size=30),
    st.sampled_from([0.0, 25.0, 50.0, 95.0, 99.0, 100.0]),
)
def test_the_weighted_percentile_is_that_of_the_long_list(pairs: list[tuple[float, int]], percent: float) -> None:
    values, counts = [value for value, _ in pairs], [count for _, count in pairs]
    expected = float(np.percentile(np.repeat(values, counts), percent))
    assert experience.weighted_percentile(values, counts, percent) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.data())
def test_delay_equals_that_of_every_single_character(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    cuts = sorted(data.draw(st.sets(st.integers(1, total), max_size=10)) | {total})
    source = chunks(*((0.1 * i, size) for i, size in enumerate(sizes)))
    delivered = chunks(*((5.0 + 0.3 * i, b - a) for i, (a, b) in enumerate(zip([0, *cuts], cuts, strict=False))))
    held = np.repeat(delivered.at_s, delivered.chars) - np.repeat(source.at_s, source.chars)
    found = experience.delay(source, delivered)
    assert found.mean_s == pytest.approx(held.mean()) and found.max_s == pytest.approx(held.max())
    assert found.p95_s == pytest.approx(np.percentile(held, 95))


def test_long_streams_are_measured_like_short_ones() -> None:
    count = 100_000
    source = Chunks.of([Timed(0.2 + i * 0.001, TextDelta("four")) for i in range(count)])
    delay = experience.delay(source, Chunks([at_s + 0.05 for at_s in source.at_s], source.chars))
    assert delay.max_s == pytest.approx(0.05)
    assert experience.fluidity(source, count, experience.Deadlines()) == 1.0
    assert experience.qoe(source, experience.Reader()) == pytest.approx(1.0)
