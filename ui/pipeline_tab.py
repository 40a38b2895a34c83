"""The pipeline tab: layout and wiring of `Pipeline`."""

import gradio as gr

from ui import figures, machine, texts
from ui.chat import HIDDEN
from ui.desk import Desk
from ui.layout import ANSWERS_AT_ONCE, quiet
from ui.pipeline import Pipeline
from ui.scenarios import Scenarios

_KINDS = ("direct", "batch", "debounce", "pace", "whole")


def draw(desk: Desk, announcement: gr.HTML) -> None:
    """Draw the tab into the page that is being built; `announcement` is the page's one line for screen readers."""
    scenarios = Scenarios(desk)
    pipeline = Pipeline(desk, scenarios)
    gr.HTML(f'<p class="sg-intro">{texts.PIPELINE_INTRO}</p>')
    with gr.Row(elem_classes="sg-form"):
        scenario = gr.Dropdown(
            scenarios.choices(), value="sim:steady", label=texts.SCENARIO, info=texts.SCENARIO_INFO,
            scale=3, elem_id="sg-scenario",
        )  # fmt: skip
        interval = gr.Slider(
            10, 1000, value=100, step=10, label=texts.INTERVAL, info=texts.INTERVAL_INFO, scale=2, min_width=200,
            elem_id="sg-interval",
        )  # fmt: skip
    with gr.Row(elem_classes="sg-form"):
        prompt = gr.Textbox(label=texts.MESSAGE, value=texts.PIPELINE_PROMPT, scale=3, max_lines=1)
        run = gr.Button(texts.PIPELINE_RUN, variant="primary", elem_id="sg-run", min_width=110)
        stop = gr.Button(texts.STOP, variant="stop", visible=HIDDEN, elem_id="sg-run-stop", min_width=110)
    stage = gr.HTML(figures.stage(texts.IDLE), elem_id="sg-run-stage")
    with gr.Row(elem_classes="sg-sides"):
        left, left_text, left_tally = _side(texts.LEFT_SIDE, "direct", "sg-left")
        right, right_text, right_tally = _side(texts.RIGHT_SIDE, "batch", "sg-right")
    gr.HTML(f"<h3>{texts.MACHINE_TITLE}</h3>")
    drawn = gr.HTML(machine.svg(["idle"]), elem_id="sg-machine")
    gr.HTML(f"<h3>{texts.PICTURES_TITLE}</h3>")
    pictures = gr.HTML(f'<p class="sg-note">{texts.PICTURES_EMPTY}</p>', elem_id="sg-buffering")
    outputs = [left_text, right_text, left_tally, right_tally, drawn, stage, pictures, stop, announcement]
    gr.on(
        [run.click, prompt.submit],
        pipeline.run,
        [scenario, left, right, interval, prompt],
        outputs,
        concurrency_limit=ANSWERS_AT_ONCE,
        **quiet(),
    )
    stop.click(pipeline.stop, queue=False, **quiet())


def _side(label: str, kind: str, elem_id: str) -> tuple[gr.Dropdown, gr.Textbox, gr.HTML]:
    with gr.Column(min_width=280, elem_id=elem_id):
        picker = gr.Dropdown(list(_KINDS), value=kind, label=f"{label}: {texts.STRATEGY}")
        text = gr.Textbox(
            label=f"{label}: {texts.ANSWER.format(letter='')}".strip(), lines=8, max_lines=8, interactive=False,
            autoscroll=True, show_label=False,
        )  # fmt: skip
        tally = gr.HTML("")
    return picker, text, tally
