"""Comparison of two runs: verdicts with intervals, pairing, and no verdict from noise."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks._known_truth import Design, make_run
from evaluation import tables
from evaluation.__main__ import main
from evaluation.analysis import compare
from evaluation.analysis.compare import CellKey, MetricChange, RunComparison
from evaluation.analysis.metric_names import parse_metrics
from evaluation.prompts.prompt_file import BodySpec, Prompt, Turn
from evaluation.reports import compare as reports_compare
from evaluation.scenario import PlannedTrial, plan
from evaluation.schema import EventRow, Trial
from streaming.errors import UsageError
from streaming.escaping import to_line
from tests.unit.evaluation import factories

PROMPTS = tuple(Prompt(f"p{number}", f"Question {number}?") for number in range(8))


def write_run(folder: Path, slower_s: float = 0.0, providers: tuple[str, ...] = ("sim:a",), **changes: Any) -> Path:
    """Write a run with large differences between prompts and small ones between trials; `changes` override columns."""
    prompts = changes.pop("prompts", PROMPTS)
    expected = factories.make_scenario(providers, prompts=prompts, repeats=1)

    def ttft_s(planned: PlannedTrial) -> float:
        return 0.2 + 0.05 * int(planned.prompt.id[1:]) + 0.001 * (planned.number % 3) + slower_s

    folder.mkdir()
    rows: list[tuple[Trial, list[EventRow]]] = [
        (factories.make_trial(p, ttft_s=ttft_s(p), **changes), []) for p in plan(expected)
    ]
    factories.write_run(folder, expected, rows)
    return folder


def compare_folders(a: Path, b: Path, *watched: str) -> RunComparison:
    return compare.compare(tables.load(a), tables.load(b), watched)


def change_of_metric(result: RunComparison, metric: str) -> MetricChange:
    return next(change for change in result.changes if change.metric == metric)


def test_paired_trials_reveal_small_difference(tmp_path: Path) -> None:
    result = change_of_metric(compare_folders(write_run(tmp_path / "a"), write_run(tmp_path / "b", 0.04)), "ttft_s")
    assert result.verdict == "worse" and result.paired and result.n == 8 and result.comparisons == 1
    assert result.difference is not None and 0.09 < result.difference < 0.13
    assert (
        result.low is not None
        and result.high is not None
        and 0.06 < result.low < result.difference < result.high < 0.17
    )


@pytest.mark.parametrize(("slower_s", "verdict"), [(-0.04, "better"), (0.0, "equal"), (0.0005, "equal")])
def test_lower_time_is_better_beyond_margin(tmp_path: Path, slower_s: float, verdict: str) -> None:
    result = change_of_metric(compare_folders(write_run(tmp_path / "a"), write_run(tmp_path / "b", slower_s)), "ttft_s")
    assert result.verdict == verdict


def test_metrics_beside_the_primary_one_are_exploratory_unless_watched(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", output_tps=50.0), write_run(tmp_path / "b", output_tps=40.0)
    result = change_of_metric(compare_folders(a, b), "output_tps")
    assert result.verdict == "exploratory" and result.difference == pytest.approx(-0.2)
    (watched,) = compare_folders(a, b, "output_tps").watched
    assert watched.verdict == "worse" and watched.low == pytest.approx(-0.2, abs=0.001)


def test_answer_text_is_the_primary_metric_where_it_is_known(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", ttfot_s=0.5), write_run(tmp_path / "b", ttfot_s=0.9)
    result = compare_folders(a, b)
    assert change_of_metric(result, "ttfot_s").verdict == "worse"
    assert change_of_metric(result, "ttft_s").verdict == "exploratory"


def test_runs_with_different_prompts_are_compared_unpaired_and_told_apart(tmp_path: Path) -> None:
    others = tuple(Prompt(f"q{number}", f"Other {number}?") for number in range(8))
    comparison = compare_folders(write_run(tmp_path / "a"), write_run(tmp_path / "b", prompts=others))
    result = change_of_metric(comparison, "ttft_s")
    assert not result.paired and result.n == 8 and result.verdict == "cannot tell"
    assert "prompts: 8 in A, 8 in B, 0 in both" in comparison.differences


def test_prompts_that_send_something_else_under_the_same_id_are_told_apart(tmp_path: Path) -> None:
    plain, talk = Prompt("q1", "Why?"), Prompt("q1", "Why?", turns=(Turn("And how?"),))
    shapes = [Prompt("s2", "", body=BodySpec("s", 100, shared)) for shared in (0, 80)]
    a = write_run(tmp_path / "a", prompts=(plain, shapes[0]))
    b = write_run(tmp_path / "b", prompts=(talk, shapes[1]))
    facts = json.loads((b / "manifest.json").read_text())
    facts["scenario"]["think_s"] = 2.0
    (b / "manifest.json").write_text(json.dumps(facts))
    assert compare_folders(a, b).differences == ["think s: 0 in A, 2 in B", "prompts: 2 in A, 2 in B, 0 in both"]


def test_different_scenarios_and_served_models_are_said(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    facts = json.loads((b / "manifest.json").read_text())
    facts["scenario"]["max_tokens"] = 7
    (b / "manifest.json").write_text(json.dumps(facts))
    first, second = (
        replace(run, trials=run.trials.assign(model_served=service))
        for run, service in ((tables.load(a), "m-1"), (tables.load(b), "m-2"))
    )
    result = compare.compare(first, second)
    assert result.differences == ["max tokens: 128 in A, 7 in B", "served model of sim:a: m-1 in A, m-2 in B"]
    notes = "\n".join(reports_compare.comparison_notes(result, to_line))
    assert "Not alike: max tokens: 128 in A, 7 in B; served model of sim:a: m-1 in A, m-2 in B." in notes


def test_runs_with_nothing_in_common_and_settings_are_described_in_words(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", providers=("sim:other",))
    for folder, chosen in (
        (a, {"transport": ["in-process"], "warm": False, "effort": []}),
        (b, {"transport": ["sse"]}),
    ):
        facts = json.loads((folder / "manifest.json").read_text())
        kept = {key: value for key, value in facts["scenario"].items() if key not in {"warm", "effort"}}
        facts["scenario"] = kept | chosen
        (folder / "manifest.json").write_text(json.dumps(facts))
    result = compare_folders(a, b)
    notes = list(reports_compare.comparison_notes(result, to_line))
    assert notes[0] == "Nothing is compared: the runs have no provider and strategy in common."
    (unlike,) = (note for note in notes if note.startswith("Not alike: "))
    assert "transport: in-process in A, sse in B; " in unlike
    assert "warm: no in A, not given in B" in unlike and "effort" not in unlike


def test_too_few_trials_give_no_verdict(tmp_path: Path) -> None:
    few = PROMPTS[:2]
    result = change_of_metric(
        compare_folders(write_run(tmp_path / "a", prompts=few), write_run(tmp_path / "b", 0.5, prompts=few)), "ttft_s"
    )
    assert result.verdict == "too few to tell" and result.low is None


def test_failures_of_b_are_never_better(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", 0.5), write_run(tmp_path / "b")
    lines = (b / "trials.jsonl").read_text().splitlines()
    failed = [json.loads(line) | {"outcome": "failed", "ttft_s": None} for line in lines[:3]]
    (b / "trials.jsonl").write_text("\n".join([*map(json.dumps, failed), *lines[3:]]) + "\n")
    result = change_of_metric(compare_folders(a, b), "ttft_s")
    assert result.verdict == "cannot tell" and result.ratio is not None and result.ratio.basis == "signs"


def test_run_is_compared_with_its_own_form_before_more_repeats(tmp_path: Path) -> None:
    before = tables.load(write_run(tmp_path / "before", fresh=True))
    after = tables.load(write_run(tmp_path / "after", fresh=True))
    again = after.trials.assign(repeat=1, fresh=False, trial_id=after.trials["trial_id"] + "-again")
    grown = replace(after, trials=pd.concat([after.trials, again], ignore_index=True))
    result = compare.compare(before, grown)
    assert {change.cell.population for change in result.changes} == {"fresh"}
    assert [(len(result.only_a), [key.population for key in result.only_b])] == [(0, ["repeated"])]


@pytest.mark.parametrize("providers", [("sim:a", "sim:b"), ("sim:b", "sim:a")])
def test_changes_are_in_the_order_of_names_whichever_answer_ended_first(
    tmp_path: Path, providers: tuple[str, ...]
) -> None:
    a, b = (write_run(tmp_path / name, providers=providers) for name in ("a", "b"))
    result = compare_folders(a, b)
    names = list(dict.fromkeys(change.cell.provider for change in result.changes))
    assert names == ["sim:a", "sim:b"]


def test_cells_in_only_one_run_are_listed(tmp_path: Path) -> None:
    result = compare_folders(
        write_run(tmp_path / "a", providers=("sim:a", "b:c")), write_run(tmp_path / "b", providers=("b:c", "d:e"))
    )
    assert (result.only_a, result.only_b) == ([CellKey("sim:a", "direct")], [CellKey("d:e", "direct")])
    assert {c.cell.provider for c in result.changes} == {"b:c"}
    assert "Only in A: sim:a (simulated) × direct." in "\n".join(reports_compare.comparison_notes(result, to_line))


def test_compare_command_reports_and_sets_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b", 0.2))
    assert main(["compare", a, b, "--out", str(tmp_path / "found.md")]) == 0
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert data["worse"] == 1 and [c["metric"] for c in data["changes"] if c["verdict"] == "worse"] == ["ttft_s"]
    assert "| worse |" in (tmp_path / "found.md").read_text()
    assert main(["compare", a, b, "--fail-if-worse", "ttft"]) == 1
    assert "worse sim:a × direct: ttft_s" in capsys.readouterr().err
    assert main(["compare", b, a, "--fail-if-worse", "ttft,failed", "--slo", "ttft_max<800ms"]) == 0
    assert main(["compare", a, b, "--slo", "ttft_max<700ms"]) == 1
    assert "slo ttft_max<700ms: missed by 5" in capsys.readouterr().err
    assert main(["compare", a, b, "--slo", "ttft_p95<800ms"]) == 4
    assert "too few to tell from 8 answers, 59 are needed" in capsys.readouterr().err


def test_watched_metric_with_too_few_pairs_exits_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = PROMPTS[:2]
    a, b = write_run(tmp_path / "a", prompts=few), write_run(tmp_path / "b", prompts=few)
    assert main(["compare", str(a), str(b), "--fail-if-worse", "ttft"]) == 4
    assert "too few to tell sim:a × direct: ttft_s" in capsys.readouterr().err


def test_two_providers_of_runs_are_compared_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", providers=("sim:a", "b:c"))
    b = write_run(tmp_path / "b", 0.3, providers=("sim:a", "b:c"))
    assert main(["compare", f"{a}:sim:a", f"{b}:b:c"]) == 0
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {change["provider"] for change in data["changes"]} == {"sim:a → b:c"} and data["worse"] == 1
    assert main(["compare", f"{a}:sim:a", str(b)]) == 2
    assert "one side names a provider" in capsys.readouterr().err
    assert main(["compare", f"{a}:nobody", f"{b}:b:c"]) == 2
    assert "'nobody' is no provider of this run (choose from sim:a, b:c)" in capsys.readouterr().err


def test_runs_without_common_cells_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a", providers=("x:y",)), write_run(tmp_path / "b")
    assert main(["compare", str(a), str(b)]) == 2
    assert "completed in both" in capsys.readouterr().err


def test_fail_if_worse_rejects_neutral_metric() -> None:
    with pytest.raises(UsageError, match="'updates_per_s' cannot get better or worse"):
        parse_metrics("ttft,updates_per_s", "--fail-if-worse")


def test_primary_metrics_make_the_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a", output_tps=50.0), write_run(tmp_path / "b", output_tps=40.0)
    assert main(["compare", str(a), str(b), "--primary", "output_tps"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    changes = json.loads(last)["changes"]
    assert {(change["metric"], change["verdict"]) for change in changes} == {("output_tps", "worse")}
    assert any(re.search(r"ttft \(ms\) .* exploratory", line) for line in lines)
    assert main(["compare", str(a), str(b), "--primary", "failed"]) == 2


def test_runs_answered_by_others_say_so(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", model_served="m-1", provider_served="DeepInfra")
    b = write_run(tmp_path / "b", model_served="m-1", provider_served="Novita")
    clause = "served model of sim:a: m-1 at DeepInfra in A, m-1 at Novita in B"
    assert compare_folders(a, b).differences == [clause]
    assert f"Not alike: {clause}." in list(reports_compare.comparison_notes(compare_folders(a, b), to_line))


def test_claim_of_few_slow_trials_says_so() -> None:
    design, noise = Design(24), np.exp(np.random.default_rng(10).normal(0, 0.02, 24))
    even, tailed = np.ones(24), noise * np.where(np.arange(24) % 4 == 1, 8, 1)
    first, second = (make_run(design, {"a": 0.3 * values}) for values in (even, tailed))
    notes = list(reports_compare.comparison_notes(compare.compare(first, second), to_line))
    assert "B is worse than A" in notes[0] and "; some slow trials make it: in the median pair it is " in notes[0]


def test_claim_without_common_prompts_is_said_to_be_unpaired() -> None:
    first, second = make_run(Design(8), {"a": np.full(8, 0.2)}), make_run(Design(8), {"a": np.full(8, 0.4)})
    others = second.trials.assign(prompt_id="other-" + second.trials["prompt_id"])
    notes = list(reports_compare.comparison_notes(compare.compare(first, replace(second, trials=others)), to_line))
    assert "(8 trials, unpaired)" in notes[0] and "pairs" not in notes[0]
