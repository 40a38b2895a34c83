"""Medians and quantiles with intervals, pooled gaps and paired differences."""

import math

import numpy as np
import pandas as pd
import pytest

from evaluation.analysis import statistics
from evaluation.analysis.statistics import Estimate


def make_trials(rows: list[tuple[int, str, float | None]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["block", "name", "ttft_s"]).astype({"ttft_s": "float64"})


def covers(result: Estimate, truth: float) -> bool:
    return result.low is not None and result.high is not None and result.low <= truth <= result.high


def test_median_of_two_values_has_no_interval() -> None:
    assert statistics.median([3.0, 1.0]) == Estimate(2, 2.0)
    assert statistics.median([]) == Estimate(0)


def test_median_ignores_unknown_values() -> None:
    assert statistics.median([1.0, float("nan"), 3.0]) == Estimate(2, 2.0)


def test_interval_of_few_values_rests_on_t_over_logs() -> None:
    result = statistics.median([0.1, 0.2, 0.4])
    assert result.basis == "t over logs" and result.low == pytest.approx(0.2 / 5.6, rel=0.01)
    assert statistics.median([0.1, 0.2, 0.0]).low is None, "there is no logarithm of zero"


@pytest.mark.parametrize(("n", "low", "high"), [(6, 0, 5), (24, 6, 17), (100, 39, 60)])
def test_interval_of_many_values_is_two_order_statistics(n: int, low: int, high: int) -> None:
    result = statistics.median(np.arange(n, dtype=np.float64))
    assert (result.low, result.high, result.basis) == (low, high, "order statistics")


def test_failed_trial_counts_as_infinitely_late() -> None:
    result = statistics.median([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, math.inf])
    assert result.value == 0.4 and result.low == 0.1 and result.high == math.inf and not result.is_finite
    assert statistics.median([0.1, math.inf, math.inf]).value == math.inf
    assert statistics.median([0.1, 0.2, 0.3, math.inf]).value == pytest.approx(0.25)


@pytest.mark.parametrize("sigma", [0.1, 0.6])
@pytest.mark.parametrize(("prompts", "repeats"), [(24, 1), (3, 3), (6, 1), (10, 3), (4, 1)])
def test_interval_covers_true_median(prompts: int, repeats: int, sigma: float) -> None:
    rng, covered = np.random.default_rng(prompts), 0
    codes = np.repeat(np.arange(prompts), repeats)
    for _ in range(200):
        values = np.exp(rng.normal(0, 0.3, prompts)[codes] + rng.normal(0, sigma, len(codes)))
        covered += covers(statistics.median(values, codes), 1.0)
    assert covered >= 200 * 0.91


@pytest.mark.parametrize(("n", "percent"), [(5, 50), (6, 50), (17, 80), (36, 90), (72, 95), (368, 99), (4000, 99.9)])
def test_largest_quantile_is_what_the_trials_carry(n: int, percent: float) -> None:
    assert statistics.largest_quantile(n) == percent


def test_quantile_beyond_what_trials_carry_has_no_interval() -> None:
    values = np.arange(71, dtype=np.float64)
    result = statistics.quantile(values, 95)
    assert (result.value, result.low, result.high) == (66.5, None, None)
    assert statistics.quantile(np.arange(72, dtype=np.float64), 95).is_finite


def test_quantile_of_repeated_prompts_rests_on_their_number() -> None:
    rng = np.random.default_rng(8)
    codes = np.repeat(np.arange(20), 5)
    covered = 0
    for _ in range(200):
        levels = rng.normal(0, 1, 20)
        result = statistics.quantile(levels[codes] + rng.normal(0, 0.1, 100), 80, codes)
        covered += covers(result, 0.8416 * math.hypot(1, 0.1))
    assert covered >= 184
    assert statistics.quantile(np.arange(100.0), 95, codes).low is None


def test_paired_difference_is_computed_per_pair() -> None:
    rows: list[tuple[int, str, float | None]] = []
    for block in range(8):
        slow = float(block)  # drift far larger than the difference
        rows += [(block, "a", slow), (block, "b", slow + 0.1 + 0.001 * block)]
    result = statistics.paired_difference(make_trials(rows), "name", ("a", "b"), "ttft_s", ["block"]).estimate
    assert result.n == 8 and result.value == pytest.approx(0.1035)
    assert result.low == pytest.approx(0.1) and result.high == pytest.approx(0.107)


def test_pair_with_unknown_value_is_ignored() -> None:
    rows: list[tuple[int, str, float | None]] = [(0, "a", 1.0), (0, "b", None), (1, "a", 1.0), (1, "b", 1.5)]
    result = statistics.paired_difference(make_trials(rows), "name", ("a", "b"), "ttft_s", ["block"])
    assert result.estimate == Estimate(1, 0.5)
    missing = statistics.paired_difference(make_trials(rows), "name", ("a", "c"), "ttft_s", ["block"])
    assert missing.estimate == Estimate(0)


def test_differences_of_few_pairs_rest_on_t() -> None:
    result = statistics.median([-1.0, 0.0, 1.0], signed=True)
    assert result.basis == "t" and result.low == pytest.approx(-2.484, abs=0.01)


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
            ("wire", "source_text", 5, 0.05, None),
            ("wire", "delivered_thinking", 9, None, 0.1),
            ("wire", "delivered_text", 3, None, 0.2),
            ("wire", "delivered_text", 2, None, 0.9),
        ],
        columns=["trial_id", "kind", "chars", "source_s", "delivered_s"],
    )
    trials = pd.DataFrame({"trial_id": ["t1", "t2", "wire"], "transport": ["in-process", "browser", "sse"]})
    result = statistics.chunk_gaps(events, trials)
    assert result["trial_id"].tolist() == ["t1", "t2", "wire"], "over a wire what was delivered is what arrived"
    assert result["gap_s"].tolist() == pytest.approx([0.05, 0.2, 0.7])
    assert statistics.delivered_chunks(events)["gap_s"].dropna().tolist() == pytest.approx([0.6, 0.7])
    arrived = statistics.arrival_chunks(events, trials)
    assert arrived[arrived["trial_id"] == "wire"]["chars"].tolist() == [3, 2]


def test_repeats_of_a_prompt_widen_the_interval() -> None:
    prompts = [prompt for prompt in range(9) for _ in range(20)]
    values = [float(prompt + 1) for prompt in prompts]
    alone, clustered = statistics.median(values), statistics.median(values, prompts)
    assert alone.low is not None and alone.high is not None and clustered.low is not None and clustered.high is not None
    assert clustered.value == alone.value == 5.0 and clustered.n == 180
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_two_repeated_prompts_have_no_interval() -> None:
    assert statistics.median([1.0, 2.0] * 20, ["a", "b"] * 20) == Estimate(40, 1.5)


def test_one_value_per_prompt_equals_plain_interval() -> None:
    values = np.random.default_rng(2).normal(10, 1, 30)
    assert statistics.median(values, list(range(30))) == statistics.median(values)


@pytest.mark.parametrize("trials", [8, 24])
def test_interval_of_pooled_gaps_draws_whole_trials(trials: int) -> None:
    rng, covered = np.random.default_rng(trials), 0
    codes = np.repeat(np.arange(trials), 60)
    for _ in range(20):
        levels = np.exp(rng.normal(0, 0.3, trials))
        gaps = 0.02 * levels[codes] * rng.exponential(1, len(codes))
        (result,) = statistics.pooled_quantiles(gaps, codes, [50.0])
        covered += covers(result, 0.0140)
    assert covered >= 17


def test_pooled_gaps_of_few_trials_have_no_interval() -> None:
    (result,) = statistics.pooled_quantiles(np.arange(100.0), np.arange(100) % 5, [50.0])
    assert result == Estimate(100, 49.5)
