"""The results of one prompt sent to several providers, and which of them are clearly better. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from evaluation.metrics.cadence import stalls
from streaming.events import TextDelta
from streaming.pipeline import Receipt
from streaming.trace import Probe
from ui import html, strings
from ui.form import ChatForm

COLUMN_LETTERS = "ABCD"
BETTER_MARGIN = 0.1
"""Minimum relative difference to mark a metric as better: one answer each is a small sample."""
_MIN_DIFFERENCES = {"ttft_s": 0.05, "tokens_per_s": 1.0, "stalls": 1.0, "cost_usd": 0.0}
"""Minimum absolute differences, by metric in its own unit: smaller ones are not noticeable."""
_HIGHER_IS_BETTER = ("tokens_per_s",)


@dataclass(slots=True)
class ColumnResult:
    """One answer of a round. `probe` records events with timestamps; a rejected request ends without a receipt."""

    question: ChatForm
    no_price: str = strings.UNKNOWN_PRICE
    probe: Probe | None = None
    receipt: Receipt | None = None
    ended: bool = False

    @property
    def name(self) -> str:
        """Name of provider and model; two columns of a round may have the same."""
        model = (self.question.model or "").strip()
        provider = (self.question.provider or "").partition(":")[0] if model else self.question.provider or ""
        return f"{provider}:{model}" if model else provider

    def arrivals(self) -> list[tuple[float, int]]:
        """Return the arrivals of answer text as pairs: seconds since the request, number of characters."""
        if self.probe is None:
            return []
        start_s = self.probe.called_s
        return [(t.at_s - start_s, len(t.event.text)) for t in self.probe.source if isinstance(t.event, TextDelta)]

    def gaps_s(self) -> list[float]:
        """Return the inter-chunk latencies of the answer text, in seconds."""
        return [after - before for (before, _), (after, _) in pairwise(self.arrivals())]

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics to compare; None if unknown, and all None for an answer that did not complete."""
        if self.receipt is None or self.receipt.outcome != "completed":
            return dict.fromkeys(_MIN_DIFFERENCES)
        reading = self.receipt.reading
        count, _ = stalls(self.gaps_s())
        known = reading.usage.source != "estimated"
        return {
            "ttft_s": reading.ttft_s,
            "tokens_per_s": reading.tokens_per_s if known else None,
            "stalls": None if count is None else float(count),
            "cost_usd": float(reading.cost.total_usd) if reading.cost and known else None,
        }


@dataclass(slots=True)
class Round:
    """One prompt with its columns in display order; `blind` hides the names until the vote."""

    prompt: str
    columns: list[ColumnResult]
    blind: bool
    vote: str | None = None

    @property
    def ended(self) -> bool:
        """Whether all columns have ended."""
        return all(column.ended for column in self.columns)

    @property
    def revealed(self) -> bool:
        """Whether the names of the providers are shown."""
        return not self.blind or self.vote is not None

    def heading(self, index: int) -> str:
        """Return the heading of a column: its letter, and its name if revealed."""
        letter = strings.ANSWER.format(letter=COLUMN_LETTERS[index])
        return f"{letter} · {self.columns[index].name}" if self.revealed else letter


@dataclass(frozen=True, slots=True)
class Vote:
    """A user's vote; `winner` is a column's name, or the label of a tie."""

    prompt: str
    names: tuple[str, ...]
    winner: str
    blind: bool


@dataclass(slots=True)
class Votes:
    """The votes of one page, oldest first."""

    cast: list[Vote] = field(default_factory=list)

    def cast_vote(self, this_round: Round, choice: str) -> None:
        """Record the first vote of a round and ignore later ones; a `choice` that is no column's letter is a tie."""
        if this_round.vote is not None:
            return
        this_round.vote = choice
        index = COLUMN_LETTERS.find(choice) if len(choice) == 1 else -1
        winner = this_round.columns[index].name if 0 <= index < len(this_round.columns) else strings.TIE
        self.cast.append(
            Vote(this_round.prompt, tuple(column.name for column in this_round.columns), winner, this_round.blind)
        )


@dataclass(slots=True, weakref_slot=True)
class PageComparison:
    """The comparison on one open page: the current round, and the votes of all rounds."""

    round: Round | None = None
    votes: Votes = field(default_factory=Votes)


def comparison_table(this_round: Round) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Return header, rows, and the (row, column) positions of the cells to mark as better."""
    rows = [_comparison_row(this_round, index, column) for index, column in enumerate(this_round.columns)]
    measured = [column.metrics for column in this_round.columns]
    marked = set()
    for x, measure in enumerate(_MIN_DIFFERENCES, 2):
        best = best_index(
            [one[measure] for one in measured], higher=measure in _HIGHER_IS_BETTER, least=_MIN_DIFFERENCES[measure]
        )
        if best is not None:
            marked.add((best, x))
    return [*strings.COMPARE_HEADER], rows, marked


def best_index(values: Sequence[float | None], *, higher: bool, least: float) -> int | None:
    """Return the index of the value that is better than all others by `BETTER_MARGIN` and by `least`; None if none is.

    Unknown values are left out, and a single known value is never the best.
    """
    known = [(value, index) for index, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return None
    known.sort(reverse=higher)
    (best, index), (second, _) = known[:2]
    apart = abs(second - best)
    return index if apart > least * (1 - 1e-9) and apart > BETTER_MARGIN * max(abs(best), abs(second)) else None


def _comparison_row(this_round: Round, index: int, column: ColumnResult) -> list[str]:
    receipt = column.receipt
    if receipt is None:
        return [this_round.heading(index), strings.NOT_ANSWERED, *[strings.UNKNOWN] * 6]
    reading = receipt.reading
    count, over_s = stalls(column.gaps_s())
    silence = strings.UNKNOWN if count is None else f"{count} · {html.format_seconds(over_s)}" if count else "0"
    return [
        this_round.heading(index),
        html.outcome_label(receipt),
        html.format_seconds(reading.ttft_s),
        html.format_speed(reading.tokens_per_s),
        silence,
        html.format_cost(reading.cost, reading.usage.source, column.no_price),
        f"{html.format_count(reading.usage.output_tokens)} {reading.usage.source}",
        html.format_seconds(reading.elapsed_s),
    ]
