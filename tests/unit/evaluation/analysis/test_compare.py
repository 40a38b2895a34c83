"""Comparison of two runs: verdicts with intervals, pairing, and no verdict from noise."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation import tables
from evaluation.__main__ import main
from evaluation.analysis import compare
from evaluation.analysis.compare import Comparison, MetricChange
from evaluation.escaping import to_line
from evaluation.prompt_file import Prompt
from evaluation.reports import compare as reports_compare
from evaluation.scenario import PlannedTrial, plan
from evaluation.schema import EventRow, Trial
from streaming.errors import UsageError
from tests.unit.evaluation import factories


def write_run(folder: Path, slower_s: float = 0.0, providers: tuple[str, ...] = ("sim:a",), **changes: Any) -> Path:
    """Write a run with large differences between prompts and small ones between repeats; `changes` override columns."""
    prompts = changes.pop("prompts", factories.PROMPTS)
    expected = factories.make_scenario(providers, prompts=prompts)

    def ttft_s(planned: PlannedTrial) -> float:
        return 0.2 + (0.5 if planned.prompt.id == "two" else 0.0) + 0.001 * planned.repeat + slower_s

    folder.mkdir()
    rows: list[tuple[Trial, list[EventRow]]] = [
        (factories.make_trial(p, ttft_s=ttft_s(p), **changes), []) for p in plan(expected)
    ]
    factories.write_run(folder, expected, rows)
    return folder


def compare_folders(a: Path, b: Path) -> Comparison:
    return compare.compare(tables.load(a), tables.load(b))


def change_of_metric(result: Comparison, metric: str) -> MetricChange:
    return next(change for change in result.changes if change.metric == metric)


def test_paired_trials_reveal_small_difference(tmp_path: Path) -> None:
    result = change_of_metric(compare_folders(write_run(tmp_path / "a"), write_run(tmp_path / "b", 0.02)), "ttft_s")
    assert result.verdict == "worse" and result.paired and result.difference.n == 8
    assert result.difference.value == pytest.approx(0.02) and result.percent == pytest.approx(0.02 / result.a * 100)


@pytest.mark.parametrize(("slower_s", "verdict"), [(-0.02, "better"), (0.0, "noise"), (0.0005, "noise")])
def test_lower_time_is_better_beyond_resolution(tmp_path: Path, slower_s: float, verdict: str) -> None:
    result = change_of_metric(compare_folders(write_run(tmp_path / "a"), write_run(tmp_path / "b", slower_s)), "ttft_s")
    assert verdict in result.verdict


def test_higher_throughput_is_better_and_updates_are_neutral(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", output_tps=50.0, updates_per_s=10.0)
    result = compare_folders(a, write_run(tmp_path / "b", output_tps=60.0, updates_per_s=20.0))
    assert (
        change_of_metric(result, "output_tps").verdict == "better"
        and change_of_metric(result, "updates_per_s").verdict == "more"
    )


def test_runs_with_different_prompts_are_compared_unpaired(tmp_path: Path) -> None:
    others = (Prompt("three", "Three?"), Prompt("four", "Four?"))
    result = change_of_metric(
        compare_folders(write_run(tmp_path / "a"), write_run(tmp_path / "b", prompts=others)), "ttft_s"
    )
    assert not result.paired and result.difference.n == 8 and result.difference.low is not None


def test_failures_are_compared_as_shares_of_trials(tmp_path: Path) -> None:
    result = change_of_metric(
        compare_folders(write_run(tmp_path / "a"), write_run(tmp_path / "b", outcome="failed")), "failed"
    )
    assert (result.a, result.b, result.verdict) == (0.0, 1.0, "worse")


def test_too_few_trials_give_no_verdict(tmp_path: Path) -> None:
    one = factories.PROMPTS[:1]
    result = change_of_metric(
        compare_folders(write_run(tmp_path / "a", prompts=one), write_run(tmp_path / "b", 0.5, prompts=one)), "ttft_s"
    )
    assert result.verdict == "too few pairs to tell" and result.difference.low is None


def test_cells_in_only_one_run_are_listed(tmp_path: Path) -> None:
    result = compare_folders(
        write_run(tmp_path / "a", providers=("sim:a", "b:c")), write_run(tmp_path / "b", providers=("b:c", "d:e"))
    )
    assert (result.only_a, result.only_b) == ([("sim:a", "direct")], [("d:e", "direct")])
    assert {c.provider for c in result.changes} == {"b:c"}
    assert "Only in A: sim:a (simulated) × direct." in "\n".join(reports_compare.comparison_notes(result, to_line))


def test_compare_command_reports_and_sets_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b", 0.1))
    assert main(["compare", a, b, "--out", str(tmp_path / "found.md")]) == 0
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert data["worse"] == 1 and data["changes"][2]["metric"] == "ttft_s"
    assert "| worse |" in (tmp_path / "found.md").read_text()
    assert main(["compare", a, b, "--fail-if-worse", "ttft"]) == 1
    assert "worse sim:a × direct: ttft_s" in capsys.readouterr().err
    assert main(["compare", b, a, "--fail-if-worse", "ttft,failed", "--slo", "ttft_max<800ms"]) == 0
    assert main(["compare", a, b, "--slo", "ttft_max<800ms"]) == 1
    assert "slo ttft_max<800ms: missed by 4 ms" in capsys.readouterr().err


def test_runs_without_common_cells_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a", providers=("x:y",)), write_run(tmp_path / "b")
    assert main(["compare", str(a), str(b)]) == 2
    assert "completed in both" in capsys.readouterr().err


def test_fail_if_worse_rejects_neutral_metric() -> None:
    with pytest.raises(UsageError, match="'updates_per_s' cannot get worse"):
        compare.parse_metrics("ttft,updates_per_s")
