"""The answers to one prompt by several models, the earlier turns of their conversations, and the votes. No I/O."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from evaluation.metrics.cadence import Chunks, stalls
from evaluation.metrics.experience import Delay, delivery_delay
from streaming import strategies
from streaming.errors import UsageError
from streaming.events import TextDelta
from streaming.pipeline import Receipt
from streaming.trace import Probe
from ui import html, strings
from ui.answer_view import AnswerView
from ui.form import ChatForm, shown_model
from ui.history import HistoryMessage, user_message

COLUMN_LETTERS = "ABCD"
TIE_CHOICE, BAD_CHOICE = "tie", "bad"
"""Votes other than the letter of a column."""
MAX_STOP_S = 1.0
"""How long a stop of one column holds back the updates of the others."""
METRICS = ("ttft_s", "tokens_per_s", "stalls", "cost_usd")
"""What is compared between whole answers, each in the unit of its name."""


@dataclass(slots=True)
class ScreenUpdates:
    """The updates of the page in which the text of an answer grew: times in seconds, and characters added."""

    at_s: list[float] = field(default_factory=list)
    chars: list[int] = field(default_factory=list)
    shown_chars: int = 0

    def add(self, shown_chars: int, now: float) -> None:
        """Record an update at `now` after which so many characters are shown."""
        if shown_chars > self.shown_chars:
            self.at_s.append(now)
            self.chars.append(shown_chars - self.shown_chars)
            self.shown_chars = shown_chars


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier prompt of a column's conversation, and the view of its answer."""

    prompt: str
    view: AnswerView

    def messages(self) -> list[HistoryMessage]:
        """Return the messages of the turn: the prompt and all of the answer."""
        return [user_message(self.prompt), *self.view.messages()]


@dataclass(slots=True)
class ColumnResult:
    """One answer of a round, after the `earlier` turns of its column.

    `probe` records events with timestamps once the request is sent. A rejected request ends without a receipt.
    `stop_requested`: the user has stopped the answer, perhaps before it was sent, at `stopped_s`.
    """

    question: ChatForm
    earlier: tuple[Turn, ...] = ()
    view: AnswerView | None = None
    probe: Probe | None = None
    updates: ScreenUpdates = field(default_factory=ScreenUpdates)
    stop_requested: bool = False
    stopped_s: float = float("-inf")
    ended: bool = False

    def request_stop(self, now: float) -> None:
        """Record that the user stops the answer."""
        self.stop_requested, self.stopped_s = True, now

    def is_stopping(self, now: float) -> bool:
        """Return whether the user has just stopped the answer, and waits for its end."""
        return not self.ended and now - self.stopped_s < MAX_STOP_S

    @property
    def receipt(self) -> Receipt | None:
        return self.view.receipt if self.view else None

    @property
    def name(self) -> str:
        """Name of provider and model; two columns of a round may have the same."""
        model = shown_model(self.question)
        provider = (self.question.provider or "").partition(":")[0] if model else self.question.provider or ""
        return f"{provider}:{model}" if model else provider

    @property
    def strategy(self) -> str:
        """Name of the strategy in its full form, or as written if it is not valid."""
        written = self.question.strategy or strategies.DEFAULT_STRATEGY
        try:
            return str(strategies.parse(written))
        except UsageError:
            return written

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its own end, so that it can be compared."""
        return self.receipt is not None and html.is_complete(self.receipt)

    @property
    def has_text(self) -> bool:
        """Whether some of the answer is shown, so that it can be voted for."""
        return self.view is not None and self.view.answer_chars > 0

    def conversation(self) -> tuple[Turn, ...]:
        """Return all turns, the last one included if it was sent."""
        last = (Turn(self.question.text, self.view),) if self.view else ()
        return (*self.earlier, *last)

    def reveal(self) -> None:
        """Show the names, receipts and reasons of a blind column, also those of earlier turns."""
        for turn in self.conversation():
            turn.view.reveal()

    def arrivals(self) -> list[tuple[float, int]]:
        """Return the arrivals of answer text as pairs: seconds since the request, number of characters."""
        if self.probe is None:
            return []
        start_s = self.probe.called_s
        return [(t.at_s - start_s, len(t.event.text)) for t in self.probe.source if isinstance(t.event, TextDelta)]

    def gaps_s(self) -> list[float]:
        """Return the inter-chunk latencies of the answer text, in seconds."""
        return [after - before for (before, _), (after, _) in pairwise(self.arrivals())]

    def added_delay(self) -> Delay:
        """Return the delay in seconds from the arrival of each character to the update of the page that shows it."""
        if self.probe is None:
            return Delay()
        return delivery_delay(Chunks.from_events(self.probe.source), Chunks(self.updates.at_s, self.updates.chars))

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics to compare; None if unknown, and all None for an answer that is not whole."""
        if self.receipt is None or not self.is_whole:
            return dict.fromkeys(METRICS)
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
    """One prompt with its columns in display order; `blind` hides the names until the vote.

    `reported`: the page has been told that all columns have ended.
    """

    prompt: str
    columns: list[ColumnResult]
    blind: bool
    vote: str | None = None
    reported: bool = False

    @property
    def ended(self) -> bool:
        """Whether all columns have ended."""
        return all(column.ended for column in self.columns)

    def is_stopping(self, now: float) -> bool:
        """Return whether the user waits for the end of a column that they have stopped."""
        return any(column.is_stopping(now) for column in self.columns)

    @property
    def can_be_voted_on(self) -> bool:
        """Whether a vote is awaited: all columns have ended, and at least one of them has an answer."""
        return self.vote is None and self.ended and any(column.has_text for column in self.columns)

    @property
    def revealed(self) -> bool:
        """Whether the names are shown: not in a blind round before its vote, unless there is nothing to vote on."""
        return not self.blind or self.vote is not None or (self.ended and not self.can_be_voted_on)

    def name(self, index: int) -> str:
        """Return the name of a column's model, with its strategy if another column has the same model."""
        column = self.columns[index]
        is_unique = [other.name for other in self.columns].count(column.name) == 1
        return column.name if is_unique else f"{column.name} · {column.strategy}"

    def heading(self, index: int) -> str:
        """Return the heading of a column: its letter, and its name if revealed."""
        letter = strings.ANSWER.format(letter=COLUMN_LETTERS[index])
        return f"{letter} · {self.name(index)}" if self.revealed else letter

    def simulated_letters(self) -> str:
        """Return the letters of the simulated columns, if there are others to compare them with and names are shown."""
        views = [column.view for column in self.columns]
        marked = [letter for letter, view in zip(COLUMN_LETTERS, views, strict=False) if view and view.is_simulated]
        return ", ".join(marked) if self.revealed and len(marked) < len(views) else ""

    def identities(self) -> list[str]:
        """Return a name for each column that is the same in every round, whatever the order of the columns."""
        names = [f"{column.name} · {column.strategy}" for column in self.columns]
        return [
            f"{name} ({names[:n].count(name) + 1})" if names.count(name) > 1 else name for n, name in enumerate(names)
        ]

    def reveal(self) -> None:
        """Show what a blind round has hidden, if it is over."""
        if self.revealed:
            for column in self.columns:
                column.reveal()


@dataclass(frozen=True, slots=True)
class Vote:
    """A user's vote; `winner` is a column's heading, or the label of another choice."""

    prompt: str
    names: tuple[str, ...]
    winner: str
    blind: bool


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """The metrics of a round that has ended, by the identities of its columns."""

    prompt: str
    by_column: dict[str, dict[str, float | None]]


@dataclass(slots=True, weakref_slot=True)
class PageComparison:
    """The comparison on one open page: the current round, the metrics of all rounds, and the votes, oldest first."""

    round: Round | None = None
    rounds: list[RoundMetrics] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether any answer of the current round is still awaited."""
        return self.round is not None and not self.round.ended

    def start_round(self, prompt: str, forms: Sequence[ChatForm], blind: bool, rng: random.Random) -> bool:
        """Start the round of these forms; return whether it continues the conversations of the previous one.

        It does while the columns' models and strategies stay as they are. A round whose names the user knows cannot be
        continued blind. `rng` shuffles the columns of a new blind round.
        """
        continued = self._continued_columns(forms, blind)
        columns = continued or [ColumnResult(form) for form in forms]
        if blind and not continued:
            rng.shuffle(columns)
        self.round = Round(prompt, columns, blind)
        return bool(continued)

    def _continued_columns(self, forms: Sequence[ChatForm], blind: bool) -> list[ColumnResult]:
        before = self.round
        if before is None or blind != before.blind or (blind and before.revealed):
            return []
        asked = [_model_fields(column.question) for column in before.columns]
        if sorted(asked) != sorted(_model_fields(form) for form in forms):
            return []
        if not blind and asked != [_model_fields(form) for form in forms]:
            return []
        return [_continue_column(column, forms[0]) for column in before.columns]

    def finish_round(self) -> None:
        """Record the metrics of the current round, which has ended."""
        if self.round is not None:
            metrics = [column.metrics for column in self.round.columns]
            by_column = dict(zip(self.round.identities(), metrics, strict=True))
            self.rounds.append(RoundMetrics(self.round.prompt, by_column))

    def cast_vote(self, choice: str) -> None:
        """Record the first vote on the current round: the letter of a column, `TIE_CHOICE` or `BAD_CHOICE`."""
        this_round = self.round
        if this_round is None or not this_round.can_be_voted_on:
            return
        labels = dict(_vote_labels(this_round))
        if choice not in labels:
            return
        this_round.vote = choice
        this_round.reveal()
        winner = dict(_vote_labels(this_round))[choice]
        names = tuple(this_round.name(n) for n in range(len(this_round.columns)))
        self.votes.append(Vote(this_round.prompt, names, winner, this_round.blind))


def bad_label(count: int) -> str:
    """Return the label of the vote that no answer is good, for so many columns."""
    return strings.VOTE_BOTH_BAD if count == 2 else strings.VOTE_ALL_BAD


def _vote_labels(this_round: Round) -> Iterator[tuple[str, str]]:
    """Yield each choice with the words that its vote is shown by."""
    for n, letter in enumerate(COLUMN_LETTERS[: len(this_round.columns)]):
        yield letter, f"{letter} · {this_round.name(n)}"
    yield TIE_CHOICE, strings.TIE
    yield BAD_CHOICE, bad_label(len(this_round.columns))


def _model_fields(form: ChatForm) -> tuple[str, str, str]:
    return form.provider or "", (form.model or "").strip(), form.strategy or ""


def _continue_column(column: ColumnResult, form: ChatForm) -> ColumnResult:
    """Return the column of the next turn: its own model, the prompt and limits of `form`, and what was said so far."""
    earlier = column.conversation()
    history = [message for turn in earlier for message in turn.messages()]
    own = column.question
    question = replace(form, history=history, provider=own.provider, model=own.model, strategy=own.strategy)
    return ColumnResult(question, earlier)
