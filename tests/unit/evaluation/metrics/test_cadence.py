"""Cadence metrics: worked examples, edge cases and long streams."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.backends import interference
from evaluation.metrics import cadence, experience
from evaluation.metrics.cadence import Chunks
from streaming.events import Finish, Notice, TextDelta, ThinkingDelta, TimedEvent, Usage


def make_chunks(*pairs: tuple[float, int]) -> Chunks:
    return Chunks([at for at, _ in pairs], [chars for _, chars in pairs])


@pytest.mark.parametrize("module", [cadence, experience, interference])
def test_docstring_examples_pass(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type] # typed for modules, which `object` hides
    assert result.attempted and result.failed == 0


def test_chunks_have_answer_text_relative_to_send() -> None:
    events = [
        TimedEvent(10.0, Notice("connected", "")),
        TimedEvent(10.1, ThinkingDelta("hm")),
        TimedEvent(10.25, TextDelta("Hello")),
        TimedEvent(10.5, TextDelta(", you")),
        TimedEvent(10.5, Usage(output_tokens=4)),
        TimedEvent(10.6, Finish("stop")),
    ]
    result = Chunks.from_events(events, sent_s=10.0)
    assert result.at_s == pytest.approx([0.25, 0.5]) and result.chars == [5, 5]
    assert result.span_s == pytest.approx(0.25)


def test_cadence_interpolates_between_gaps() -> None:
    result = cadence.cadence([0.01, 0.02, 0.03, 0.04])
    assert result.p50_s == pytest.approx(0.025) and result.max_s == 0.04
    assert result.p95_s == pytest.approx(0.03 + 0.85 * 0.01)
    assert result.p99_s == pytest.approx(0.03 + 0.97 * 0.01)


@given(st.lists(st.floats(0, 60), min_size=2, max_size=70))
def test_cadence_agrees_with_numpy(gaps_s: list[float]) -> None:
    result, gaps = cadence.cadence(gaps_s), np.array(gaps_s)
    percentiles = (result.p50_s, result.p95_s, result.p99_s, result.max_s)
    assert percentiles == pytest.approx(tuple(np.percentile(gaps, [50, 95, 99, 100])), abs=1e-12)
    assert result.cv is None or result.cv == pytest.approx(gaps.std() / gaps.mean(), rel=1e-6, abs=1e-6)


def test_cadence_of_even_stream_has_zero_cv() -> None:
    assert cadence.cadence([0.02, 0.02, 0.02]).cv == pytest.approx(0.0, abs=1e-12)


def test_cadence_and_stalls_without_gaps_are_unknown() -> None:
    assert cadence.cadence([]) == cadence.Cadence()
    assert cadence.stalls([]) == (None, None)


def test_cadence_of_one_gap_has_percentiles_but_no_cv() -> None:
    result = cadence.cadence([0.5])
    assert (result.p50_s, result.p99_s, result.cv) == (0.5, 0.5, None)


def test_stall_requires_gap_beyond_threshold() -> None:
    assert cadence.stalls([0.02, 0.02, 0.25]) == (0, 0.0)
    assert cadence.stalls([0.02, 0.02, 0.26]) == (1, 0.01)


def test_gap_of_short_answer_is_stall_beyond_one_second() -> None:
    assert cadence.stalls([3.0]) == (1, 2.0)
    assert cadence.stalls([0.9, 0.9]) == (0, 0.0)


def test_slow_stream_stall_threshold_is_five_medians() -> None:
    assert cadence.stalls([0.16, 0.16, 0.16, 0.7, 1.3]) == (1, 0.5)


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
def test_answer_tokens_require_reported_or_counted_usage(usage: Usage, tokens: int | None) -> None:
    assert cadence.answer_tokens(usage) == tokens


@pytest.mark.parametrize("size", [1, 5, 20])
def test_output_speed_does_not_depend_on_tokens_per_chunk(size: int) -> None:
    count, speed = 400, 50.0
    stream = make_chunks(*((0.3 + (first + size) / speed, 4 * size) for first in range(0, count, size)))
    assert cadence.output_tps(stream, count) == pytest.approx(speed, rel=0.01)
    assert cadence.itl_s(stream, count) == pytest.approx(1 / speed, rel=0.01)
    assert cadence.tokens_per_chunk(stream, count) == size


def test_token_rates_require_text_after_first_chunk_and_elapsed_time() -> None:
    stream = make_chunks((0.2, 4), (0.5, 12))
    assert cadence.itl_s(stream, 4) == pytest.approx(0.1) and cadence.output_tps(stream, 4) == pytest.approx(10)
    for other, tokens in ((stream, 0), (stream, None), (make_chunks((0.2, 8)), 4), (make_chunks(), 4)):
        assert cadence.itl_s(other, tokens) is None and cadence.output_tps(other, tokens) is None
    at_once = make_chunks((0.2, 4), (0.2, 4))
    assert cadence.itl_s(at_once, 4) == 0.0 and cadence.output_tps(at_once, 4) is None


def test_rates_over_zero_time_are_unknown() -> None:
    for stream in (make_chunks(), make_chunks((0.2, 8)), make_chunks((0.2, 4), (0.2, 4))):
        assert cadence.chars_per_s(stream) is None and cadence.updates_per_s(stream) is None


def test_updates_per_s_counts_intervals_between_updates() -> None:
    assert cadence.updates_per_s(make_chunks((1.0, 1), (1.1, 9), (1.2, 1))) == pytest.approx(10.0)


def test_delay_matches_characters_by_position() -> None:
    source = make_chunks((0.0, 3), (0.1, 3))
    result = experience.delivery_delay(source, make_chunks((0.2, 1), (0.3, 5)))
    # characters: 0.2, 0.3, 0.3 (arrived at 0) and three times 0.2 (arrived at 0.1)
    assert result.mean_s == pytest.approx((0.2 + 0.3 + 0.3 + 3 * 0.2) / 6)
    assert result.max_s == pytest.approx(0.3)
    assert result.p95_s == pytest.approx(np.percentile([0.2, 0.3, 0.3, 0.2, 0.2, 0.2], 95))


def test_undelivered_characters_have_no_delay() -> None:
    result = experience.delivery_delay(make_chunks((0.0, 4), (0.1, 4)), make_chunks((0.05, 4)))
    assert result.mean_s == pytest.approx(0.05) and result.max_s == pytest.approx(0.05)
    assert experience.delivery_delay(make_chunks((0.0, 4)), make_chunks()) == experience.Delay()


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 9)), min_size=1, max_size=30),
    st.sampled_from([0.0, 25.0, 50.0, 95.0, 99.0, 100.0]),
)
def test_weighted_percentile_equals_percentile_of_repeated_values(
    pairs: list[tuple[float, int]], percent: float
) -> None:
    values, counts = [value for value, _ in pairs], [count for _, count in pairs]
    expected = float(np.percentile(np.repeat(values, counts), percent))
    assert experience.weighted_percentile(values, counts, percent) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.data())
def test_delay_equals_per_character_calculation(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    cuts = sorted(data.draw(st.sets(st.integers(1, total), max_size=10)) | {total})
    source = make_chunks(*((0.1 * i, size) for i, size in enumerate(sizes)))
    delivered = make_chunks(*((5.0 + 0.3 * i, b - a) for i, (a, b) in enumerate(zip([0, *cuts], cuts, strict=False))))
    held = np.repeat(delivered.at_s, delivered.chars) - np.repeat(source.at_s, source.chars)
    result = experience.delivery_delay(source, delivered)
    assert result.mean_s == pytest.approx(held.mean()) and result.max_s == pytest.approx(held.max())
    assert result.p95_s == pytest.approx(np.percentile(held, 95))


def test_long_stream_metrics_match_expected_values() -> None:
    count = 100_000
    source = Chunks.from_events([TimedEvent(0.2 + i * 0.001, TextDelta("four")) for i in range(count)])
    delay = experience.delivery_delay(source, Chunks([at_s + 0.05 for at_s in source.at_s], source.chars))
    assert delay.max_s == pytest.approx(0.05)
    assert experience.fluidity(source, count, experience.TokenDeadlines()) == 1.0
    assert experience.qoe(source, experience.ReaderModel()) == pytest.approx(1.0)
