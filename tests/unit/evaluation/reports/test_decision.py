"""The decision table: what a correct answer cost and took, beside the share of correct answers."""

import math

import numpy as np

from benchmarks._known_truth import Design, make_run
from evaluation.analysis import summary
from evaluation.reports.decision import decision_table


def _table(correct: list[bool | None]) -> list[str]:
    run = make_run(
        Design(4),
        {"a": np.array([0.1, 0.2, 0.3, math.inf])},
        correct={"a": correct},
        e2e_s={"a": [1.0, 2.0, 3.0, 4.0]},
        cost_usd={"a": [0.001, 0.002, 0.003, None]},
    )
    return list(decision_table(summary.groups(run), "tokens"))


def test_correct_answers_bear_the_cost_and_time_of_all_checked_ones() -> None:
    header, _, row, *_, notes = _table([True, True, False, False])
    cells = dict(zip(header.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert cells["correct"].startswith("50 % [")
    assert cells["USD per 1000 correct"] == "3"
    assert cells["seconds per correct"].startswith("5.00")
    assert "per correct answer" in notes


def test_run_without_checks_has_no_columns_about_correctness() -> None:
    header, *_ = _table([None] * 4)
    assert "correct" not in header


def test_no_correct_answer_has_no_price() -> None:
    header, _, row, *_ = _table([False, False, False, False])
    assert "correct" in header
    assert "per 1000 correct" not in header
    assert "0 % [0, 49]" in row
