"""The registry of metrics: everything that follows from it, and the worked example of the documentation."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaluation import schema, tables
from evaluation.analysis.metric_names import DIRECTION
from evaluation.analysis.slo import parse_slo
from evaluation.metrics import METRIC_BY_NAME, METRICS
from evaluation.metrics.example import EXAMPLE
from evaluation.reports.markdown import markdown
from evaluation.reports.metrics_page import PAGE, render_metrics_page
from evaluation.scenario import plan
from evaluation.tables import TRIAL_DTYPES
from tests.unit.evaluation import factories

WORKED_BY_HAND: dict[str, Any] = {
    "queue_s": 0.01,  # 1.06 planned to sent, less 0.05 connecting and 1.0 refused
    "start_delay_s": 0.06,  # with the connecting
    "connect_ahead_s": 0.0,  # from -0.06, after the planned start at -1.06
    "ttft_s": 0.3,
    "ttft_total_s": 1.36,
    "ttfot_s": 0.5,
    "e2e_s": 2.4,
    "server_queue_s": 0.05,
    "server_load_s": 0.01,
    "server_prefill_s": 0.2,
    "server_decode_s": 1.9,
    "chunks": 4,
    "icl_p50_s": 0.2,  # gaps 0.1, 0.2, 1.5
    "icl_p95_s": 1.37,
    "icl_p99_s": 1.474,
    "icl_max_s": 1.5,
    "stalls": 1,  # threshold min(5 x 0.2, 1) = 1 s
    "stall_s": 0.5,
    "tokens_per_chunk": 7.5,
    "itl_s": 0.072,  # 1.8 s for 30 x 100/120 = 25 tokens
    "output_tps": 25 / 1.8,
    "chars_per_s": 100 / 1.8,
    "delivered_ttft_s": 0.5,
    "delivered_e2e_s": 2.4,
    "delivered_chunks": 4,
    "delay_mean_s": 10 / 120,  # 100 characters held 0.1 s
    "delay_max_s": 0.1,
    "updates_per_s": 5.0,  # two intervals from 0.5 to 0.9 s
    "fluidity": 1.0,  # the last five tokens are due from 3.5 s on
    "fluid_pace_tps": 25 / 1.4,  # token 25 comes 1.4 s after the reader starts at 1 s
    "waited_s": 0.0,  # 100 characters take 4.2 s to read
    "qoe": 1.0,
    "answer_tokens": 30,
}


@pytest.mark.parametrize("name", WORKED_BY_HAND)
def test_worked_example_has_values_computed_by_hand(name: str) -> None:
    assert METRIC_BY_NAME[name].compute(EXAMPLE) == pytest.approx(WORKED_BY_HAND[name], abs=1e-9)


def test_fluidity_curve_falls_with_the_pace() -> None:
    # at 40 tokens/s token 25 is due at 1.625 s and arrives at 2.4: it and the 31 deadlines until then are missed
    curve: list[Any] = [METRIC_BY_NAME[f"fluidity_{pace}tps"].compute(EXAMPLE) for pace in (5, 10, 20, 40)]
    assert curve[:2] == [1.0, 1.0] and curve == sorted(curve, reverse=True)
    assert curve[3] == pytest.approx(29 / (29 + 32))


def test_every_metric_has_an_example_in_the_documentation() -> None:
    assert [metric.name for metric in METRICS if metric.compute(EXAMPLE) is None] == []


def test_metrics_are_described_and_unique() -> None:
    assert all(metric.title and metric.formula and metric.source for metric in METRICS)
    assert max(Counter([*schema.FACTS, *METRIC_BY_NAME]).values()) == 1


def test_columns_tables_objectives_and_comparison_follow_the_registry() -> None:
    for metric in METRICS:
        assert metric.name in schema.TRIAL_COLUMNS and schema.TRIAL_UNITS[metric.name] == metric.unit
        assert TRIAL_DTYPES[metric.name] in ("Int64", "float64")
        limit = {"s": "1s", "USD": "1$", "count": "1", "1/s": "1/s", "0-1": "1", "ratio": "1"}[metric.unit]
        assert parse_slo(f"{metric.name}_p50<{limit}")[0].column == metric.name
        assert metric.scope == "instrument" or DIRECTION[metric.name] == metric.direction


def test_documentation_is_generated_from_the_registry() -> None:
    rerun = "run `python -m evaluation.reports.metrics_page`"
    assert PAGE.read_text(encoding="utf-8") == render_metrics_page(), rerun


def test_report_has_a_row_for_every_metric_that_tells_providers_apart(tmp_path: Path) -> None:
    expected = factories.make_scenario()
    facts = {
        "run_id": "run",
        "strategy": "direct",
        "transport": "in-process",
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    rows = [
        schema.build_trial(
            EXAMPLE, trial_id=f"run-{p.number}", prompt_id=p.prompt.id, provider=p.provider.partition(":")[0],
            model=p.provider.partition(":")[2], repeat=p.repeat, block=p.block, **facts,
        )
        for p in plan(expected)
    ]  # fmt: skip
    factories.write_run(tmp_path, expected, ((row, []) for row in rows))
    text = markdown(tables.from_journal(tmp_path))
    ones = {"fluidity", "fluidity_5tps", "fluidity_10tps", "qoe"}
    assert {metric.name for metric in METRICS if f"| `{metric.name}` |" not in text} == ones
