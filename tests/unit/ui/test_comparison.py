"""Which of several answers was really better, and what may be seen before a vote."""

from dataclasses import replace
from decimal import Decimal

import pytest

from streaming.events import TextDelta, Timed, Usage
from streaming.meter import Cost
from streaming.probe import Probe
from tests.unit.ui.samples import READING, RECEIPT
from ui import comparison, texts
from ui.comparison import Column, Round, Votes, better
from ui.questions import Question


def column(name: str, ttft_s: float = 0.2, source: str = "reported", outcome: str = "completed") -> Column:
    reading = replace(READING, ttft_s=ttft_s, usage=Usage(24, 130, source=source))  # type: ignore[arg-type]  # a literal
    probe = Probe(lambda: 10.0)
    probe.source = [Timed(10.2 + i * 0.02, TextDelta("ab")) for i in range(10)]
    receipt = replace(RECEIPT, reading=reading, outcome=outcome)  # type: ignore[arg-type]  # a literal
    return Column(Question("?", provider=name), probe=probe, receipt=receipt, ended=True)


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
def test_only_what_is_better_by_more_than_a_tenth_and_can_be_felt_is_marked(
    values: list[float | None], higher: bool, least: float, place: int | None
) -> None:
    assert better(values, higher=higher, least=least) == place


def test_the_table_marks_the_faster_first_token() -> None:
    header, rows, marked = comparison.table(Round("?", [column("a", 0.9), column("b", 0.2)], blind=False))
    assert len(header) == len(rows[0]) == len(rows[1])
    assert rows[1][2] == "0.20 s" and marked == {(1, 2)}


def test_what_was_not_completed_wins_nothing() -> None:
    found = Round("?", [column("a", 0.9), column("b", 0.2, outcome="truncated")], blind=False)
    _, _, marked = comparison.table(found)
    assert marked == set()


def test_guessed_tokens_win_nothing_by_their_speed_or_cost() -> None:
    guessed = column("a", source="estimated")
    cheap = Cost(Decimal(0), Decimal("0.001"), "user")
    assert guessed.receipt is not None
    guessed.receipt = replace(guessed.receipt, reading=replace(guessed.receipt.reading, cost=cheap))
    assert guessed.figures["tokens_per_s"] is None and guessed.figures["cost_usd"] is None
    assert guessed.figures["ttft_s"] == 0.2


def test_a_blind_round_gives_no_name_before_the_vote() -> None:
    found = Round("?", [column("local"), column("sim:steady")], blind=True)
    assert [found.head(n) for n in (0, 1)] == ["Answer A", "Answer B"]
    votes = Votes()
    votes.add(found, "B")
    assert [found.head(n) for n in (0, 1)] == ["Answer A · local", "Answer B · sim:steady"]
    assert votes.cast[0].winner == "sim:steady" and votes.cast[0].blind


def test_a_round_has_one_vote() -> None:
    found, votes = Round("?", [column("a"), column("b")], blind=False), Votes()
    votes.add(found, "")
    votes.add(found, "A")
    assert [vote.winner for vote in votes.cast] == [texts.TIE]


def test_a_model_of_ones_own_is_in_the_name() -> None:
    assert Column(Question("?", provider="openai:a", model=" b ")).name == "openai:b"
