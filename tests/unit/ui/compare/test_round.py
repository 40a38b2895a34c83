"""Tests of the comparison of answers, and of what is hidden before a vote."""

from dataclasses import replace
from decimal import Decimal

import pytest

from streaming.events import TextDelta, TimedEvent, Usage
from streaming.meter import Cost
from streaming.trace import Probe
from tests.unit.ui.samples import READING, RECEIPT
from ui import strings
from ui.compare import round
from ui.compare.round import ColumnResult, Round, Votes, best_index
from ui.form import ChatForm


def make_column(name: str, ttft_s: float = 0.2, source: str = "reported", outcome: str = "completed") -> ColumnResult:
    reading = replace(READING, ttft_s=ttft_s, usage=Usage(24, 130, source=source))  # type: ignore[arg-type]  # a literal
    probe = Probe(lambda: 10.0)
    probe.source = [TimedEvent(10.2 + i * 0.02, TextDelta("ab")) for i in range(10)]
    receipt = replace(RECEIPT, reading=reading, outcome=outcome)  # type: ignore[arg-type]  # a literal
    return ColumnResult(ChatForm("?", provider=name), probe=probe, receipt=receipt, ended=True)


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
    header, rows, marked = round.comparison_table(
        Round("?", [make_column("a", 0.9), make_column("b", 0.2)], blind=False)
    )
    assert len(header) == len(rows[0]) == len(rows[1])
    assert rows[1][2] == "0.20 s" and marked == {(1, 2)}


def test_incomplete_answer_is_never_marked_better() -> None:
    result = Round("?", [make_column("a", 0.9), make_column("b", 0.2, outcome="truncated")], blind=False)
    _, _, marked = round.comparison_table(result)
    assert marked == set()


def test_estimated_tokens_yield_no_speed_or_cost_metric() -> None:
    guessed = make_column("a", source="estimated")
    cheap = Cost(Decimal(0), Decimal("0.001"), "user")
    assert guessed.receipt is not None
    guessed.receipt = replace(guessed.receipt, reading=replace(guessed.receipt.reading, cost=cheap))
    assert guessed.metrics["tokens_per_s"] is None and guessed.metrics["cost_usd"] is None
    assert guessed.metrics["ttft_s"] == 0.2


def test_blind_round_hides_names_before_vote() -> None:
    result = Round("?", [make_column("local"), make_column("sim:steady")], blind=True)
    assert [result.heading(n) for n in (0, 1)] == ["Answer A", "Answer B"]
    votes = Votes()
    votes.cast_vote(result, "B")
    assert [result.heading(n) for n in (0, 1)] == ["Answer A · local", "Answer B · sim:steady"]
    assert votes.cast[0].winner == "sim:steady" and votes.cast[0].blind


def test_round_accepts_one_vote() -> None:
    result, votes = Round("?", [make_column("a"), make_column("b")], blind=False), Votes()
    votes.cast_vote(result, "")
    votes.cast_vote(result, "A")
    assert [vote.winner for vote in votes.cast] == [strings.TIE]


def test_column_name_includes_custom_model() -> None:
    assert ColumnResult(ChatForm("?", provider="openai:a", model=" b ")).name == "openai:b"
