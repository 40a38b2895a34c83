"""Medians with intervals, pooled gaps, paired differences."""

import numpy as np
import pandas as pd
import pytest

from evaluation import statistics
from evaluation.statistics import NOISE, TOO_FEW, Estimate


def trials(rows: list[tuple[int, str, float | None]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["block", "name", "ttft_s"]).astype({"ttft_s": "float64"})


def test_the_median_of_few_values_has_no_interval() -> None:
    assert statistics.median([3.0, 1.0, 2.0]) == Estimate(3, 2.0)
    assert statistics.median([]) == Estimate(0)


def test_unknown_values_are_left_out_and_not_counted() -> None:
    assert statistics.median([1.0, float("nan"), 3.0]) == Estimate(2, 2.0)


def test_the_interval_holds_the_median_and_repeats_itself() -> None:
    values = np.random.default_rng(1).normal(10, 1, 40)
    found = statistics.median(values)
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low < found.value < found.high and found.high - found.low < 1.5
    assert statistics.median(values) == found


def test_the_interval_covers_the_true_median_about_95_times_in_100() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        found = statistics.median(rng.exponential(1.0, 25))
        assert found.low is not None and found.high is not None
        covered += found.low <= np.log(2) <= found.high
    assert 180 <= covered <= 199


def test_many_values_are_resampled_in_rounds_of_bounded_size() -> None:
    found = statistics.median(np.arange(3001, dtype=np.float64))
    assert found.value == 1500 and found.low is not None and 1400 < found.low < 1500


def test_a_difference_is_taken_pair_by_pair() -> None:
    rows: list[tuple[int, str, float | None]] = []
    for block in range(8):
        slow = float(block)  # drift far larger than the difference
        rows += [(block, "a", slow), (block, "b", slow + 0.1 + 0.001 * block)]
    found = statistics.paired(trials(rows), "name", "a", "b", "ttft_s", ["block"])
    assert found.estimate.n == 8 and found.estimate.value == pytest.approx(0.1035)
    assert found.verdict == "more"
    assert statistics.paired(trials(rows), "name", "b", "a", "ttft_s", ["block"]).verdict == "less"


def test_an_interval_over_zero_is_called_noise() -> None:
    rows: list[tuple[int, str, float | None]] = []
    for block in range(10):
        rows += [(block, "a", 1.0), (block, "b", 1.0 + (0.1 if block % 2 else -0.1))]
    assert statistics.paired(trials(rows), "name", "a", "b", "ttft_s", ["block"]).verdict == NOISE


def test_five_pairs_are_too_few_however_clear_they_look() -> None:
    rows: list[tuple[int, str, float | None]] = []
    for block in range(5):
        rows += [(block, "a", 1.0), (block, "b", 2.0)]
    found = statistics.paired(trials(rows), "name", "a", "b", "ttft_s", ["block"])
    assert found.verdict == TOO_FEW and found.estimate == Estimate(5, 1.0)


def test_a_pair_with_an_unknown_side_does_not_count() -> None:
    rows: list[tuple[int, str, float | None]] = [(0, "a", 1.0), (0, "b", None), (1, "a", 1.0), (1, "b", 1.5)]
    found = statistics.paired(trials(rows), "name", "a", "b", "ttft_s", ["block"])
    assert found.estimate == Estimate(1, 0.5)
    assert statistics.paired(trials(rows), "name", "a", "c", "ttft_s", ["block"]).estimate == Estimate(0)


def test_gaps_are_within_a_trial_and_of_text_alone() -> None:
    events = pd.DataFrame(
        [
            ("t1", "source_text", 0.2, None),
            ("t2", "source_text", 0.3, None),
            ("t1", "delivered_text", None, 0.2),
            ("t1", "source_text", 0.25, None),
            ("t1", "source_finish", 0.9, None),
            ("t2", "source_text", 0.5, None),
        ],
        columns=["trial_id", "kind", "source_s", "delivered_s"],
    )
    found = statistics.gaps(events)
    assert found["trial_id"].tolist() == ["t1", "t2"]
    assert found["gap_s"].tolist() == pytest.approx([0.05, 0.2])
