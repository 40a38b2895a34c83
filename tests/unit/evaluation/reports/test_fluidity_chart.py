"""The fluidity curve: drawn from the delivered text, one for each provider and strategy."""

import pytest

from benchmarks._known_truth import Design, make_run
from evaluation.reports.chart_kinds import Chart
from evaluation.reports.fluidity_chart import CURVE_PACES_TPS, MAX_ANSWERS, fluidity_chart
from evaluation.schema import EventRow
from evaluation.tables import EVENT_DTYPES, Run, build_table

_TOKENS = 20


def _run(answers: int, **gaps_s: float) -> Run:
    """Return answers of chunks of one token with the same gap, for each name."""
    rows, tokens = [], {}
    latency = dict.fromkeys(gaps_s, [0.5] * answers)
    run = make_run(Design(answers), latency)  # type: ignore[arg-type] # lists do as arrays
    for name, gap_s in gaps_s.items():
        tokens[name] = [_TOKENS] * answers
        for trial_id in run.trials.loc[run.trials["name"] == name, "trial_id"]:
            for seq in range(_TOKENS):
                rows.append(EventRow("truth", trial_id, seq, "delivered_text", 4, None, None, 0.5 + seq * gap_s))
    trials = run.trials.assign(answer_tokens=_TOKENS)
    return Run(trials, build_table(rows, EVENT_DTYPES), run.manifest)


def _chart(run: Run, strategies: tuple[str, ...] = ("direct",)) -> Chart | None:
    return fluidity_chart(run.trials, run.events, list(dict.fromkeys(run.trials["name"])), strategies, 1.0)


def test_curve_is_full_up_to_the_pace_of_the_text_and_falls_beyond() -> None:
    chart = _chart(_run(3, fast=0.005, slow=0.1))
    assert chart is not None
    fast, slow = ([float(y or 0) for y in series.y] for series in chart.series)
    at = dict(zip(CURVE_PACES_TPS, zip(fast, slow, strict=True), strict=True))
    assert at[10] == (100, 100)
    assert at[40][0] == 100 > at[40][1]
    assert slow == sorted(slow, reverse=True)
    assert chart.caption == "99 % in time: fast at least 160 tokens/s; slow up to 10 tokens/s."


def test_curve_of_fluid_answers_alone_is_left_out() -> None:
    assert _chart(_run(3, fast=0.005)) is None


def test_strategies_are_curves_of_their_own() -> None:
    run = _run(2, slow=0.1)
    run.trials["strategy"] = ["direct", "batch:100ms"]
    chart = _chart(run, ("direct", "batch:100ms"))
    assert chart is not None
    assert [series.name for series in chart.series] == ["slow, direct", "slow, batch:100ms"]


def test_long_run_is_sampled_and_says_so() -> None:
    chart = _chart(_run(2 * MAX_ANSWERS, slow=0.1))
    assert chart is not None
    assert f"At most {MAX_ANSWERS} answers of each" in chart.note


def test_unknown_tokens_have_no_curve() -> None:
    run = _run(2, slow=0.1)
    run.trials["answer_tokens"] = None
    assert _chart(run) is None


@pytest.mark.parametrize("first_s", [0.1, 1.0])
def test_first_deadline_is_that_of_the_run(first_s: float) -> None:
    run = _run(2, slow=0.1)
    chart = fluidity_chart(run.trials, run.events, ["slow"], ["direct"], first_s)
    assert chart is not None
    assert f"due {first_s * 1000:.0f} ms" in chart.note
