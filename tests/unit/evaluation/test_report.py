"""The report on small made data: no number invented, the unknown a dash, what is simulated called so."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from evaluation import report, summary, tables, terminal, wording
from evaluation.record import EventRow, Trial
from evaluation.scenario import Planned, plan
from evaluation.statistics import Estimate
from tests.unit.evaluation import made

WANTED = made.scenario()


def written(folder: Path, change: Any = None, **facts: Any) -> str:
    """Write a run whose provider `b:c` is 100 ms slower than `sim:a`; `change` gives a trial's other columns."""

    def row(planned: Planned) -> tuple[Trial, list[EventRow]]:
        ttft_s = 0.2 + 0.001 * planned.block + (0.1 if planned.provider == "b:c" else 0.0)
        columns = {"ttft_s": ttft_s} | (change(planned) if change else {})
        return made.trial(planned, **columns), made.gaps(planned, 0.02, 0.03)

    folder.mkdir(exist_ok=True)
    made.write(folder, WANTED, map(row, plan(WANTED)), **facts)
    report.rebuild(folder)
    return (folder / report.REPORT).read_text(encoding="utf-8")


def line(text: str, start: str) -> str:
    return next(found for found in text.splitlines() if found.startswith(start))


def cells(text: str, start: str) -> list[str]:
    return [cell.strip() for cell in line(text, start).strip("|").split("|")]


def test_the_first_sentence_is_the_finding_with_its_interval(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert line(text, "**First token") == (
        "**First token (TTFT), b:c against sim:a (simulated): 100 ms more "
        "(median of 8 paired differences 100 [100, 100] ms).**"
    )
    assert "16 of 16 trials completed." in text


def test_equal_providers_differ_by_noise_only(tmp_path: Path) -> None:
    text = written(tmp_path, lambda p: {"ttft_s": 0.2 + (0.01 if p.number % 2 else 0.0)})
    assert "no difference within the noise" in line(text, "**First token")


def test_the_main_table_has_what_was_measured_and_a_dash_for_the_rest(tmp_path: Path) -> None:
    text = written(tmp_path)
    row = dict(zip(cells(text, "| provider | strategy | trials"), cells(text, "| b:c | direct | 8"), strict=True))
    assert row["completed"] == "8" and row["gaps"] == "16"
    assert row["TTFT ms"].startswith("304 [") or row["TTFT ms"].startswith("305 [")
    assert (row["gap p50 ms"], row["p95"], row["p99"]) == ("25.0", "30.0", "30.0")
    for unknown in ("tokens/s", "tokens are", "stalls", "stalled ms", "cost USD"):
        assert row[unknown] == wording.UNKNOWN, unknown


def test_gaps_are_pooled_and_percentiles_are_not_averaged(tmp_path: Path) -> None:
    first, second, *_ = plan(made.scenario(("sim:a",), prompts=made.PROMPTS[:1], repeats=2))
    rows = [
        (made.trial(first), made.gaps(first, *[0.01] * 99)),
        (made.trial(second), made.gaps(second, 1.0)),
    ]
    made.write(tmp_path, made.scenario(("sim:a",)), rows)
    (group,) = summary.groups(tables.from_journal(tmp_path))
    assert group.gaps == 100 and group.gap_p95_s == pytest.approx(0.01)


def test_one_provider_alone_is_told_in_a_sentence(tmp_path: Path) -> None:
    wanted = made.scenario(("sim:a",))
    made.write(tmp_path, wanted, [(made.trial(p), made.gaps(p, 0.02)) for p in plan(wanted)])
    report.rebuild(tmp_path)
    text = (tmp_path / report.REPORT).read_text(encoding="utf-8")
    assert line(text, "**sim:a") == (
        "**sim:a (simulated): first token after 200 [200, 200] ms, then a chunk every 20.0 ms (medians, 8 trials).**"
    )


def test_what_explains_a_figure_is_there_with_the_figure_only(tmp_path: Path) -> None:
    assert (
        "Fluidity:" not in written(tmp_path / "without") and "QoE:" not in (tmp_path / "without/report.md").read_text()
    )
    text = written(tmp_path / "with", lambda p: {"fluidity": 0.5, "qoe": 0.25})
    assert "a token every 100 ms" in text and "QoE: 1 is a reader of 23.8 characters/s" in text
    assert cells(text, "| provider | strategy | fluidity")[2:] == ["fluidity", "QoE"]


def test_failures_are_listed_with_reasons_and_have_no_figures(tmp_path: Path) -> None:
    def broken(planned: Planned) -> dict[str, Any]:
        if planned.provider != "b:c":
            return {}
        reason = {"error_type": "auth", "error_message": "key | refused", "http_status": 401}
        return {"outcome": "failed", "ttft_s": None, **reason}

    text = written(tmp_path, broken)
    assert cells(text, "| b:c | failed") == ["b:c", "failed", "auth", "401", "key \\", "refused", "8"]
    row = cells(text, "| b:c | direct | 8")
    assert row[3] == "0" and set(row[4:]) == {wording.UNKNOWN, "0"}, "no figure, and no gap of a failed trial"
    assert "8 of 16 trials completed." in text
    assert not re.search(r"\b(nan|NaN|None|<NA>)\b", text)


def test_a_run_without_a_completed_trial_has_no_figures_at_all(tmp_path: Path) -> None:
    text = written(tmp_path, lambda p: {"outcome": "truncated", "error_type": "truncated", "error_message": "cut"})
    assert "No trial was completed" in text and "## Figures" not in text and "## Differences" not in text
    assert "0 of 16 trials completed" in text


def test_a_run_that_was_cut_short_says_so(tmp_path: Path) -> None:
    assert "the run was stopped: 16 of 16 planned" in written(tmp_path, complete=False, interrupted=True)


def test_a_killed_run_says_so(tmp_path: Path) -> None:
    assert "the run has not reached its end" in written(tmp_path, complete=False, finished_at=None)


def test_costs_are_summed_over_what_has_a_price(tmp_path: Path) -> None:
    def priced(planned: Planned) -> dict[str, Any]:
        if planned.provider == "sim:a" or planned.block == 1:
            return {}
        return {"cost_usd": Decimal("0.001"), "price_source": "user", "token_source": "counted"}

    text = written(tmp_path, priced)
    row = dict(zip(cells(text, "| provider | strategy | trials"), cells(text, "| b:c | direct | 8"), strict=True))
    assert row["cost USD"] == "0.007 (7 of 8 trials)" and row["tokens are"] == "counted"
    assert "- prices: user; price date: not known" in text


def test_a_prompt_from_the_providers_cache_is_told(tmp_path: Path) -> None:
    def cached(planned: Planned) -> dict[str, Any]:
        known = {"input_tokens": 40, "cached_tokens": 30 if planned.repeat > 1 else 10}
        return known if planned.provider == "b:c" else known | {"cached_tokens": 0}

    text = written(tmp_path, cached)
    assert line(text, "b:c had").startswith("b:c had 75 % of a prompt's tokens in its cache (median; 25 to 75 %, in 8")
    assert "sim:a (simulated) had" not in text


def test_provenance_names_the_machine_and_does_not_claim_a_calibration(tmp_path: Path) -> None:
    text = written(tmp_path, lambda p: {"loop_lag_max_s": 0.002})
    assert "- instrument error: not calibrated" in text
    assert re.search(r"^- versions: python 3\.", text, re.M) and "- cpu count: " in text
    assert "maximum 2.00 ms" in text and "seed 3" in text


def test_a_journal_without_manifest_still_gives_a_report(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "manifest.json").unlink()
    report.rebuild(tmp_path)
    assert "The manifest is missing" in (tmp_path / report.REPORT).read_text(encoding="utf-8")


def test_an_empty_run_gives_an_empty_report(tmp_path: Path) -> None:
    made.write(tmp_path, WANTED, [], complete=False)
    report.rebuild(tmp_path)
    assert "0 of 0 trials completed" in (tmp_path / report.REPORT).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0.00"), (0.0123, "12.3"), (1.2345, "1234"), (-0.0005, "-0.50"), (-1e-6, "0.00")],
)
def test_milliseconds_have_three_figures_or_so(seconds: float | None, text: str) -> None:
    assert wording.ms(seconds) == text


def test_a_median_without_interval_stands_alone() -> None:
    assert wording.span(Estimate(3, 0.2), in_ms=True) == "200"
    assert wording.span(Estimate(0), in_ms=True) == "–"
    assert wording.span(Estimate(9, 0.2, 0.1, 0.3), in_ms=True) == "200 [100, 300]"


def test_money_keeps_small_amounts() -> None:
    assert (wording.usd(0.000012), wording.usd(0.0), wording.usd(None)) == ("0.000012", "0", "–")


def test_a_cost_of_estimated_tokens_says_so_in_report_and_terminal(tmp_path: Path) -> None:
    def change(planned: Planned) -> dict[str, Any]:
        estimated = planned.provider == "b:c" and planned.block == 1
        return {"cost_usd": Decimal("0.25"), "token_source": "estimated" if estimated else "reported"}

    text = written(tmp_path, change)
    assert cells(text, "| b:c | direct | 8")[-1] == "≈ 2" and cells(text, "| sim:a (simulated) | direct | 8")[-1] == "2"
    column = terminal.table(tables.load(tmp_path)).columns[-1]
    assert list(column.cells) == ["2", "≈ 2"]


@pytest.mark.parametrize(("source", "words"), [("kernel", "in no figure"), ("in-process", "no error bar")])
def test_the_loops_lag_is_told_with_what_it_means(tmp_path: Path, source: str, words: str) -> None:
    text = written(tmp_path, lambda _: {"stamp_source": source, "loop_lag_max_s": 0.03})
    assert "maximum 30.0 ms" in line(text, "- worst event-loop lag") and words in line(text, "- worst event-loop lag")


def test_trials_that_the_instrument_disturbed_are_told_with_why(tmp_path: Path) -> None:
    def change(planned: Planned) -> dict[str, Any]:
        return {"stamp_source": "kernel", "merged_reads": int(planned.number == 1), "disturbed": planned.number < 4}

    text = written(tmp_path, change)
    told = "3 of 16 trials were disturbed by the instrument itself: 1 had reads that may hold several sends"
    assert told in line(text, "- **3 of 16") and "2 had stamps that wait" in line(text, "- **3 of 16")


def test_undisturbed_trials_are_not_spoken_of(tmp_path: Path) -> None:
    assert "disturbed" not in written(tmp_path, lambda _: {"stamp_source": "kernel", "disturbed": False})


def test_what_was_waited_from_the_intended_start_on_is_there_where_it_is_known(tmp_path: Path) -> None:
    text = written(tmp_path, lambda _: {"ttft_total_s": 0.345})
    assert "| TTFT from the intended start ms |" in text and "| 345 [345, 345] |" in text
    assert "intended start" not in written(tmp_path / "other", lambda _: {"ttft_total_s": None})
