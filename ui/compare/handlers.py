"""Event handlers of the compare tab: each column requests, shows and stops its answer independently."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from html import escape
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from streaming.trace import Probe
from ui import components, html, strings
from ui.answer_view import AnswerView
from ui.answers import AnswerService
from ui.compare import charts, round
from ui.compare.round import COLUMN_LETTERS, ColumnResult, PageComparison, Round, Votes
from ui.components import HIDDEN_IN_DOM
from ui.form import ChatForm, message_error
from ui.history import HistoryMessage
from ui.page_sessions.sessions import PageSession

COLUMNS = len(COLUMN_LETTERS)
FIELDS_PER_COLUMN = 3
"""Form fields of a column: provider, model, delivery strategy."""

PLOTS = 4

ColumnUpdate = tuple[list[HistoryMessage], str, str, Any]
"""One update of a column: messages, stage line, meter, Stop button."""
NO_UPDATE: Any = (gr.skip(),) * 4


class CompareHandlers:
    """Event handlers of the compare tab on an `AnswerService`. `rng` shuffles the columns of a blind round."""

    def __init__(self, answer_service: AnswerService, rng: random.Random | None = None) -> None:
        self._answer_service = answer_service
        self._rng = rng or random.SystemRandom()
        self._comparisons: WeakKeyDictionary[PageSession, PageComparison] = WeakKeyDictionary()

    def comparison(self, session_hash: str | None) -> PageComparison:
        """Return the comparison of a page, which lives as long as the page's session."""
        return self._comparisons.setdefault(self._answer_service.page_sessions.get(session_hash), PageComparison())

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
        """Start a round; return updates of headings, announcement, error line and Stop-all, and hide old results."""
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        problem = message_error(prompt, self._answer_service.limits)
        requests = ChatForm(prompt, max_tokens=max_tokens, budget=budget, brought=brought)
        columns = [
            _make_column(requests, fields[n * FIELDS_PER_COLUMN : (n + 1) * FIELDS_PER_COLUMN])
            for n in range(int(count))
        ]
        if blind:
            self._rng.shuffle(columns)
        comparison = self.comparison(request.session_hash)
        comparison.round = None if problem else Round(prompt, columns, blind)
        # The previous round has been replaced: stop its answers, which are no longer shown.
        await asyncio.gather(*(page_session.slot(slot_name(n)).reset() for n in range(COLUMNS)))
        errors = html.error_badge(problem) if problem else ""
        stop_all = gr.update(visible=HIDDEN_IN_DOM if problem else True)
        announcement = problem or strings.COMPARE_ASKED.format(count=len(columns))
        return (
            *_column_headings(comparison.round),
            escape(announcement),
            errors,
            stop_all,
            *[gr.update(visible=False)] * (2 + PLOTS),
        )

    async def ask(self, number: int, request: gr.Request) -> AsyncGenerator[ColumnUpdate, None]:
        """Send the request of one column and yield updates; a column outside the round does not change.

        Updates end as soon as another round starts, because the column then belongs to that round.
        """
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        comparison = self.comparison(request.session_hash)
        this_round = comparison.round
        if this_round is None or number >= len(this_round.columns) or this_round.columns[number].probe is not None:
            # Without an update Gradio would clear the column's components, including the label of its button.
            yield NO_UPDATE
            return
        column = this_round.columns[number]
        column.probe = Probe(self._answer_service.clock)
        view = self._answer_service.new_view(page_session, column.question, blind=this_round.blind)
        answering = self._answer_service.run(slot_name(number), column.question, view, request, column.probe)
        async with aclosing(answering) as changes:
            async for _ in changes:
                if view.ended or comparison.round is not this_round:
                    break
                yield _column_update(view, gr.update(visible=True))
        column.receipt, column.no_price, column.ended = view.receipt, view.no_price, True
        yield _column_update(view, gr.update(visible=HIDDEN_IN_DOM)) if comparison.round is this_round else NO_UPDATE

    async def stop(self, number: int, request: gr.Request) -> None:
        """Stop the answer of one column."""
        await self._answer_service.page_sessions.get(request.session_hash).slot(slot_name(number)).stop()

    async def stop_all(self, request: gr.Request) -> None:
        """Stop the answers of all columns."""
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        await asyncio.gather(*(page_session.slot(slot_name(number)).stop() for number in range(COLUMNS)))

    def on_column_end(self, request: gr.Request) -> tuple[Any, ...]:
        """Show the vote once all columns have ended, and the results unless the round is blind."""
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        comparison = self.comparison(request.session_hash)
        this_round = comparison.round
        if this_round is None or not this_round.ended:
            return (gr.skip(),) * (5 + PLOTS)
        ballot = gr.update(visible=this_round.vote is None and any(column.receipt for column in this_round.columns))
        stop_all = gr.update(visible=HIDDEN_IN_DOM)
        return (
            ballot,
            escape(strings.COMPARE_DONE),
            stop_all,
            _spending_update(page_session, this_round),
            *_result_updates(this_round),
        )

    def vote(self, choice: str, request: gr.Request) -> tuple[Any, ...]:
        """Record a vote; return updates that show names, results and the votes so far."""
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        comparison = self.comparison(request.session_hash)
        this_round = comparison.round
        if this_round is None or not this_round.ended:
            return (gr.skip(),) * (COLUMNS + 4 + PLOTS)
        comparison.votes.cast_vote(this_round, choice)
        shown = _votes_html(comparison.votes), _spending_update(page_session, this_round), *_result_updates(this_round)
        return *_column_headings(this_round), gr.update(visible=False), *shown


def slot_name(number: int) -> str:
    """Return the name of a column's answer slot."""
    return f"compare-{number}"


def _make_column(requests: ChatForm, fields: Sequence[str | None]) -> ColumnResult:
    provider, model, strategy = fields
    return ColumnResult(replace(requests, provider=provider, model=model, strategy=strategy))


def _column_update(view: AnswerView, stop: Any) -> ColumnUpdate:
    return view.messages(), view.stage, view.meter, stop


def _column_headings(this_round: Round | None) -> list[str]:
    count = len(this_round.columns) if this_round else 0
    return [f"<h3>{escape(this_round.heading(n))}</h3>" if this_round and n < count else "" for n in range(COLUMNS)]


def _spending_update(page_session: PageSession, this_round: Round) -> Any:
    """Return the spending line, or no update for a blind round, whose cost could reveal the providers."""
    return html.spending_html(page_session.spending) if this_round.revealed else gr.skip()


def _result_updates(this_round: Round) -> tuple[Any, ...]:
    if not this_round.revealed:
        return (gr.skip(),) * (1 + PLOTS)
    header, rows, marked = round.comparison_table(this_round)
    drawn = [gr.update(value=plot, visible=True) for plot in charts.round_charts(this_round)]
    note = f'<p class="sg-note">{escape(strings.COMPARE_NOTE)}</p>'
    return gr.update(value=components.html_table(header, rows, marked=marked) + note, visible=True), *drawn


def _votes_html(votes: Votes) -> str:
    rows = [
        [
            vote.winner,
            ", ".join(vote.names),
            strings.YES_NO[vote.blind],
            html.truncate(vote.prompt),
        ]
        for vote in votes.cast
    ]
    return f"<h3>{escape(strings.VOTES)}</h3>" + components.html_table([*strings.VOTES_HEADER], rows)
