"""One prompt asked of several, side by side: what came of each, and which was really better. Pure."""

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
"""One answer each is little: only what is better by more than a tenth, and by more than can be felt, is marked."""
_MIN_DIFFERENCES = {"ttft_s": 0.05, "tokens_per_s": 1.0, "stalls": 1.0, "cost_usd": 0.0}
_HIGHER_IS_BETTER = ("tokens_per_s",)


@dataclass(slots=True)
class ColumnResult:
    """One answer of a round. `probe` keeps what arrived when; a refused one ends with no receipt."""

    question: ChatForm
    no_price: str = strings.UNKNOWN_PRICE
    probe: Probe | None = None
    receipt: Receipt | None = None
    ended: bool = False

    @property
    def name(self) -> str:
        """Who was asked and how it was delivered; the same may be asked twice."""
        model = (self.question.model or "").strip()
        provider = (self.question.provider or "").partition(":")[0] if model else self.question.provider or ""
        return f"{provider}:{model}" if model else provider

    def arrivals(self) -> list[tuple[float, int]]:
        """Give the answer text as it arrived: seconds since the question, characters."""
        if self.probe is None:
            return []
        start_s = self.probe.called_s
        return [(t.at_s - start_s, len(t.event.text)) for t in self.probe.source if isinstance(t.event, TextDelta)]

    def gaps_s(self) -> list[float]:
        """Give the seconds between chunks of answer text."""
        return [after - before for (before, _), (after, _) in pairwise(self.arrivals())]

    @property
    def metrics(self) -> dict[str, float | None]:
        """Give what is compared; None where it is unknown, and for all of an answer that was not completed."""
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
    """The columns in the order in which they stand; `blind`: names are hidden until a vote."""

    prompt: str
    columns: list[ColumnResult]
    blind: bool
    vote: str | None = None

    @property
    def ended(self) -> bool:
        return all(column.ended for column in self.columns)

    @property
    def revealed(self) -> bool:
        """Whether names may be seen."""
        return not self.blind or self.vote is not None

    def heading(self, place: int) -> str:
        """Give the heading of a column."""
        letter = strings.ANSWER.format(letter=COLUMN_LETTERS[place])
        return f"{letter} · {self.columns[place].name}" if self.revealed else letter


@dataclass(frozen=True, slots=True)
class Vote:
    """What a visitor found best; `winner` is a name, or the word for a tie."""

    prompt: str
    names: tuple[str, ...]
    winner: str
    blind: bool


@dataclass(slots=True)
class Votes:
    """The votes of one page, in order."""

    cast: list[Vote] = field(default_factory=list)

    def cast_vote(self, found: Round, choice: str) -> None:
        """Take a vote, once for a round; `choice` is a letter or anything else for a tie."""
        if found.vote is not None:
            return
        found.vote = choice
        place = COLUMN_LETTERS.find(choice) if len(choice) == 1 else -1
        winner = found.columns[place].name if 0 <= place < len(found.columns) else strings.TIE
        self.cast.append(Vote(found.prompt, tuple(column.name for column in found.columns), winner, found.blind))


@dataclass(slots=True, weakref_slot=True)
class Comparison:
    """What one open page compares: the present round, and the votes of all rounds."""

    round: Round | None = None
    votes: Votes = field(default_factory=Votes)


def comparison_table(found: Round) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Give header, rows and the cells of what was better, by row and column."""
    rows = [_comparison_row(found, place, column) for place, column in enumerate(found.columns)]
    measured = [column.metrics for column in found.columns]
    marked = set()
    for x, measure in enumerate(_MIN_DIFFERENCES, 2):
        best = best_index(
            [one[measure] for one in measured], higher=measure in _HIGHER_IS_BETTER, least=_MIN_DIFFERENCES[measure]
        )
        if best is not None:
            marked.add((best, x))
    return [*strings.COMPARE_HEADER], rows, marked


def best_index(values: Sequence[float | None], *, higher: bool, least: float) -> int | None:
    """Give the place of the one value that is better than every other by more than a tenth, and by `least`."""
    known = [(value, place) for place, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return None
    known.sort(reverse=higher)
    (best, place), (second, _) = known[:2]
    apart = abs(second - best)
    return place if apart > least * (1 - 1e-9) and apart > BETTER_MARGIN * max(abs(best), abs(second)) else None


def _comparison_row(found: Round, place: int, column: ColumnResult) -> list[str]:
    receipt = column.receipt
    if receipt is None:
        return [found.heading(place), strings.NOT_ANSWERED, *[strings.UNKNOWN] * 6]
    reading = receipt.reading
    count, over_s = stalls(column.gaps_s())
    silence = strings.UNKNOWN if count is None else f"{count} · {html.format_seconds(over_s)}" if count else "0"
    return [
        found.heading(place),
        html.outcome_label(receipt),
        html.format_seconds(reading.ttft_s),
        html.format_speed(reading.tokens_per_s),
        silence,
        html.format_cost(reading.cost, reading.usage.source, column.no_price),
        f"{html.format_count(reading.usage.output_tokens)} {reading.usage.source}",
        html.format_seconds(reading.elapsed_s),
    ]
