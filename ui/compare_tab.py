"""The comparison tab: layout and wiring of `Compare`."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from streaming import strategies
from ui import figures, texts
from ui.chat import HIDDEN
from ui.compare import COLUMNS, PLOTS, Compare, Frame
from ui.comparison import LETTERS
from ui.desk import Desk
from ui.layout import ANSWERS_AT_ONCE, choices, quiet

_FIRST = ("local", "sim:steady", "sim:bursty", "sim:thinking")
_MAX_TOKENS = "200"


@dataclass(frozen=True, slots=True)
class _Column:
    """The components of one column; `outputs` is what its answer is shown in."""

    box: gr.Column
    head: gr.HTML
    stop: gr.Button
    outputs: list[Component]


def draw(desk: Desk, announcement: gr.HTML, budget: Component, spent: gr.HTML, brought: Component) -> None:
    """Draw the tab into the page that is being built; `announcement` is the page's one line for screen readers.

    `budget`, `spent` and `brought` are the page's, whatever tab its money goes through.
    """
    compare = Compare(desk)
    gr.HTML(f'<p class="sg-intro">{texts.COMPARE_INTRO}</p>')
    with gr.Row(elem_classes="sg-form"):
        prompt = gr.Textbox(label=texts.COMPARE_PROMPT, value=texts.EXAMPLES[0], scale=6, elem_id="sg-compare-prompt")
        count = gr.Radio([2, 3, 4], value=2, label=texts.COMPARE_COUNT, scale=1, min_width=220)
        max_tokens = gr.Textbox(label=texts.MAX_TOKENS, value=_MAX_TOKENS, scale=1, min_width=150, max_lines=1)
    with gr.Row(elem_classes="sg-actions"):
        blind = gr.Checkbox(label=texts.COMPARE_BLIND, value=False, container=False, scale=3)
        ask = gr.Button(texts.COMPARE_ASK, variant="primary", elem_id="sg-compare-ask")
        stop_all = gr.Button(texts.COMPARE_STOP_ALL, variant="stop", visible=HIDDEN, elem_id="sg-compare-stop-all")
    with gr.Accordion(texts.COMPARE_SETTINGS, open=True, elem_id="sg-who"), gr.Row():
        asked = [_fields(desk, number) for number in range(COLUMNS)]
    wrong = gr.HTML("", elem_id="sg-compare-wrong")
    with gr.Row(elem_id="sg-columns"):
        columns = [_column(number) for number in range(COLUMNS)]
    verdict = _verdict()

    boxes: list[Any] = [*(box for box, _ in asked), *(column.box for column in columns), *verdict.letters]
    count.change(_visible, count, boxes, queue=False, **quiet())
    heads = [column.head for column in columns]
    inputs = [prompt, count, blind, max_tokens, budget, brought, *(field for _, own in asked for field in own)]
    shown: list[Any] = [*heads, announcement, wrong, stop_all, verdict.ballot, verdict.results, *verdict.plots]
    begun = gr.on([ask.click, prompt.submit], compare.begin, inputs, shown, queue=False, **quiet())
    stop_all.click(compare.stop_all, queue=False, **quiet())
    _wire(compare, begun, columns, verdict, [announcement, stop_all, spent])


def _wire(compare: Compare, begun: Dependency, columns: list[_Column], verdict: "_Verdict", told: list[Any]) -> None:
    """Let every column answer by itself once a round has begun, and the verdict follow the last."""
    # Asked again while answers still come, by default Gradio would leave the new round's out.
    always: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_limit": ANSWERS_AT_ONCE, **quiet()}
    for number, column in enumerate(columns):
        answered = begun.then(_ask(compare, number), None, column.outputs, **always)
        shown = [verdict.ballot, *told, verdict.results, *verdict.plots]
        answered.then(compare.ended, None, shown, **always)
        column.stop.click(_stop(compare, number), queue=False, **quiet())
    heads = [column.head for column in columns]
    after: list[Any] = [*heads, verdict.ballot, verdict.votes, told[-1], verdict.results, *verdict.plots]
    for choice, button in [*zip(LETTERS, verdict.letters, strict=True), ("", verdict.tie)]:
        button.click(_vote(compare, choice), None, after, queue=False, **quiet())


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The components below the columns."""

    ballot: gr.Row
    letters: list[gr.Button]
    tie: gr.Button
    results: gr.HTML
    plots: list[gr.Plot]
    votes: gr.HTML


def _verdict() -> _Verdict:
    with gr.Row(visible=False, elem_id="sg-ballot") as ballot:
        gr.HTML(f"<p>{texts.COMPARE_VOTE}</p>")
        letters = [gr.Button(letter, size="sm", visible=n < 2) for n, letter in enumerate(LETTERS)]
        tie = gr.Button(texts.TIE, size="sm")
    results = gr.HTML("", visible=False, elem_id="sg-compare-results")
    with gr.Row(elem_classes="sg-plots"):
        plots = [gr.Plot(show_label=False, visible=False, elem_classes="sg-plot") for _ in range(PLOTS)]
    return _Verdict(ballot, letters, tie, results, plots, gr.HTML("", elem_id="sg-votes"))


# Gradio hands the request to functions with a signature of their own, which a partial has not.
def _ask(compare: Compare, number: int) -> Callable[[gr.Request], AsyncGenerator[Frame, None]]:
    async def ask(request: gr.Request) -> AsyncGenerator[Frame, None]:
        async with aclosing(compare.ask(number, request)) as frames:
            async for frame in frames:
                yield frame

    return ask


def _stop(compare: Compare, number: int) -> Callable[[gr.Request], Awaitable[None]]:
    async def stop(request: gr.Request) -> None:
        await compare.stop(number, request)

    return stop


def _vote(compare: Compare, choice: str) -> Callable[[gr.Request], tuple[Any, ...]]:
    def vote(request: gr.Request) -> tuple[Any, ...]:
        return compare.vote(choice, request)

    return vote


def _fields(desk: Desk, number: int) -> tuple[gr.Column, list[Component]]:
    """Draw what one answer is asked with, in the order of a column's question."""
    with gr.Column(visible=number < 2, min_width=220) as box:
        provider = gr.Dropdown(choices(desk), value=_FIRST[number], label=f"{number + 1}. {texts.PROVIDER}")
        with gr.Row():
            model = gr.Textbox(label=texts.MODEL, placeholder=texts.MODEL_HINT, max_lines=1, min_width=150)
            strategy = gr.Dropdown(
                list(strategies.EXAMPLES),
                value=strategies.DEFAULT,
                label=texts.STRATEGY,
                allow_custom_value=True,
                min_width=170,
            )
    return box, [provider, model, strategy]


def _column(number: int) -> _Column:
    name = f"sg-column-{number}"
    with gr.Column(visible=number < 2, min_width=260, elem_id=name, elem_classes="sg-column") as box:
        head = gr.HTML("", elem_classes="sg-head")
        answer = gr.Chatbot(
            show_label=False,
            label=texts.ANSWER.format(letter=LETTERS[number]),
            placeholder=texts.COMPARE_EMPTY,
            height=300,
            buttons=["copy"],
            layout="bubble",
            allow_tags=False,
            feedback_options=None,
            autoscroll=False,
        )
        with gr.Row(elem_classes="sg-line"):
            stage = gr.HTML(figures.stage(texts.IDLE), elem_classes="sg-stage-box")
            stop = gr.Button(texts.STOP, variant="stop", size="sm", visible=HIDDEN, elem_classes="sg-stop")
        meter = gr.HTML(figures.meter(None), elem_classes="sg-small")
    return _Column(box, head, stop, [answer, stage, meter, stop])


def _visible(count: float) -> list[Any]:
    shown = [gr.update(visible=number < count) for number in range(COLUMNS)]
    return [*shown, *shown, *shown]
