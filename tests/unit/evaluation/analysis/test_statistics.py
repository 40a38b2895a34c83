"""Medians with intervals, pooled gaps and paired differences."""

import numpy as np
import pandas as pd
import pytest

from evaluation.analysis import statistics
from evaluation.analysis.statistics import NO_DIFFERENCE_TEXT, TOO_FEW_TEXT, Estimate


def make_trials(rows: list[tuple[int, str, float | None]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["block", "name", "ttft_s"]).astype({"ttft_s": "float64"})


def test_median_of_few_values_has_no_interval() -> None:
    assert statistics.median([3.0, 1.0, 2.0]) == Estimate(3, 2.0)
    assert statistics.median([]) == Estimate(0)


def test_median_ignores_unknown_values() -> None:
    assert statistics.median([1.0, float("nan"), 3.0]) == Estimate(2, 2.0)


def test_interval_contains_median_and_is_reproducible() -> None:
    values = np.random.default_rng(1).normal(10, 1, 40)
    result = statistics.median(values)
    assert result.low is not None and result.high is not None and result.value is not None
    assert result.low < result.value < result.high and result.high - result.low < 1.5
    assert statistics.median(values) == result


def test_interval_covers_true_median_in_95_percent() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        result = statistics.median(rng.exponential(1.0, 25))
        assert result.low is not None and result.high is not None
        covered += result.low <= np.log(2) <= result.high
    assert 180 <= covered <= 199


def test_large_sample_is_resampled_in_bounded_rounds() -> None:
    result = statistics.median(np.arange(3001, dtype=np.float64))
    assert result.value == 1500 and result.low is not None and 1400 < result.low < 1500


def test_paired_difference_is_computed_per_pair() -> None:
    rows: list[tuple[int, str, float | None]] = []
    for block in range(8):
        slow = float(block)  # drift far larger than the difference
        rows += [(block, "a", slow), (block, "b", slow + 0.1 + 0.001 * block)]
    result = statistics.paired_difference(make_trials(rows), "name", "a", "b", "ttft_s", ["block"])
    assert result.estimate.n == 8 and result.estimate.value == pytest.approx(0.1035)
    assert result.verdict == "more"
    assert statistics.paired_difference(make_trials(rows), "name", "b", "a", "ttft_s", ["block"]).verdict == "less"


def test_interval_spanning_zero_gives_no_difference() -> None:
    rows: list[tuple[int, str, float | None]] = []
    for block in range(10):
        rows += [(block, "a", 1.0), (block, "b", 1.0 + (0.1 if block % 2 else -0.1))]
    assert (
        statistics.paired_difference(make_trials(rows), "name", "a", "b", "ttft_s", ["block"]).verdict
        == NO_DIFFERENCE_TEXT
    )


def test_five_pairs_give_too_few_verdict() -> None:
    rows: list[tuple[int, str, float | None]] = []
    for block in range(5):
        rows += [(block, "a", 1.0), (block, "b", 2.0)]
    result = statistics.paired_difference(make_trials(rows), "name", "a", "b", "ttft_s", ["block"])
    assert result.verdict == TOO_FEW_TEXT and result.estimate == Estimate(5, 1.0)


def test_pair_with_unknown_value_is_ignored() -> None:
    rows: list[tuple[int, str, float | None]] = [(0, "a", 1.0), (0, "b", None), (1, "a", 1.0), (1, "b", 1.5)]
    result = statistics.paired_difference(make_trials(rows), "name", "a", "b", "ttft_s", ["block"])
    assert result.estimate == Estimate(1, 0.5)
    assert statistics.paired_difference(make_trials(rows), "name", "a", "c", "ttft_s", ["block"]).estimate == Estimate(
        0
    )


def test_chunk_gaps_are_within_trial_and_text_only() -> None:
    events = pd.DataFrame(
        [
            ("t1", "source_text", 4, 0.2, None),
            ("t2", "source_text", 4, 0.3, None),
            ("t1", "delivered_text", 4, None, 0.2),
            ("t1", "source_text", 4, 0.25, None),
            ("t1", "source_finish", None, 0.9, None),
            ("t1", "delivered_text", 4, None, 0.8),
            ("t2", "source_text", 4, 0.5, None),
            ("wire", "delivered_thinking", 9, None, 0.1),
            ("wire", "delivered_text", 3, None, 0.2),
            ("wire", "delivered_text", 2, None, 0.9),
        ],
        columns=["trial_id", "kind", "chars", "source_s", "delivered_s"],
    )
    result = statistics.chunk_gaps(events)
    assert result["trial_id"].tolist() == ["t1", "t2", "wire"], "over a wire what was delivered is what arrived"
    assert result["gap_s"].tolist() == pytest.approx([0.05, 0.2, 0.7])
    assert statistics.delivered_chunks(events)["gap_s"].dropna().tolist() == pytest.approx([0.6, 0.7])
    arrived = statistics.arrival_chunks(events)
    assert arrived[arrived["trial_id"] == "wire"]["chars"].tolist() == [3, 2]


def test_repeats_of_a_prompt_widen_the_interval() -> None:
    prompts = [prompt for prompt in range(9) for _ in range(20)]
    values = [float(prompt) for prompt in prompts]
    alone, clustered = statistics.median(values), statistics.median(values, prompts)
    assert alone.low is not None and alone.high is not None and clustered.low is not None and clustered.high is not None
    assert clustered.value == alone.value == 4.0 and clustered.n == 180
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_few_prompts_are_resampled_within_their_repeats() -> None:
    prompts = [prompt for prompt in "abc" for _ in range(4)]
    assert statistics.median([float(ord(prompt)) for prompt in prompts], prompts) == Estimate(12, 98.0, 98.0, 98.0)
    spread = statistics.median([ord(prompt) + 0.1 * (place % 4) for place, prompt in enumerate(prompts)], prompts)
    assert spread.low is not None and spread.high is not None and 98.0 <= spread.low < spread.high <= 98.31


def test_one_value_per_prompt_equals_plain_bootstrap() -> None:
    values = np.random.default_rng(2).normal(10, 1, 30)
    assert statistics.median(values, list(range(30))) == statistics.median(values)


@pytest.mark.parametrize("prompts", [2, 25])
def test_clustered_interval_covers_true_median_in_95_percent(prompts: int) -> None:
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(200):
        of = np.repeat(np.arange(prompts), 50 // prompts)
        # With many prompts each has its own level; with two the levels are known and only repeats differ.
        levels = rng.normal(0, 1, prompts) if prompts > 2 else np.zeros(prompts)
        result = statistics.median(levels[of] + rng.normal(0, 0.3, len(of)), of)
        assert result.low is not None and result.high is not None
        covered += result.low <= 0 <= result.high
    assert 178 <= covered <= 199


def test_bootstrap_means_of_large_sample_run_in_rounds() -> None:
    values = np.arange(3000, dtype=np.float64)
    drawn = statistics.bootstrap_medians(
        values, [place % 10 for place in range(3000)], np.random.default_rng(0), mean=True
    )
    assert len(drawn) >= 400 and drawn.mean() == pytest.approx(1499.5, abs=1)


def test_pairs_of_one_prompt_are_resampled_together() -> None:
    rows = [(block, f"p{block % 7}", name, block % 7 * (name == "b")) for block in range(70) for name in "ab"]
    frame = pd.DataFrame(rows, columns=["block", "prompt_id", "name", "ttft_s"]).astype({"ttft_s": "float64"})
    by_pair = statistics.paired_difference(frame, "name", "a", "b", "ttft_s", ["block"]).estimate
    by_prompt = statistics.paired_difference(frame, "name", "a", "b", "ttft_s", ["block", "prompt_id"]).estimate
    assert by_pair.value == by_prompt.value == 3.0 and by_pair.low is not None and by_prompt.low is not None
    assert by_prompt.low < by_pair.low
