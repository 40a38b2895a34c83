"""The comparison tab's events: each column asks, shows and stops by itself."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from html import escape
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from streaming.probe import Probe
from ui import comparison, figures, layout, plots, texts
from ui.chat import HIDDEN
from ui.comparison import LETTERS, Column, Comparison, Round, Votes
from ui.conversation import Turn
from ui.desk import Desk
from ui.questions import Question, text_problem
from ui.screen import Screen
from ui.visitors import Visitor

COLUMNS = len(LETTERS)
FIELDS = 3
"""What a column is asked with: provider, model, delivery."""

PLOTS = 4

Frame = tuple[list[Turn], str, str, Any]
"""One update of a column: messages, stage line, meter, Stop button."""
UNCHANGED: Any = (gr.skip(),) * 4


class Compare:
    """Asks several at the desk. `rng` shuffles the columns of a blind round."""

    def __init__(self, desk: Desk, rng: random.Random | None = None) -> None:
        self._desk = desk
        self._rng = rng or random.SystemRandom()
        self._comparisons: WeakKeyDictionary[Visitor, Comparison] = WeakKeyDictionary()

    def comparison(self, session_hash: str | None) -> Comparison:
        """Return what a page compares, which goes when the page does."""
        return self._comparisons.setdefault(self._desk.visitors.of(session_hash), Comparison())

    async def begin(
        self,
        request: gr.Request,
        prompt: str,
        count: float,
        blind: bool,
        max_tokens: str | None,
        budget: str | None,
        brought: str | None,
        *fields: str | None,
    ) -> tuple[Any, ...]:
        """Lay out a round: the headings, a line on what is wrong, Stop-all, and the last round's results put away."""
        visitor = self._desk.visitors.of(request.session_hash)
        problem = text_problem(prompt, self._desk.limits)
        asked = Question(prompt, max_tokens=max_tokens, budget=budget, brought=brought)
        columns = [_column(asked, fields[n * FIELDS : (n + 1) * FIELDS]) for n in range(int(count))]
        if blind:
            self._rng.shuffle(columns)
        comparison = self.comparison(request.session_hash)
        comparison.round = None if problem else Round(prompt, columns, blind)
        # The round before is over by now: its answers, which are stopped here, have no place and no results any more.
        await asyncio.gather(*(visitor.lane(place(n)).forget() for n in range(COLUMNS)))
        wrong = figures.badge_problem(problem) if problem else ""
        stop_all = gr.update(visible=HIDDEN if problem else True)
        told = problem or texts.COMPARE_ASKED.format(count=len(columns))
        return *_heads(comparison.round), escape(told), wrong, stop_all, *[gr.update(visible=False)] * (2 + PLOTS)

    async def ask(self, number: int, request: gr.Request) -> AsyncGenerator[Frame, None]:
        """Answer in one column, frame by frame; nothing changes in a column that the round does not have.

        Once another round has begun, the column is that one's.
        """
        visitor = self._desk.visitors.of(request.session_hash)
        comparison = self.comparison(request.session_hash)
        found = comparison.round
        if found is None or number >= len(found.columns) or found.columns[number].probe is not None:
            # Without a frame Gradio would empty the column, the word on its button included.
            yield UNCHANGED
            return
        column = found.columns[number]
        column.probe = Probe(self._desk.clock)
        screen = self._desk.screen(visitor, column.question, blind=found.blind)
        answering = self._desk.answering(place(number), column.question, screen, request, column.probe)
        async with aclosing(answering) as changes:
            async for _ in changes:
                if screen.ended or comparison.round is not found:
                    break
                yield _frame(screen, gr.update(visible=True))
        column.receipt, column.no_price, column.ended = screen.receipt, screen.no_price, True
        yield _frame(screen, gr.update(visible=HIDDEN)) if comparison.round is found else UNCHANGED

    async def stop(self, number: int, request: gr.Request) -> None:
        """End the answer of one column."""
        await self._desk.visitors.of(request.session_hash).lane(place(number)).stop()

    async def stop_all(self, request: gr.Request) -> None:
        """End the answers of all columns."""
        visitor = self._desk.visitors.of(request.session_hash)
        await asyncio.gather(*(visitor.lane(place(number)).stop() for number in range(COLUMNS)))

    def ended(self, request: gr.Request) -> tuple[Any, ...]:
        """After a column's end: once all have ended, the vote and, unless the round is blind, what came of it."""
        visitor = self._desk.visitors.of(request.session_hash)
        comparison = self.comparison(request.session_hash)
        found = comparison.round
        if found is None or not found.ended:
            return (gr.skip(),) * (5 + PLOTS)
        ballot = gr.update(visible=found.vote is None and any(column.receipt for column in found.columns))
        stop_all = gr.update(visible=HIDDEN)
        return ballot, escape(texts.COMPARE_DONE), stop_all, _spent(visitor, found), *_results(found)

    def vote(self, choice: str, request: gr.Request) -> tuple[Any, ...]:
        """Take a vote: names and results are shown, and the votes so far."""
        visitor = self._desk.visitors.of(request.session_hash)
        comparison = self.comparison(request.session_hash)
        found = comparison.round
        if found is None or not found.ended:
            return (gr.skip(),) * (COLUMNS + 4 + PLOTS)
        comparison.votes.add(found, choice)
        shown = _votes(comparison.votes), _spent(visitor, found), *_results(found)
        return *_heads(found), gr.update(visible=False), *shown


def place(number: int) -> str:
    """Name the lane of a column."""
    return f"compare-{number}"


def _column(asked: Question, fields: Sequence[str | None]) -> Column:
    provider, model, strategy = fields
    return Column(replace(asked, provider=provider, model=model, strategy=strategy))


def _frame(screen: Screen, stop: Any) -> Frame:
    return screen.messages(), screen.stage, screen.meter, stop


def _heads(found: Round | None) -> list[str]:
    count = len(found.columns) if found else 0
    return [f"<h3>{escape(found.head(n))}</h3>" if found and n < count else "" for n in range(COLUMNS)]


def _spent(visitor: Visitor, found: Round) -> Any:
    """What a blind round has cost would tell who answers."""
    return figures.spent(visitor.ledger) if found.open else gr.skip()


def _results(found: Round) -> tuple[Any, ...]:
    if not found.open:
        return (gr.skip(),) * (1 + PLOTS)
    header, rows, marked = comparison.table(found)
    drawn = [gr.update(value=plot, visible=True) for plot in plots.of_round(found)]
    note = f'<p class="sg-note">{escape(texts.COMPARE_NOTE)}</p>'
    return gr.update(value=layout.table(header, rows, marked=marked) + note, visible=True), *drawn


def _votes(votes: Votes) -> str:
    rows = [
        [
            vote.winner,
            ", ".join(vote.names),
            texts.YES_NO[vote.blind],
            figures.cut(vote.prompt),
        ]
        for vote in votes.cast
    ]
    return f"<h3>{escape(texts.VOTES)}</h3>" + layout.table([*texts.VOTES_HEADER], rows)
