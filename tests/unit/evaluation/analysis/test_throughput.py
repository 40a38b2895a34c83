"""Throughput and goodput of runs: from rows with and without times, under objectives, by level, against another run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation import tables
from evaluation.analysis import slo, slo_checks, throughput
from evaluation.analysis.compare import compare
from evaluation.reports.markdown import markdown
from evaluation.reports.throughput import describe_load_changes
from evaluation.scenario import Scenario, plan
from evaluation.schema import EventRow, Trial
from streaming.escaping import to_line
from tests.unit.evaluation import factories

TTFT_S, ANSWER_S = 0.2, 1.0


def make_rows(expected: Scenario, **changes: Any) -> Iterator[tuple[Trial, list[EventRow]]]:
    """Yield trials that follow one another, each of a second; every fifth one has a late first token."""
    for place, planned in enumerate(plan(expected)):
        late = place % 5 == 4
        fields = {
            "sent_monotonic_s": 100.0 + place, "intended_start_s": 100.0 + place, "e2e_s": ANSWER_S, "level": 1.0,
            "ttft_s": 0.6 if late else TTFT_S, "input_tokens": 50, "output_tokens": 30, "token_source": "reported",
        }  # fmt: skip
        made = factories.make_trial(planned, **(fields | changes))
        times = (0.6 if late else TTFT_S, ANSWER_S)
        yield made, [EventRow("run", made.trial_id, i, "source_text", 4, None, t, None) for i, t in enumerate(times)]


def load_run(folder: Path, repeats: int = 20, manifest: dict[str, Any] | None = None, **changes: Any) -> tables.Run:
    expected = factories.make_scenario(("sim:a",), repeats=repeats)
    factories.write_run(folder, expected, make_rows(expected, **changes), **(manifest or {}))
    return tables.from_journal(folder)


def test_run_has_throughput_and_goodput_under_its_objectives(tmp_path: Path) -> None:
    (level,) = throughput.load_levels(load_run(tmp_path, manifest={"slo": ["ttft_p95<300ms", "failed<1%"]}))
    assert (level.name, level.level, level.completed, level.is_cut) == ("sim:a", 1.0, 40, False)
    assert level.value("throughput") == pytest.approx(1.0) and level.value("goodput") == pytest.approx(0.8)
    assert level.value("input_throughput") == pytest.approx(50) and level.value("total_throughput") == pytest.approx(80)
    estimate = level.estimate("throughput")
    assert estimate.low is not None and estimate.high is not None and estimate.low <= 1.0 <= estimate.high
    assert level.outcome_shares()["completed"][0] == 1.0 and level.outcome_shares()["completed"][1] < 0.95


def test_run_of_an_older_version_has_throughput_by_its_wall_clock(tmp_path: Path) -> None:
    expected = factories.make_scenario(("sim:a",), repeats=10)
    rows: list[tuple[Trial, list[EventRow]]] = [
        (factories.make_trial(planned, started_at=f"2026-01-01T00:00:{place:02d}.000+00:00", e2e_s=1.0), [])
        for place, planned in enumerate(plan(expected))
    ]
    factories.write_run(tmp_path, expected, rows)
    (level,) = throughput.load_levels(tables.from_journal(tmp_path))
    assert level.value("throughput") == pytest.approx(1.0) and level.value("output_throughput") is None
    assert level.level == 1.0 and level.value("goodput") is None


def test_answer_without_value_is_not_good_but_value_unknown_to_all_is_unknown(tmp_path: Path) -> None:
    run = load_run(tmp_path)
    stalls = throughput.meets_objectives(run, slo.parse_slo("stalled<1%"))
    assert not stalls.any() and throughput.meets_objectives(run, slo.parse_slo("qoe_p50>0.5")).isna().all()
    own = throughput.meets_objectives(run, slo.parse_slo("icl_p99<500ms"))
    assert own.mean() == pytest.approx(0.2), "the late ones have a gap of 0.4 s, the others of 0.8 s"


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("throughput>0.5", "met"),
        ("throughput>3/s", "missed"),
        ("goodput>0.5/s,ttft_p95<300ms", "met"),
        ("goodput>0.9/s,ttft_p95<300ms", "missed"),
        ("output_throughput>20", "met"),
        ("goodput>1", "too few"),
    ],
)
def test_objective_on_the_load_is_met_or_missed(tmp_path: Path, text: str, outcome: str) -> None:
    (verdict,) = [
        v for v in slo_checks.check_objectives(load_run(tmp_path), slo.parse_slo(text)) if v.objective.stat == "load"
    ]
    assert (verdict.outcome, verdict.strategy) == (outcome, "1 at a time")


def test_few_answers_cannot_tell_the_throughput(tmp_path: Path) -> None:
    (verdict,) = slo_checks.check_objectives(load_run(tmp_path, repeats=4), slo.parse_slo("throughput>0.5"))
    assert (verdict.outcome, verdict.needed) == ("too few", 20)


def test_report_and_table_have_throughput(tmp_path: Path) -> None:
    run = load_run(tmp_path, manifest={"slo": ["ttft_p95<300ms"]})
    text = markdown(run)
    assert "## Throughput" in text and "| sim:a (simulated) | 1 at a time | 40 of 40 | 1.00 [" in text
    row = throughput.load_levels(run)[0].as_dict()
    assert row["goodput"] == pytest.approx(0.8) and row["failed_share_high"] < 0.1
    assert pd.DataFrame([row]).notna().all(axis=None)


def test_comparison_has_changes_of_throughput(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    result = compare(load_run(folders[0]), load_run(folders[1], output_tokens=60))
    by_metric = {change.metric: change for change in result.loads}
    assert by_metric["throughput"].ratio == pytest.approx(1.0)
    change = by_metric["output_throughput"]
    assert change.ratio == pytest.approx(2.0) and change.low is not None and 1.5 < change.low <= 2.0
    lines = list(describe_load_changes(result.loads, to_line))
    assert any("output tokens/s 30.0 in A, 60.0 in B: +100 % [" in line for line in lines)
