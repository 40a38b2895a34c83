"""Service-level objectives: parsing, checking, and objectives that were not measured."""

from pathlib import Path
from typing import Any

import pytest

from evaluation import tables
from evaluation.analysis import slo
from evaluation.analysis.slo import Verdict
from evaluation.scenario import plan
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
    return slo.check_objectives(tables.from_journal(folder), slo.parse_slo(text))


@pytest.mark.parametrize(
    ("text", "column", "stat", "limit"),
    [
        ("ttft_p95<800ms", "ttft_s", "p95", 0.8),
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
        ("ttft_p90<1s", "use failed, stalled, or a column"),
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
    assert not missed.met and missed.value == pytest.approx(0.2045)
    assert str(missed) == "ttft_p50<160ms: missed by 44.5 ms (27.8 %): 204.5 ms (sim:a (simulated) × direct, n = 8)"


def test_gap_objective_pools_gaps_of_all_trials(tmp_path: Path) -> None:
    (result,) = check_slo(tmp_path, "icl_p50<29ms")
    assert result.n == 16 and result.value == pytest.approx(0.03) and not result.met


def test_share_objective_counts_truncated_trials_as_failed(tmp_path: Path) -> None:
    def change(planned: Any) -> dict[str, Any]:
        return {"outcome": "truncated", "stalls": 2} if planned.number in (1, 2) else {}

    failed, stalled = check_slo(tmp_path, "failed<25%,stalled<=25%", change)
    assert failed.value == stalled.value == 0.25 and stalled.met and not failed.met
    assert str(failed).startswith("failed<25%: missed by 0 percentage points: 25 %")


def test_unmeasured_objective_is_not_met(tmp_path: Path) -> None:
    (result,) = check_slo(tmp_path, "cost_p95<1usd")
    assert result.value is None and not result.met and "missed, not measured" in str(result)


def test_run_without_trials_meets_no_objective(tmp_path: Path) -> None:
    factories.write_run(tmp_path, factories.make_scenario(), [])
    (result,) = slo.check_objectives(tables.from_journal(tmp_path), slo.parse_slo("failed<1%"))
    assert not result.met
