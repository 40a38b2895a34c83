"""Layout of the compare tab, and wiring of its events to `CompareHandlers`."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ui import strings
from ui.address.events import PageAddress
from ui.answers import AnswerService
from ui.compare import columns
from ui.compare.form import CompareForm, add_form
from ui.compare.handlers import ColumnUpdate, CompareHandlers
from ui.compare.round import BAD_CHOICE, COLUMN_LETTERS, TIE_CHOICE
from ui.compare.updates import COLUMNS, PLOTS, RoundParts
from ui.components import CONCURRENCY_LIMIT, HIDDEN_IN_DOM, LATEX_DELIMITERS, event_options

_BRING_INTO_VIEW = """
element.addEventListener("click", ({ target }) => {
  const column = target.closest("[data-column]")?.dataset.column;
  const box = document.getElementById(`sg-column-${column}`);
  box?.parentElement.scrollTo({ left: box.offsetLeft - box.parentElement.offsetLeft, behavior: "smooth" });
});
"""
"""Brings the column of a heading into view where the columns are swiped."""


@dataclass(frozen=True, slots=True)
class _Column:
    """The components of one column."""

    box: gr.Column
    head: gr.HTML
    answer: gr.Chatbot
    stage: gr.HTML
    stop: gr.Button
    metrics: gr.HTML

    @property
    def outputs(self) -> list[Component]:
        """The components that show its answer, in the order of `ColumnUpdate`."""
        return [self.answer, self.stage, self.metrics, self.stop]


@dataclass(frozen=True, slots=True)
class _Ballot:
    """The components of the vote."""

    row: gr.Row
    words: gr.HTML
    letters: list[gr.Button]
    tie: gr.Button
    bad: gr.Button
    voted: gr.HTML


def build_tab(
    answer_service: AnswerService,
    announcement: gr.HTML,
    shared: tuple[Component, gr.HTML, Component],
    address: PageAddress,
) -> None:
    """Build the tab into the current page, with the page's live region, its budget, spending line and sent keys."""
    budget, spent, brought = shared
    compare = CompareHandlers(answer_service)
    with gr.Column(elem_id="sg-arena"):
        with gr.Row(elem_id="sg-composer"):
            form = add_form(answer_service, compare)
        errors = gr.HTML("", elem_id="sg-compare-wrong")
        with gr.Column(elem_id="sg-answers"), gr.Row(elem_id="sg-columns"):
            shown = [_add_column(number) for number in range(COLUMNS)]
        ballot = _add_ballot()
    results, plots = _add_results()
    parts: RoundParts[Any] = RoundParts(
        **_column_parts(shown),
        letters=ballot.letters,
        plots=plots,
        form=form.fold,
        prompt=form.prompt,
        announcement=announcement,
        errors=errors,
        ask=form.ask,
        stop_all=form.stop_all,
        ballot=ballot.row,
        ballot_words=ballot.words,
        bad=ballot.bad,
        voted=ballot.voted,
        spent=spent,
        results=results,
    )
    inputs = [form.prompt, form.count, form.blind, form.max_tokens, budget, brought, *form.fields]
    _wire_events(compare, form, inputs, shown, ballot, parts.flatten())
    assert isinstance(brought, gr.Textbox)
    form.list_models_after(brought.change, compare)
    form.register_address(address, answer_service)


def _add_results() -> tuple[gr.HTML, list[gr.Plot]]:
    results = gr.HTML("", visible=False, elem_id="sg-compare-results")
    with gr.Row(elem_classes="sg-plots"):
        plots = [gr.Plot(show_label=False, visible=False, elem_classes="sg-plot") for _ in range(PLOTS)]
    return results, plots


def _column_parts(shown: list[_Column]) -> dict[str, list[Any]]:
    """Return the components of the columns by the names of their parts of a round."""
    return {
        "boxes": [column.box for column in shown],
        "heads": [column.head for column in shown],
        "answers": [column.answer for column in shown],
        "stages": [column.stage for column in shown],
        "metrics": [column.metrics for column in shown],
        "stops": [column.stop for column in shown],
    }


def _wire_events(
    compare: CompareHandlers,
    form: CompareForm,
    inputs: list[Any],
    shown: list[_Column],
    ballot: _Ballot,
    outputs: list[Any],
) -> None:
    """Start every column independently when a round begins, and show the vote after the last column."""
    at_once: dict[str, Any] = {"queue": False, **event_options()}
    triggers = [form.ask.click, form.prompt.submit]
    round_started = gr.on(triggers, compare.begin, inputs, outputs, **at_once)
    # With its default trigger mode Gradio would drop the events of a round that starts while answers are under way.
    always: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_limit": CONCURRENCY_LIMIT, **event_options()}
    for number, column in enumerate(shown):
        answered = round_started.then(_ask_handler(compare, number), None, column.outputs, **always)
        answered.then(compare.on_column_end, None, outputs, **always)
        column.stop.click(_stop_handler(compare, number), **at_once)
    round_started.then(None, None, None, js="() => scrollTo({ top: 0 })")
    form.stop_all.click(compare.stop_all, None, [form.ask, form.stop_all], **at_once)
    form.new.click(compare.start_over, None, outputs, **at_once)
    boxes = [*form.boxes, *(column.box for column in shown)]
    form.count.change(compare.change_count, form.count, boxes, **at_once)
    choices = [*zip(COLUMN_LETTERS, ballot.letters, strict=True), (TIE_CHOICE, ballot.tie), (BAD_CHOICE, ballot.bad)]
    for choice, button in choices:
        button.click(_vote_handler(compare, choice), None, outputs, **at_once)


def _add_column(number: int) -> _Column:
    with gr.Column(visible=number < 2, min_width=240, elem_id=f"sg-column-{number}", elem_classes="sg-column") as box:
        with gr.Column(elem_classes="sg-card"):
            with gr.Row(elem_classes="sg-line"):
                head = gr.HTML(columns.heading_html(None, number), elem_classes="sg-head", js_on_load=_BRING_INTO_VIEW)
                stop = gr.Button(strings.STOP, variant="stop", size="sm", visible=HIDDEN_IN_DOM, elem_classes="sg-stop")
            stage = gr.HTML(columns.stage_html(None), elem_classes="sg-stage-box")
            metrics = gr.HTML(columns.metrics_html(None), elem_classes="sg-small")
        answer = gr.Chatbot(
            show_label=False,
            label=strings.ANSWER.format(letter=COLUMN_LETTERS[number]),
            placeholder=strings.COMPARE_EMPTY,
            height="100%",
            buttons=["copy"],
            latex_delimiters=LATEX_DELIMITERS,
            layout="bubble",
            allow_tags=False,
            feedback_options=None,
            autoscroll=False,
        )
    return _Column(box, head, answer, stage, stop, metrics)


def _add_ballot() -> _Ballot:
    with gr.Row(visible=False, elem_id="sg-ballot") as row:
        words = gr.HTML(f"<p>{strings.COMPARE_VOTE}</p>", elem_id="sg-ballot-words")
        letters = [gr.Button(letter, size="sm", visible=n < 2) for n, letter in enumerate(COLUMN_LETTERS)]
        tie, bad = gr.Button(strings.TIE, size="sm"), gr.Button(strings.VOTE_BOTH_BAD, size="sm")
    return _Ballot(row, words, letters, tie, bad, gr.HTML("", visible=False, elem_id="sg-voted"))


# Gradio passes the request only to functions that declare it in their signature; a partial does not.
def _ask_handler(compare: CompareHandlers, number: int) -> Callable[[gr.Request], AsyncGenerator[ColumnUpdate, None]]:
    async def stream_column(request: gr.Request) -> AsyncGenerator[ColumnUpdate, None]:
        async with aclosing(compare.ask(number, request)) as frames:
            async for frame in frames:
                yield frame

    return stream_column


def _stop_handler(compare: CompareHandlers, number: int) -> Callable[[gr.Request], Awaitable[None]]:
    async def stop_column(request: gr.Request) -> None:
        await compare.stop(number, request)

    return stop_column


def _vote_handler(compare: CompareHandlers, choice: str) -> Callable[[gr.Request], tuple[Any, ...]]:
    def cast_vote(request: gr.Request) -> tuple[Any, ...]:
        return compare.vote(choice, request)

    return cast_vote
