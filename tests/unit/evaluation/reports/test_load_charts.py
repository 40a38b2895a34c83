"""Tests of the charts of a load test over time."""

from pathlib import Path
from typing import Any

import pytest

from evaluation import tables
from evaluation.load_test import import_answers
from evaluation.reports.chart_kinds import Chart
from evaluation.reports.charts import build_charts
from tests.unit.locustfiles.answer_factories import make_answer, write_answers


def make_timed_answer(number: int, second: float, lasts_s: float, outcome: str = "completed") -> dict[str, Any]:
    """Return an answer that starts at a second of the test and lasts so long."""
    events = [[second + lasts_s / 2, "text", 4, None], [second + lasts_s, "finish", None, None]]
    return make_answer(
        number, started_at=f"2026-01-01T00:00:{second:06.3f}+00:00", asked_s=second, sent_s=second, headers_s=second,
        events=events, outcome=outcome,
    )  # fmt: skip


def draw(folder: Path, *answers: dict[str, Any]) -> dict[str, Chart]:
    write_answers(folder, *answers)
    import_answers.write_journal(folder)
    return {chart.id: chart for chart in build_charts(tables.load(folder))}


def test_users_are_the_answers_under_way(tmp_path: Path) -> None:
    charts = draw(tmp_path, *(make_timed_answer(n, float(n), 3.0) for n in range(5)), make_timed_answer(9, 5.0, 1.0))
    under_way, requested = charts["load-users"].series
    most = dict(zip(under_way.x, under_way.y, strict=True))
    assert max(y for y in under_way.y if isinstance(y, float)) == 3
    assert next(y for x, y in most.items() if x > 0.5) == 1 and next(y for x, y in most.items() if x > 2.5) == 3
    assert (
        requested.y == [2.0, 2.0] and "At most 3 answers under way at once, of 2 users" in charts["load-users"].caption
    )


def test_answer_that_follows_another_at_once_is_not_counted_twice(tmp_path: Path) -> None:
    charts = draw(tmp_path, *(make_timed_answer(n, 1.0 * n, 1.0) for n in range(8)))
    assert "At most 1 answers under way" in charts["load-users"].caption


def test_rate_counts_completed_and_failed_answers_by_their_end(tmp_path: Path) -> None:
    good = [make_timed_answer(n, n * 0.5, 1.0) for n in range(20)]
    bad = [make_timed_answer(30, 4.0, 1.5, "truncated"), make_timed_answer(31, 4.0, 1.5, "cancelled")]
    chart = draw(tmp_path, *good, *bad)["load-rate"]
    completed, failed, cancelled = chart.series
    assert [one.name for one in chart.series] == ["completed", "failed", "cancelled by the user"]
    assert sum(y for y in completed.y if isinstance(y, float)) == pytest.approx(20)
    assert [x for x, y in zip(failed.x, failed.y, strict=True) if y] == [5.5] and sum(map(bool, cancelled.y)) == 1
    assert "20 answers completed" in chart.caption and "1 failed" in chart.caption


def test_test_without_a_completed_answer_has_its_charts_over_time(tmp_path: Path) -> None:
    assert {*draw(tmp_path, make_timed_answer(1, 0.0, 1.0, "failed"))} == {"load-users", "load-rate"}


def test_long_test_has_few_points(tmp_path: Path) -> None:
    charts = draw(tmp_path, *(make_timed_answer(n, n * 0.05, 0.5) for n in range(1000)))
    assert all(
        len(series.x) <= 300 for chart in charts.values() for series in chart.series if chart.id.startswith("load")
    )
