"""Tests of the comparison of answers, of what is hidden before a vote, and of what pairs of answers can tell."""

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from streaming.events import TextDelta, TimedEvent, Usage
from streaming.meter import Cost, MeterReading
from streaming.trace import Probe
from tests.unit.ui.samples import READING, RECEIPT
from ui import strings
from ui.answer_view import AnswerView
from ui.compare import results, verdicts
from ui.compare.charts import round_charts
from ui.compare.results import best_index
from ui.compare.round import (
    BAD_CHOICE,
    TIE_CHOICE,
    ColumnResult,
    PageComparison,
    Round,
    RoundMetrics,
    ScreenUpdates,
)
from ui.form import ChatForm


def make_column(
    name: str,
    ttft_s: float = 0.2,
    source: str = "reported",
    outcome: str = "completed",
    *,
    reading: MeterReading = READING,
    strategy: str = "direct",
    blind: bool = False,
) -> ColumnResult:
    reading = replace(reading, ttft_s=ttft_s, usage=Usage(24, 130, source=source))  # type: ignore[arg-type]  # a literal
    probe = Probe(lambda: 10.0)
    probe.source = [TimedEvent(10.2 + i * 0.02, TextDelta("ab")) for i in range(10)]
    view = AnswerView(10.0, blind=blind)
    view.feed([TextDelta("ab") for _ in range(10)], 10.4)
    view.close(replace(RECEIPT, reading=reading, outcome=outcome), 10.5)  # type: ignore[arg-type]  # a literal
    updates = ScreenUpdates()
    updates.add(10, 10.4)
    updates.add(20, 10.5)
    return ColumnResult(ChatForm("?", provider=name, strategy=strategy), (), view, probe, updates, ended=True)


@pytest.mark.parametrize(
    ("values", "higher", "least", "place"),
    [
        ([0.2, 0.5], False, 0.05, 0),
        ([0.5, 0.2], False, 0.05, 1),
        ([0.20, 0.21], False, 0.05, None),
        ([10.0, 10.4], False, 0.05, None),
        ([50.0, 80.0, 60.0], True, 1.0, 1),
        ([0.2, None], False, 0.05, None),
        ([None, None], False, 0.05, None),
        ([0.0, 1.0], False, 1.0, 0),
        ([0.0, 0.0], False, 0.0, None),
    ],
)
def test_best_index_requires_relative_and_absolute_margin(
    values: list[float | None], higher: bool, least: float, place: int | None
) -> None:
    assert best_index(values, higher=higher, least=least) == place


def test_comparison_table_marks_faster_ttft() -> None:
    header, rows, marked = results.comparison_table(
        Round("?", [make_column("a", 0.9), make_column("b", 0.2)], blind=False)
    )
    assert len(header) == len(rows[0]) == len(rows[1])
    assert rows[1][2] == "0.20 s" and marked == {(1, 2)}


def test_comparison_table_has_updates_and_added_delay() -> None:
    _, rows, _ = results.comparison_table(Round("?", [make_column("a"), make_column("b")], blind=False))
    # The first 5 chunks of 2 characters waited 200 to 120 ms for the update at 10.4 s, the others 200 to 120 ms.
    assert rows[0][-2:] == ["2", "160, 200 ms"]


@pytest.mark.parametrize("outcome", ["truncated", "cancelled", "failed"])
def test_ttft_of_an_answer_that_is_not_whole_stands_apart_and_is_never_better(outcome: str) -> None:
    result = Round("?", [make_column("a", 0.9), make_column("b", 0.2, outcome=outcome)], blind=False)
    _, rows, marked = results.comparison_table(result)
    assert marked == set() and rows[1][2] == "0.20 s (not whole)"
    ttft = round_charts(result)[2]
    assert ttft is not None
    (bars,) = json.loads(ttft.plot)["data"]
    assert bars["y"] == ["A · a", "B · b (not whole)"] and bars["marker"]["opacity"] == [1.0, 0.45]


def test_charts_without_a_value_are_left_out() -> None:
    unsent = ColumnResult(ChatForm("?", provider="a"), ended=True)
    assert round_charts(Round("?", [unsent, unsent], blind=False)) == [None] * 4
    assert [chart is not None for chart in round_charts(Round("?", [make_column("a"), unsent], blind=False))] == [
        True,
        True,
        True,
        False,
    ]


def test_estimated_tokens_yield_no_speed_or_cost_metric() -> None:
    cheap = Cost(Decimal(0), Decimal("0.001"), "user")
    guessed = make_column("a", source="estimated", reading=replace(READING, cost=cheap))
    assert guessed.metrics["tokens_per_s"] is None and guessed.metrics["cost_usd"] is None
    assert guessed.metrics["ttft_s"] == 0.2


def test_blind_round_hides_names_before_vote() -> None:
    result = Round("?", [make_column("local", blind=True), make_column("sim:steady", blind=True)], blind=True)
    assert [result.heading(n) for n in (0, 1)] == ["Answer A", "Answer B"]
    comparison = PageComparison(result)
    comparison.cast_vote("B")
    assert [result.heading(n) for n in (0, 1)] == ["Answer A · local", "Answer B · sim:steady"]
    assert comparison.votes[0].winner == "B · sim:steady" and comparison.votes[0].blind
    assert all(column.view and len(column.view.messages()) == 2 for column in result.columns), "receipts are shown"


@pytest.mark.parametrize(
    ("count", "choice", "winner"),
    [
        (2, TIE_CHOICE, strings.TIE),
        (2, BAD_CHOICE, "Both bad"),
        (4, BAD_CHOICE, "All bad"),
        (4, "D", "D · m3"),
        (2, "C", None),
        (2, "", None),
    ],
)
def test_vote_is_one_of_the_choices_of_its_round(count: int, choice: str, winner: str | None) -> None:
    comparison = PageComparison(Round("?", [make_column(f"m{n}") for n in range(count)], blind=False))
    comparison.cast_vote(choice)
    assert [vote.winner for vote in comparison.votes] == ([] if winner is None else [winner])


def test_round_accepts_one_vote() -> None:
    comparison = PageComparison(Round("?", [make_column("a"), make_column("b")], blind=False))
    comparison.cast_vote(TIE_CHOICE)
    comparison.cast_vote("A")
    assert [vote.winner for vote in comparison.votes] == [strings.TIE]


def test_column_name_includes_custom_model() -> None:
    assert ColumnResult(ChatForm("?", provider="openai:a", model=" b ")).name == "openai:b"


def test_columns_of_one_model_are_told_apart_by_their_strategies() -> None:
    columns = [make_column("a", strategy=name) for name in ("direct", "batch:100ms")]
    result = Round("?", [*columns, make_column("b")], blind=False)
    assert [result.name(n) for n in range(3)] == ["a · direct", "a · batch:100ms", "b"]
    assert len(set(result.identities())) == 3


def test_twin_columns_have_identities_of_their_own() -> None:
    assert Round("?", [make_column("a"), make_column("a")], blind=False).identities() == [
        "a · direct (1)",
        "a · direct (2)",
    ]


def make_rounds(differences_ms: list[float], *, tokens_per_s: float | None = None) -> list[RoundMetrics]:
    """Return rounds whose second column has a TTFT later than the first by so much."""
    return [
        RoundMetrics(
            f"prompt {n}",
            {
                "a · direct": {"ttft_s": 0.5, "tokens_per_s": tokens_per_s},
                "b · direct": {"ttft_s": 0.5 + difference_ms / 1000, "tokens_per_s": tokens_per_s},
            },
        )
        for n, difference_ms in enumerate(differences_ms)
    ]


def verdict_text(rounds: list[RoundMetrics]) -> str:
    return verdicts.verdicts_html(Round("?", [make_column("a"), make_column("b")], blind=False), rounds)


def test_one_pair_of_answers_carries_no_verdict_however_different() -> None:
    text = verdict_text(make_rounds([4000]))
    assert "TTFT, A · a against B · b: cannot tell (Δ 4,000 ms in one pair" in text and "better" not in text


def test_two_pairs_say_how_many_an_interval_needs() -> None:
    assert "cannot tell (median Δ 110 ms in 2 pairs; an interval needs 3)" in verdict_text(make_rounds([100, 120]))


def test_interval_over_zero_cannot_tell() -> None:
    text = verdict_text(make_rounds([-41, 160, 164, 166, 168, 169]))
    assert "cannot tell (median Δ 165 ms, 95 % CI −41 to 169, 6 pairs)" in text


def test_clear_difference_over_many_prompts_is_a_verdict() -> None:
    text = verdict_text(make_rounds([300, 310, 290, 305, 295, 300, 302]))
    assert "A · a is better (median Δ 300 ms, 95 % CI 290 to 310, 7 pairs)" in text


def test_no_pair_of_whole_answers_tells_nothing() -> None:
    assert strings.VERDICT_NONE in verdict_text([])
    assert strings.VERDICT_NONE in verdict_text([RoundMetrics("?", {"a · direct": {"ttft_s": 0.5}})])
