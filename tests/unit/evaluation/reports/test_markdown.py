"""The Markdown report on small synthetic runs: numbers, dashes for unknown values, labels and notes."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from evaluation import tables
from evaluation.analysis import summary
from evaluation.analysis.findings import Findings
from evaluation.analysis.loading import load
from evaluation.analysis.statistics import Estimate
from evaluation.prompts.prompt_file import Prompt
from evaluation.reports import formatting, markdown, terminal
from evaluation.scenario import PlannedTrial, plan
from evaluation.schema import EventRow, Trial
from tests.unit.evaluation import factories

PROMPTS = tuple(Prompt(f"p{number}", f"Question {number}?") for number in range(8))
SCENARIO = factories.make_scenario(prompts=PROMPTS, repeats=1)


def write_and_report(folder: Path, change: Any = None, **facts: Any) -> str:
    """Report a run whose provider `b:c` is 100 ms slower than `sim:a`; `change` returns a trial's other columns."""

    def make_row(planned: PlannedTrial) -> tuple[Trial, list[EventRow]]:
        ttft_s = 0.2 + 0.001 * planned.block + (0.1 if planned.provider == "b:c" else 0.0)
        columns = {"ttft_s": ttft_s} | (change(planned) if change else {})
        return factories.make_trial(planned, **columns), factories.make_gap_events(planned, 0.02, 0.03)

    folder.mkdir(exist_ok=True)
    factories.write_run(folder, SCENARIO, map(make_row, plan(SCENARIO)), **facts)
    markdown.write_report(folder)
    return (folder / markdown.REPORT_FILE).read_text(encoding="utf-8")


def find_line(text: str, start: str) -> str:
    return next(entry for entry in text.splitlines() if entry.startswith(start))


def line_cells(text: str, start: str) -> list[str]:
    return [cell.strip() for cell in find_line(text, start).strip("|").split("|")]


def test_report_starts_with_finding_and_interval(tmp_path: Path) -> None:
    text = write_and_report(tmp_path)
    assert find_line(text, "**") == (
        "**sim:a (simulated) is better than b:c: first token (TTFT) of b:c is 49 % slower [43, 55] (8 pairs).**"
    )
    assert "Only this comparison claims anything" in text
    assert "16 of 16 trials completed." in text


def test_equal_providers_are_reported_within_noise(tmp_path: Path) -> None:
    text = write_and_report(tmp_path, lambda p: {"ttft_s": 0.2 + (0.01 if p.number % 2 else 0.0)})
    assert find_line(text, "**").startswith("**Cannot tell sim:a (simulated) from b:c:")


def test_results_table_shows_dash_for_unknown_values(tmp_path: Path) -> None:
    text = write_and_report(tmp_path)
    row = dict(
        zip(line_cells(text, "| provider | strategy | prompts"), line_cells(text, "| b:c | direct"), strict=True)
    )
    assert row["completed"] == "8 of 8" and row["gaps"] == "16"
    assert row["TTFT ms"].startswith("304 [") or row["TTFT ms"].startswith("305 [")
    assert (row["gap p50 ms"], row["p95"], row["p99"]) == ("25.0 [20.0, 25.0]", "30.0", "30.0")
    for unknown in ("tokens/chunk", "tokens are", "stalls", "stalled ms", "cost USD"):
        assert row[unknown] == formatting.UNKNOWN, unknown


def test_gap_percentiles_are_pooled_over_trials(tmp_path: Path) -> None:
    first, second, *_ = plan(factories.make_scenario(("sim:a",), repeats=1))
    rows = [
        (factories.make_trial(first), factories.make_gap_events(first, *[0.01] * 99)),
        (factories.make_trial(second), factories.make_gap_events(second, 1.0)),
    ]
    factories.write_run(tmp_path, factories.make_scenario(("sim:a",)), rows)
    (group,) = summary.groups(tables.from_journal(tmp_path))
    assert group.gaps == 100 and group.gap_p95_s.value == pytest.approx(0.01)


def test_single_provider_is_described_in_one_sentence(tmp_path: Path) -> None:
    expected = factories.make_scenario(("sim:a",), prompts=PROMPTS, repeats=1)
    factories.write_run(
        tmp_path, expected, [(factories.make_trial(p), factories.make_gap_events(p, 0.02)) for p in plan(expected)]
    )
    markdown.write_report(tmp_path)
    text = (tmp_path / markdown.REPORT_FILE).read_text(encoding="utf-8")
    assert find_line(text, "**sim:a") == (
        "**sim:a (simulated): first answer text after 200 [200, 200] ms, then a chunk every 20.0 ms (medians, 8 "
        "trials).**"
    )


def test_metric_explanation_appears_only_with_metric(tmp_path: Path) -> None:
    assert (
        "Fluidity:" not in write_and_report(tmp_path / "without")
        and "QoE:" not in (tmp_path / "without/report.md").read_text()
    )
    text = write_and_report(tmp_path / "with", lambda p: {"fluidity": 0.5, "qoe": 0.25})
    assert "a token every 100 ms" in text and "QoE: 1 is a reader of 23.8 characters/s" in text
    assert line_cells(text, "| provider | strategy | prompts | fluidity")[3:] == ["fluidity", "QoE"]
    assert "QoE" not in write_and_report(tmp_path / "perfect", lambda p: {"qoe": 1.0}), (
        "1.00 for everybody says nothing"
    )


def test_failed_trials_are_listed_with_reasons_and_excluded_from_metrics(tmp_path: Path) -> None:
    def failure_columns(planned: PlannedTrial) -> dict[str, Any]:
        if planned.provider != "b:c":
            return {}
        reason = {"error_type": "auth", "error_message": "key | refused", "http_status": 401}
        return {"outcome": "failed", "ttft_s": None, **reason}

    text = write_and_report(tmp_path, failure_columns)
    assert line_cells(text, "| b:c | failed") == ["b:c", "failed", "auth", "401", "key \\", "refused", "8"]
    row = line_cells(text, "| b:c | direct | all | 0 of 8")
    assert set(row[4:]) == {formatting.UNKNOWN, "0"}, "no figure, and no gap of a failed trial"
    assert line_cells(text, "| b:c | 8 |")[2] == "∞ [∞, ∞]" and "| 100 % [68, 100] |" in text
    assert find_line(text, "**").endswith("Failed: b:c 8 of 8 (100 %).**")
    assert "8 of 16 trials completed." in text
    assert not re.search(r"\b(nan|NaN|None|<NA>)\b", text)


def test_run_without_completed_trial_has_no_results_table(tmp_path: Path) -> None:
    text = write_and_report(
        tmp_path, lambda p: {"outcome": "truncated", "error_type": "truncated", "error_message": "cut"}
    )
    assert "No trial was completed" in text and "## Cadence" not in text and "## Exploratory" not in text
    assert "0 of 16 trials completed" in text


def test_stopped_run_is_labelled_in_report(tmp_path: Path) -> None:
    assert "the run was stopped: 16 of 16 planned" in write_and_report(tmp_path, complete=False, interrupted=True)


def test_killed_run_is_labelled_in_report(tmp_path: Path) -> None:
    assert "the run has not reached its end" in write_and_report(tmp_path, complete=False, finished_at=None)


def test_cost_sum_covers_only_priced_trials(tmp_path: Path) -> None:
    def price_columns(planned: PlannedTrial) -> dict[str, Any]:
        if planned.provider == "sim:a" or planned.block == 1:
            return {}
        return {"cost_usd": Decimal("0.001"), "price_source": "user", "token_source": "counted"}

    text = write_and_report(tmp_path, price_columns)
    row = dict(
        zip(line_cells(text, "| provider | strategy | prompts"), line_cells(text, "| b:c | direct"), strict=True)
    )
    assert row["cost USD"] == "0.007 (7 of 8 trials)" and row["tokens are"] == "counted"
    assert "- prices: user; price date: not known" in text


def test_prompt_cache_hits_are_reported(tmp_path: Path) -> None:
    def cache_columns(planned: PlannedTrial) -> dict[str, Any]:
        known = {"input_tokens": 40, "cached_tokens": 30 if planned.block > 1 else 10}
        return known if planned.provider == "b:c" else known | {"cached_tokens": 0}

    text = write_and_report(tmp_path, cache_columns)
    assert find_line(text, "- b:c had").startswith(
        "- b:c had 75 % of a prompt's tokens in its cache (median; 25 to 75 %, in 8"
    )
    assert "sim:a (simulated) had" not in text


def test_provenance_names_machine_and_missing_calibration(tmp_path: Path) -> None:
    text = write_and_report(tmp_path, lambda p: {"loop_lag_max_s": 0.002})
    assert "- instrument error: not calibrated" in text
    assert re.search(r"^- versions: python 3\.", text, re.M) and "- cpu count: " in text
    assert "maximum 2.00 ms" in text and "seed 3" in text


def test_journal_without_manifest_is_reported(tmp_path: Path) -> None:
    write_and_report(tmp_path)
    (tmp_path / "manifest.json").unlink()
    markdown.write_report(tmp_path)
    assert "The manifest is missing" in (tmp_path / markdown.REPORT_FILE).read_text(encoding="utf-8")


def test_empty_run_is_reported_as_empty(tmp_path: Path) -> None:
    factories.write_run(tmp_path, SCENARIO, [], complete=False)
    markdown.write_report(tmp_path)
    assert "0 of 0 trials completed" in (tmp_path / markdown.REPORT_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0.00"), (0.0123, "12.3"), (1.2345, "1234"), (-0.0005, "-0.50"), (-1e-6, "0.00")],
)
def test_format_ms_uses_three_significant_digits(seconds: float | None, text: str) -> None:
    assert formatting.format_ms(seconds) == text


def test_format_interval_without_bounds_shows_median_alone() -> None:
    assert formatting.format_interval(Estimate(3, 0.2), in_ms=True) == "200"
    assert formatting.format_interval(Estimate(0), in_ms=True) == "–"
    assert formatting.format_interval(Estimate(9, 0.2, 0.1, 0.3), in_ms=True) == "200 [100, 300]"


def test_format_usd_keeps_small_amounts() -> None:
    assert (formatting.format_usd(0.000012), formatting.format_usd(0.0), formatting.format_usd(None)) == (
        "0.000012",
        "0",
        "–",
    )


def test_cost_of_estimated_tokens_is_marked_in_report_and_terminal(tmp_path: Path) -> None:
    def change(planned: PlannedTrial) -> dict[str, Any]:
        estimated = planned.provider == "b:c" and planned.block == 1
        return {"cost_usd": Decimal("0.25"), "token_source": "estimated" if estimated else "reported"}

    text = write_and_report(tmp_path, change)
    assert (
        line_cells(text, "| b:c | direct")[-1] == "≈ 2" and line_cells(text, "| sim:a (simulated) | direct")[-1] == "2"
    )
    run = tables.load(tmp_path)
    table = terminal.summary_table(run, Findings.from_run(run))
    column = next(column for column in table.columns if column.header == "USD")
    assert list(column.cells) == ["2", "≈ 2"]


@pytest.mark.parametrize(("source", "words"), [("kernel", "it affects no metric"), ("in-process", "not an error bar")])
def test_loop_lag_is_reported_with_its_effect(tmp_path: Path, source: str, words: str) -> None:
    text = write_and_report(tmp_path, lambda _: {"stamp_source": source, "loop_lag_max_s": 0.03})
    assert "maximum 30.0 ms" in find_line(text, "- worst event-loop lag") and words in find_line(
        text, "- worst event-loop lag"
    )


def test_disturbed_trials_are_reported_with_cause(tmp_path: Path) -> None:
    def change(planned: PlannedTrial) -> dict[str, Any]:
        return {"stamp_source": "kernel", "merged_reads": int(planned.number == 1), "disturbed": planned.number < 4}

    text = write_and_report(tmp_path, change)
    note = "3 of 16 trials were disturbed by the instrument itself: 1 had reads that may contain several sends"
    assert note in find_line(text, "- **3 of 16") and "2 had timestamps taken by the event loop" in find_line(
        text, "- **3 of 16"
    )


def test_undisturbed_run_has_no_disturbance_note(tmp_path: Path) -> None:
    assert "disturbed" not in write_and_report(tmp_path, lambda _: {"stamp_source": "kernel", "disturbed": False})


def test_ttft_from_intended_start_is_shown_only_where_known(tmp_path: Path) -> None:
    text = write_and_report(tmp_path, lambda _: {"ttft_total_s": 0.345})
    assert "| TTFT from the intended start ms |" in text and "| 345 [345, 345] |" in text
    assert "intended start" not in write_and_report(tmp_path / "other", lambda _: {"ttft_total_s": None})


def test_report_names_who_answered_and_checks_ttft_against_the_server(tmp_path: Path) -> None:
    def change(planned: PlannedTrial) -> dict[str, Any]:
        upstream = "Novita" if planned.prompt == SCENARIO.prompts[0] else "DeepInfra"
        return {"model_served": "m-1", "provider_served": upstream, "server_queue_s": 0.05, "server_prefill_s": 0.1}

    text = write_and_report(tmp_path, change)
    rest = 8 - SCENARIO.repeats
    assert f"was answered by: m-1 at DeepInfra ({rest} of 8), m-1 at Novita ({SCENARIO.repeats} of 8)" in text
    line = find_line(text, "- outside check: sim:a (simulated) itself reports 150 ms")
    assert "TTFT measured here: 205 ms; network and all else: 54.5" in line


def test_report_without_other_origin_has_no_line_about_it(tmp_path: Path) -> None:
    text = write_and_report(tmp_path)
    assert "was answered by" not in text and "outside check" not in text


def test_run_loaded_for_notebooks_has_the_same_escaped_report(tmp_path: Path) -> None:
    write_and_report(tmp_path, lambda p: {"model": "<b>c|d</b>"})
    run = load(tmp_path)
    assert markdown.markdown(run) == (tmp_path / markdown.REPORT_FILE).read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<b>", markdown.markdown(run))


def test_report_names_addresses_only_of_provider_reached_at_several(tmp_path: Path) -> None:
    def reach(planned: PlannedTrial) -> dict[str, str]:
        is_other = planned.provider == "b:c" and planned.block % 4 == 0
        return {"peer_address": "::1" if is_other else "127.0.0.1"}

    text = write_and_report(tmp_path, reach)
    assert find_line(text, "- b:c was reached") == (
        "- b:c was reached at different addresses: 127.0.0.1 (6 of 8), ::1 (2 of 8) (column `peer_address`)"
    )
    assert "sim:a was reached" not in text
