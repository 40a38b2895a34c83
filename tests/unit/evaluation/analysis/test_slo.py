"""Service-level objectives: parsing, checking, and objectives that were not measured."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._known_truth import Design, make_run
from evaluation import tables
from evaluation.analysis import slo, slo_checks
from evaluation.analysis.slo_checks import Verdict
from evaluation.scenario import plan
from evaluation.schema import EventRow, Trial
from streaming.errors import UsageError
from tests.unit.evaluation import factories


def check_slo(folder: Path, text: str, change: Any = None) -> list[Verdict]:
    """Check an SLO on a run of eight trials with TTFT of 201 to 208 ms."""
    expected = factories.make_scenario(("sim:a",))
    rows = []
    for planned in plan(expected):
        columns = {"ttft_s": 0.2 + 0.001 * planned.block, "stalls": 0} | (change(planned) if change else {})
        rows.append((factories.make_trial(planned, **columns), factories.make_gap_events(planned, 0.02, 0.04)))
    factories.write_run(folder, expected, rows)
    return slo_checks.check_objectives(tables.from_journal(folder), slo.parse_slo(text))


@pytest.mark.parametrize(
    ("text", "column", "stat", "limit"),
    [
        ("ttft_p95<800ms", "ttft_s", "p95", 0.8),
        ("ttft_p99.9<800ms", "ttft_s", "p99.9", 0.8),
        ("ttft_p90<1s", "ttft_s", "p90", 1.0),
        ("ttft_s_p95<0.8s", "ttft_s", "p95", 0.8),
        ("icl_p99 <= 50 ms", "icl", "p99", 0.05),
        ("icl_p95_max<50ms", "icl_p95_s", "max", 0.05),
        ("output_tps_p50>=30", "output_tps", "p50", 30.0),
        ("cost_max<0.01usd", "cost_usd", "max", 0.01),
        ("failed<0.5%", "failed", "share", 0.005),
        ("stalled<0.01", "stalled", "share", 0.01),
        ("qoe_p50>0.9", "qoe", "p50", 0.9),
    ],
)
def test_objective_is_parsed_in_column_unit(text: str, column: str, stat: str, limit: float) -> None:
    (result,) = slo.parse_slo(text)
    assert (result.column, result.stat) == (column, stat) and result.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no objective"),
        ("ttft_p95", "'ttft_p95' is not"),
        ("failed<1%,ttfx_p95<1s", "no column 'ttfx' (did you mean ttft_s"),
        ("ttft_mean<1s", "use failed, stalled, or a column"),
        ("ttft_p100<1s", "use failed, stalled, or a column"),
        ("ttft_p95<800", "no valid unit (use 'ms' or 's'"),
        ("ttft_p95<800kg", "no valid unit"),
        ("cost_p95<1s", "no valid unit (use 'usd'"),
    ],
)
def test_invalid_objective_part_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError) as excinfo:
        slo.parse_slo(text)
    assert words in str(excinfo.value)


def test_missed_objective_reports_margin_and_cell(tmp_path: Path) -> None:
    met, missed = check_slo(tmp_path, "ttft_max<=208ms,ttft_p50<160ms")
    assert met.met and met.value == pytest.approx(0.208) and met.n == 8
    assert missed.outcome == "missed" and missed.value == pytest.approx(0.2045)
    assert (
        str(missed)
        == "ttft_p50<160ms: missed by 44.5 ms (27.8 %): 204.5 ms (sim:a (simulated) × direct, n = 8 of 2 prompts)"
    )


@pytest.mark.parametrize(("text", "needed"), [("ttft_p95<800ms", 59), ("failed<0.5%", 598), ("ttft_p99<800ms", 299)])
def test_too_few_answers_name_how_many_are_needed(tmp_path: Path, text: str, needed: int) -> None:
    (result,) = check_slo(tmp_path, text)
    assert result.outcome == "too few" and result.needed == needed and not result.met
    assert f"too few to tell from 8 answers, {needed} are needed" in str(result)


@pytest.mark.parametrize("last_first", [False, True])
def test_verdicts_are_in_the_order_of_names_whichever_answer_ended_first(tmp_path: Path, last_first: bool) -> None:
    expected = factories.make_scenario(("sim:b", "sim:a"))
    rows: list[tuple[Trial, list[EventRow]]] = [(factories.make_trial(planned), []) for planned in plan(expected)]
    factories.write_run(tmp_path, expected, rows[::-1] if last_first else rows)
    result = slo_checks.check_objectives(tables.from_journal(tmp_path), slo.parse_slo("failed<1%"))
    assert [verdict.provider for verdict in result] == ["sim:a", "sim:b"]


def judge_latencies(rng: np.random.Generator, n: int, ratio: float) -> str:
    """Judge `ttft_p95<800ms` for a provider whose true p95 is `ratio` of the limit."""
    true_p95 = math.exp(1.6449 * 0.3)
    latencies = 0.8 * ratio / true_p95 * np.exp(rng.normal(0, 0.3, n))
    run = make_run(Design(n), {"a": latencies})
    return slo_checks.check_objectives(run, slo.parse_slo("ttft_p95<800ms"))[0].outcome


def test_objective_that_is_not_met_rarely_passes_and_a_clear_one_does() -> None:
    rng = np.random.default_rng(3)
    assert sum(judge_latencies(rng, 100, 1.1) == "met" for _ in range(10)) <= 2
    assert sum(judge_latencies(rng, 100, 0.7) == "met" for _ in range(10)) >= 8


def test_failed_trial_meets_no_latency(tmp_path: Path) -> None:
    def change(planned: Any) -> dict[str, Any]:
        return {"outcome": "failed", "ttft_s": None} if planned.number == 3 else {}

    worst, rate = check_slo(tmp_path, "ttft_max<10s,ttft_p50>1ms", change)
    assert worst.outcome == "missed" and str(worst).startswith("ttft_max<10s: missed because of failed trials")
    assert rate.n == 8 and rate.as_dict()["value"] == pytest.approx(0.2035, abs=0.002)
    assert worst.as_dict()["value"] is None


def test_cancelled_trials_are_left_out(tmp_path: Path) -> None:
    (result,) = check_slo(tmp_path, "failed<50%", lambda p: {"outcome": "cancelled"} if p.number == 1 else {})
    assert result.n == 7 and result.value == 0 and result.met


def test_gap_objective_pools_gaps_of_all_trials(tmp_path: Path) -> None:
    low, high = check_slo(tmp_path, "icl_p50<15ms,icl_max<50ms")
    assert low.n == 16 and low.value == pytest.approx(0.03) and low.outcome == "missed" and high.met


def test_gap_objective_of_few_trials_is_too_few(tmp_path: Path) -> None:
    expected = factories.make_scenario(("sim:a",), repeats=1)
    rows = [(factories.make_trial(p), factories.make_gap_events(p, *[0.02] * 200)) for p in plan(expected)]
    factories.write_run(tmp_path, expected, rows)
    (result,) = slo_checks.check_objectives(tables.from_journal(tmp_path), slo.parse_slo("icl_p95<50ms"))
    assert result.outcome == "too few" and result.needed == 1200 and "gaps" in str(result)


def test_share_objective_counts_truncated_trials_as_failed(tmp_path: Path) -> None:
    def change(planned: Any) -> dict[str, Any]:
        return {"outcome": "truncated", "stalls": 2} if planned.number in (1, 2) else {}

    failed, stalled = check_slo(tmp_path, "failed<1%,stalled<=80%", change)
    assert failed.value == stalled.value == 0.25 and stalled.met and failed.outcome == "missed"
    assert str(failed).startswith("failed<1%: missed by 24 percentage points: 25 %")


def test_answer_of_one_chunk_counts_as_stalled(tmp_path: Path) -> None:
    (result,) = check_slo(tmp_path, "stalled<1%", lambda p: {"stalls": None})
    assert result.value == 1 and result.outcome == "missed"


def test_unmeasured_objective_is_not_met(tmp_path: Path) -> None:
    (result,) = check_slo(tmp_path, "cost_p95<1usd")
    assert result.value is None and result.outcome == "too few" and "not measured" in str(result)


def test_run_without_trials_meets_no_objective(tmp_path: Path) -> None:
    factories.write_run(tmp_path, factories.make_scenario(), [])
    (result,) = slo_checks.check_objectives(tables.from_journal(tmp_path), slo.parse_slo("failed<1%"))
    assert not result.met


def test_missed_objective_outweighs_one_with_too_few_answers(tmp_path: Path) -> None:
    result = check_slo(tmp_path, "ttft_p95<800ms,ttft_max<1ms")
    assert slo_checks.worst_outcome(result) == "missed" and slo_checks.worst_outcome(result[:1]) == "too few"
    assert slo_checks.EXIT_CODES == {"met": 0, "missed": 1, "too few": 4}


@pytest.mark.parametrize(
    "text", ["failed<150%", "stalled<1000%", "failed<0%", "failed>100%", "failed>=0%", "failed<=100%", "qoe_p50>1.2"]
)
def test_objective_that_no_run_can_meet_or_miss_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be met or missed \(use a share between 0% and 100%\)"):
        slo.parse_slo(text)


def test_objective_that_only_repeated_prompts_meet_says_so() -> None:
    design = Design(10, 20)
    latency_s = np.where(np.arange(design.blocks) < 10, 0.8, 0.1)
    run = make_run(design, {"a": latency_s})
    (cached,) = slo_checks.check_objectives(run, slo.parse_slo("ttft_p90<500ms"))
    assert cached.met and str(cached).endswith("n = 200 of 10 prompts; fresh prompts alone 800 ms)")
    (fast,) = slo_checks.check_objectives(run, slo.parse_slo("ttft_p90<1s"))
    assert fast.met and str(fast).endswith("n = 200 of 10 prompts)")


def test_objective_on_prompts_asked_once_has_no_remark() -> None:
    (verdict,) = slo_checks.check_objectives(
        make_run(Design(60), {"a": np.full(60, 0.2)}), slo.parse_slo("ttft_p95<1s")
    )
    assert verdict.met and str(verdict).endswith("n = 60)") and "scope" not in verdict.as_dict()
