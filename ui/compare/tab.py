"""Layout of the compare tab, and wiring of its events to `CompareHandlers`."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from streaming import strategies
from ui import html, strings
from ui.answers import AnswerService
from ui.compare.handlers import COLUMNS, PLOTS, ColumnUpdate, CompareHandlers
from ui.compare.round import COLUMN_LETTERS
from ui.components import CONCURRENCY_LIMIT, HIDDEN_IN_DOM, LATEX_DELIMITERS, event_options, provider_choices

_FIRST_PROVIDERS = ("local", "sim:steady", "sim:bursty", "sim:thinking")
_MAX_TOKENS = "200"


@dataclass(frozen=True, slots=True)
class _ColumnComponents:
    """The components of one column; `outputs` are those that show its answer."""

    box: gr.Column
    head: gr.HTML
    stop: gr.Button
    outputs: list[Component]


def build_tab(
    answer_service: AnswerService, announcement: gr.HTML, budget: Component, spent: gr.HTML, brought: Component
) -> None:
    """Build the tab into the current page; `announcement` is the page's live region for screen readers.

    `budget`, `spent` and `brought` are components that all tabs of the page share.
    """
    compare = CompareHandlers(answer_service)
    gr.HTML(f'<p class="sg-intro">{strings.COMPARE_INTRO}</p>')
    with gr.Row(elem_classes="sg-form"):
        prompt = gr.Textbox(
            label=strings.COMPARE_PROMPT, value=strings.EXAMPLES[0], scale=6, elem_id="sg-compare-prompt"
        )
        count = gr.Radio([2, 3, 4], value=2, label=strings.COMPARE_COUNT, scale=1, min_width=220)
        max_tokens = gr.Textbox(label=strings.MAX_TOKENS, value=_MAX_TOKENS, scale=1, min_width=150, max_lines=1)
    with gr.Row(elem_classes="sg-actions"):
        blind = gr.Checkbox(label=strings.COMPARE_BLIND, value=False, container=False, scale=3)
        ask = gr.Button(strings.COMPARE_ASK, variant="primary", elem_id="sg-compare-ask")
        stop_all = gr.Button(
            strings.COMPARE_STOP_ALL, variant="stop", visible=HIDDEN_IN_DOM, elem_id="sg-compare-stop-all"
        )
    with gr.Accordion(strings.COMPARE_SETTINGS, open=True, elem_id="sg-who"), gr.Row():
        requests = [_add_fields(answer_service, number) for number in range(COLUMNS)]
    errors = gr.HTML("", elem_id="sg-compare-wrong")
    with gr.Row(elem_id="sg-columns"):
        columns = [_add_column(number) for number in range(COLUMNS)]
    verdict = _add_verdict()

    boxes: list[Any] = [*(box for box, _ in requests), *(column.box for column in columns), *verdict.letters]
    count.change(_visibility_updates, count, boxes, queue=False, **event_options())
    heads = [column.head for column in columns]
    inputs = [prompt, count, blind, max_tokens, budget, brought, *(field for _, own in requests for field in own)]
    shown: list[Any] = [*heads, announcement, errors, stop_all, verdict.ballot, verdict.results, *verdict.plots]
    round_started = gr.on([ask.click, prompt.submit], compare.begin, inputs, shown, queue=False, **event_options())
    stop_all.click(compare.stop_all, queue=False, **event_options())
    _wire_events(compare, round_started, columns, verdict, [announcement, stop_all, spent])


def _wire_events(
    compare: CompareHandlers,
    round_started: Dependency,
    columns: list[_ColumnComponents],
    verdict: "_VerdictComponents",
    shared_outputs: list[Any],
) -> None:
    """Start every column independently when a round begins, and show the verdict after the last column."""
    # With its default trigger mode Gradio would drop the events of a round that starts while answers are under way.
    always: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_limit": CONCURRENCY_LIMIT, **event_options()}
    for number, column in enumerate(columns):
        answered = round_started.then(_ask_handler(compare, number), None, column.outputs, **always)
        shown = [verdict.ballot, *shared_outputs, verdict.results, *verdict.plots]
        answered.then(compare.on_column_end, None, shown, **always)
        column.stop.click(_stop_handler(compare, number), queue=False, **event_options())
    heads = [column.head for column in columns]
    after: list[Any] = [*heads, verdict.ballot, verdict.votes, shared_outputs[-1], verdict.results, *verdict.plots]
    for choice, button in [*zip(COLUMN_LETTERS, verdict.letters, strict=True), ("", verdict.tie)]:
        button.click(_vote_handler(compare, choice), None, after, queue=False, **event_options())


@dataclass(frozen=True, slots=True)
class _VerdictComponents:
    """The components below the columns: vote, results and charts."""

    ballot: gr.Row
    letters: list[gr.Button]
    tie: gr.Button
    results: gr.HTML
    plots: list[gr.Plot]
    votes: gr.HTML


def _add_verdict() -> _VerdictComponents:
    with gr.Row(visible=False, elem_id="sg-ballot") as ballot:
        gr.HTML(f"<p>{strings.COMPARE_VOTE}</p>")
        letters = [gr.Button(letter, size="sm", visible=n < 2) for n, letter in enumerate(COLUMN_LETTERS)]
        tie = gr.Button(strings.TIE, size="sm")
    results = gr.HTML("", visible=False, elem_id="sg-compare-results")
    with gr.Row(elem_classes="sg-plots"):
        plots = [gr.Plot(show_label=False, visible=False, elem_classes="sg-plot") for _ in range(PLOTS)]
    return _VerdictComponents(ballot, letters, tie, results, plots, gr.HTML("", elem_id="sg-votes"))


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


def _add_fields(answer_service: AnswerService, number: int) -> tuple[gr.Column, list[Component]]:
    """Build the form fields of one column, in the order that `CompareHandlers.begin` expects."""
    with gr.Column(visible=number < 2, min_width=220) as box:
        provider = gr.Dropdown(
            provider_choices(answer_service),
            value=_FIRST_PROVIDERS[number],
            label=f"{number + 1}. {strings.PROVIDER}",
            elem_id=f"sg-compare-provider-{number}",
        )
        with gr.Row():
            model = gr.Textbox(label=strings.MODEL, placeholder=strings.MODEL_HINT, max_lines=1, min_width=150)
            strategy = gr.Dropdown(
                list(strategies.EXAMPLES),
                value=strategies.DEFAULT_STRATEGY,
                label=strings.STRATEGY,
                allow_custom_value=True,
                min_width=170,
            )
    return box, [provider, model, strategy]


def _add_column(number: int) -> _ColumnComponents:
    name = f"sg-column-{number}"
    with gr.Column(visible=number < 2, min_width=260, elem_id=name, elem_classes="sg-column") as box:
        head = gr.HTML("", elem_classes="sg-head")
        answer = gr.Chatbot(
            show_label=False,
            label=strings.ANSWER.format(letter=COLUMN_LETTERS[number]),
            placeholder=strings.COMPARE_EMPTY,
            height=300,
            buttons=["copy"],
            latex_delimiters=LATEX_DELIMITERS,
            layout="bubble",
            allow_tags=False,
            feedback_options=None,
            autoscroll=False,
        )
        with gr.Row(elem_classes="sg-line"):
            stage = gr.HTML(html.stage_html(strings.IDLE), elem_classes="sg-stage-box")
            stop = gr.Button(strings.STOP, variant="stop", size="sm", visible=HIDDEN_IN_DOM, elem_classes="sg-stop")
        meter = gr.HTML(html.meter_html(None), elem_classes="sg-small")
    return _ColumnComponents(box, head, stop, [answer, stage, meter, stop])


def _visibility_updates(count: float) -> list[Any]:
    shown = [gr.update(visible=number < count) for number in range(COLUMNS)]
    return [*shown, *shown, *shown]
