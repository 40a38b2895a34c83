"""Event handlers of the compare tab: each column requests, shows and stops its answer independently."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from streaming.trace import Probe
from ui import html, strings
from ui.answers import AnswerService
from ui.compare import columns, updates
from ui.compare.round import COLUMN_LETTERS, ColumnResult, PageComparison, Round
from ui.compare.updates import RoundUpdate
from ui.components import HIDDEN_IN_DOM
from ui.drawn_updates import number_update
from ui.form import ChatForm, message_error
from ui.history import HistoryMessage
from ui.page_sessions.screen_progress import ScreenProgress
from ui.page_sessions.sessions import PageSession

COLUMNS = len(COLUMN_LETTERS)
FIELDS_PER_COLUMN = 3
"""Form fields of a column: provider, model, delivery strategy."""

ColumnUpdate = tuple[list[HistoryMessage], str, str, Any]
"""One update of a column: messages, stage line, metrics, Stop button."""
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
    ) -> RoundUpdate:
        """Start a round, or say why not; a round under way goes on, whatever is sent meanwhile."""
        comparison = self.comparison(request.session_hash)
        if comparison.round is not None and comparison.running:
            is_repeated = prompt.strip() in ("", comparison.round.prompt.strip())
            return updates.build_rejection("" if is_repeated else strings.BUSY)
        problem = message_error(prompt, self._answer_service.limits)
        if problem is not None:
            return updates.build_rejection(problem)
        form = ChatForm(prompt, max_tokens=max_tokens, budget=budget, brought=brought)
        forms = [
            _fill_form(form, fields[n * FIELDS_PER_COLUMN : (n + 1) * FIELDS_PER_COLUMN]) for n in range(int(count))
        ]
        # Nothing is awaited between the check above and this line, so that a second click finds the round running.
        if not comparison.start_round(prompt, forms, blind, self._rng):
            await self._reset_slots(request)
        return updates.build_start(comparison)

    async def ask(self, number: int, request: gr.Request) -> AsyncGenerator[ColumnUpdate, None]:
        """Send the request of one column and yield updates; a column outside the round does not change.

        Updates end as soon as another round starts, because the column then belongs to that round.
        """
        comparison = self.comparison(request.session_hash)
        this_round = comparison.round
        if this_round is None or number >= len(this_round.columns) or this_round.columns[number].view is not None:
            # Without an update Gradio would clear the column's components, including the label of its button.
            yield NO_UPDATE
            return
        column = this_round.columns[number]
        screen = self._answer_service.page_sessions.get(request.session_hash).screen
        first = True
        try:
            async with aclosing(self._answer(number, this_round, request)) as changes:
                async for _ in changes:
                    if comparison.round is not this_round:
                        break
                    now = self._answer_service.clock()
                    if first or not (screen.is_behind(now) or this_round.is_stopping(now)):
                        yield self._column_update(
                            screen, this_round, column, gr.update(visible=True) if first else gr.skip()
                        )
                        first = False
        finally:
            column.ended = True
        this_round.reveal()
        is_shown = comparison.round is this_round
        stop = gr.update(visible=HIDDEN_IN_DOM)
        yield self._column_update(screen, this_round, column, stop) if is_shown else NO_UPDATE

    async def _answer(self, number: int, this_round: Round, request: gr.Request) -> AsyncGenerator[None, None]:
        """Stream the answer of a column into its view; yield once it is there, and after every change but the last."""
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        column = this_round.columns[number]
        column.probe = Probe(self._answer_service.clock)
        view = column.view = self._answer_service.new_view(page_session, column.question, blind=this_round.blind)
        if column.stop_requested:
            view.show_error(strings.COMPARE_NOT_SENT)
            return
        yield
        answering = self._answer_service.run(slot_name(number), column.question, view, request, column.probe)
        is_stopping = False
        async with aclosing(answering) as changes:
            async for _ in changes:
                if column.stop_requested and not is_stopping:
                    is_stopping = True
                    await page_session.slot(slot_name(number)).stop()
                if view.ended:
                    return
                yield

    def _column_update(
        self, screen: ScreenProgress, this_round: Round, column: ColumnResult, stop: Any
    ) -> ColumnUpdate:
        """Return the update of a column that is sent now."""
        now, revealed = self._answer_service.clock(), this_round.revealed
        if column.view is not None:
            column.updates.add(column.view.answer_chars, now)
        shown = columns.messages(column, revealed=revealed), number_update(columns.stage_html(column), screen.send(now))
        return *shown, columns.metrics_html(column, revealed=revealed), stop

    async def stop(self, number: int, request: gr.Request) -> None:
        """Stop the answer of one column, also one that is not sent yet."""
        this_round = self.comparison(request.session_hash).round
        if this_round is not None and number < len(this_round.columns):
            this_round.columns[number].request_stop(self._answer_service.clock())
        await self._answer_service.page_sessions.get(request.session_hash).slot(slot_name(number)).stop()

    async def stop_all(self, request: gr.Request) -> tuple[Any, Any]:
        """Stop the answers of all columns; return updates of Send and Stop all."""
        this_round = self.comparison(request.session_hash).round
        await asyncio.gather(*(self.stop(number, request) for number in range(COLUMNS)))
        for column in this_round.columns if this_round else ():
            # The event of a column may be lost with the connection: its round must not go on for ever.
            column.ended = column.ended or column.view is None
        return updates.send_buttons(running=False)

    async def start_over(self, request: gr.Request) -> RoundUpdate:
        """Stop and remove the current round with its conversations; votes and metrics remain."""
        comparison = self.comparison(request.session_hash)
        comparison.round = None
        await self._reset_slots(request)
        return updates.build_empty()

    def on_column_end(self, request: gr.Request) -> RoundUpdate:
        """Show the vote once all columns have ended, and the results unless the round is blind."""
        comparison = self.comparison(request.session_hash)
        this_round = comparison.round
        if this_round is None or not this_round.ended or this_round.reported:
            return updates.build_unchanged()
        this_round.reported = True
        comparison.finish_round()
        this_round.reveal()
        return updates.build_end(comparison, self._spending_html(request))

    def vote(self, choice: str, request: gr.Request) -> RoundUpdate:
        """Record a vote; return updates that show names, results and the votes so far."""
        comparison = self.comparison(request.session_hash)
        if comparison.round is None or not comparison.round.can_be_voted_on:
            return updates.build_unchanged()
        comparison.cast_vote(choice)
        return updates.build_vote(comparison, self._spending_html(request))

    def change_count(self, count: float, request: gr.Request) -> list[Any]:
        """Show the form fields of so many columns, and the columns themselves unless they hold a round."""
        fields = [gr.update(visible=number < count) for number in range(COLUMNS)]
        if self.comparison(request.session_hash).round is not None:
            return [*fields, *[gr.skip()] * COLUMNS]
        return [*fields, *fields]

    async def list_models(self, provider: str | None, request: gr.Request) -> str:
        """Return the provider and the models that its service offers, one a line."""
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        check = await self._answer_service.check_service(page_session, provider or "")
        return "\n".join([provider or "", *check.models])

    async def _reset_slots(self, request: gr.Request) -> None:
        page_session = self._answer_service.page_sessions.get(request.session_hash)
        await asyncio.gather(*(page_session.slot(slot_name(number)).reset() for number in range(COLUMNS)))

    def _spending_html(self, request: gr.Request) -> str:
        return html.spending_html(self._answer_service.page_sessions.get(request.session_hash).spending)


def slot_name(number: int) -> str:
    """Return the name of a column's answer slot."""
    return f"compare-{number}"


def _fill_form(form: ChatForm, fields: Sequence[str | None]) -> ChatForm:
    provider, model, strategy = fields
    return replace(form, provider=provider, model=model, strategy=strategy)
