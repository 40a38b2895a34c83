"""Layout of the pipeline tab, and wiring of its events to `PipelineHandlers`."""

import gradio as gr

from streaming import strategies
from ui import html, strings
from ui.answers import AnswerService
from ui.components import CONCURRENCY_LIMIT, HIDDEN_IN_DOM, event_options
from ui.pipeline import state_diagram
from ui.pipeline.handlers import PipelineHandlers
from ui.pipeline.scenarios import Scenarios


def build_tab(answer_service: AnswerService, announcement: gr.HTML) -> None:
    """Build the tab into the current page; `announcement` is the page's live region for screen readers."""
    scenarios = Scenarios(answer_service)
    pipeline = PipelineHandlers(answer_service, scenarios)
    gr.HTML(f'<p class="sg-intro">{strings.PIPELINE_INTRO}</p>')
    with gr.Row(elem_classes="sg-form"):
        scenario = gr.Dropdown(
            scenarios.choices(), value="sim:steady", label=strings.SCENARIO, info=strings.SCENARIO_INFO,
            scale=3, elem_id="sg-scenario",
        )  # fmt: skip
        interval = gr.Slider(
            10, 1000, value=100, step=10, label=strings.INTERVAL, info=_interval_info(), scale=2, min_width=200,
            elem_id="sg-interval",
        )  # fmt: skip
    with gr.Row(elem_classes="sg-form"):
        prompt = gr.Textbox(
            label=strings.MESSAGE, value=strings.PIPELINE_PROMPT, scale=3, max_lines=1, elem_id="sg-run-prompt"
        )
        run = gr.Button(strings.PIPELINE_RUN, variant="primary", elem_id="sg-run", min_width=110)
        stop = gr.Button(strings.STOP, variant="stop", visible=HIDDEN_IN_DOM, elem_id="sg-run-stop", min_width=110)
    stage = gr.HTML(html.stage_html(strings.IDLE), elem_id="sg-run-stage")
    with gr.Row(elem_classes="sg-sides"):
        left, left_text, left_stats = _add_pane(strings.LEFT_SIDE, "direct", "sg-left")
        right, right_text, right_stats = _add_pane(strings.RIGHT_SIDE, "batch", "sg-right")
    gr.HTML(f"<h3>{strings.MACHINE_TITLE}</h3>")
    diagram = gr.HTML(state_diagram.state_diagram_svg(["idle"]), elem_id="sg-machine")
    gr.HTML(f"<h3>{strings.PICTURES_TITLE}</h3>")
    diagrams = gr.HTML(f'<p class="sg-note">{strings.PICTURES_EMPTY}</p>', elem_id="sg-buffering")
    outputs = [left_text, right_text, left_stats, right_stats, diagram, stage, diagrams, stop, announcement]
    gr.on(
        [run.click, prompt.submit],
        pipeline.run,
        [scenario, left, right, interval, prompt],
        outputs,
        concurrency_limit=CONCURRENCY_LIMIT,
        **event_options(),
    )
    stop.click(pipeline.stop, queue=False, **event_options())


def _interval_info() -> str:
    names = [kind.name for kind in strategies.STRATEGIES.values() if kind.argument is strategies.INTERVAL]
    return strings.INTERVAL_INFO.format(strategies=" and ".join(names))


def _add_pane(label: str, kind: str, elem_id: str) -> tuple[gr.Dropdown, gr.Textbox, gr.HTML]:
    with gr.Column(min_width=280, elem_id=elem_id):
        picker = gr.Dropdown(list(strategies.STRATEGIES), value=kind, label=f"{label}: {strings.STRATEGY}")
        text = gr.Textbox(
            label=f"{label}: {strings.ANSWER.format(letter='')}".strip(), lines=8, max_lines=8, interactive=False,
            autoscroll=True, show_label=False,
        )  # fmt: skip
        stats = gr.HTML("")
    return picker, text, stats
