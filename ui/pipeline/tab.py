"""Layout of the pipeline tab, and wiring of its events to `PipelineHandlers`."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from streaming import strategies
from ui import html, strings
from ui.address.events import PageAddress, given
from ui.address.query import INTERVAL_RANGE_MS
from ui.answers import AnswerService
from ui.components import CONCURRENCY_LIMIT, HIDDEN_IN_DOM, event_options
from ui.pipeline import state_diagram
from ui.pipeline.guide_section import read_guide_section
from ui.pipeline.handlers import PipelineHandlers
from ui.pipeline.scenarios import ScenarioKind, Scenarios
from ui.pipeline.state_diagram import Passage


def build_tab(answer_service: AnswerService, announcement: gr.HTML, address: PageAddress) -> None:
    """Build the tab into the current page; `announcement` is the page's live region for screen readers."""
    scenarios = Scenarios(answer_service)
    pipeline = PipelineHandlers(answer_service, scenarios)
    gr.HTML(f'<p class="sg-intro">{strings.PIPELINE_INTRO}</p>')
    kind, scenario, interval = _add_scenario_pickers(scenarios)
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
    gr.HTML(f'<p class="sg-note">{strings.PANES_NOTE}</p>')
    if section := read_guide_section():
        with gr.Accordion(strings.STRATEGY_COSTS, open=False, elem_id="sg-strategy-costs"):
            gr.Markdown(section, elem_classes="sg-tables", latex_delimiters=[])
    gr.HTML(f"<h2>{strings.MACHINE_TITLE}</h2>")
    diagram = gr.HTML(state_diagram.state_diagram_html([Passage("idle")]), elem_id="sg-machine")
    gr.HTML(f"<h2>{strings.PICTURES_TITLE}</h2>")
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
    _register_address(address, scenarios, kind, [scenario, left, right, interval])


def _register_address(
    address: PageAddress, scenarios: Scenarios, kind: gr.Radio, components: Sequence[Component]
) -> None:
    """Let an address name the scenario, the strategies of both sides and the interval, in the order of `components`."""

    def update(settings: Mapping[str, str]) -> list[Any]:
        interval: Any = int(settings["interval"]) if "interval" in settings else gr.skip()
        sides = [given(settings, "left"), given(settings, "right"), interval]
        if "scenario" not in settings:
            return [gr.skip(), gr.skip(), *sides]
        kind_name = scenarios.kind_of(settings["scenario"])
        return [kind_name, gr.update(choices=scenarios.choices(kind_name), value=settings["scenario"]), *sides]

    address.offer(scenarios=scenarios.names())
    address.register("pipeline", components, [kind, *components], update)


def _add_scenario_pickers(scenarios: Scenarios) -> tuple[gr.Radio, gr.Dropdown, gr.Slider]:
    """Add the pickers of a scenario by its kind, and the slider of the interval."""
    with gr.Row(elem_classes="sg-form"):
        kind = gr.Radio(
            [(label, name) for name, label in strings.SCENARIO_KINDS.items()], value="pace",
            label=strings.SCENARIO_KIND, scale=2, min_width=350, elem_id="sg-scenario-kind",
        )  # fmt: skip
        scenario = gr.Dropdown(
            scenarios.choices("pace"), value="sim:steady", label=strings.SCENARIO, info=strings.SCENARIO_INFO,
            scale=3, min_width=260, elem_id="sg-scenario",
        )  # fmt: skip
        interval = gr.Slider(
            *INTERVAL_RANGE_MS, value=100, step=10, label=strings.INTERVAL, info=_interval_info(), scale=2,
            min_width=200, elem_id="sg-interval",
        )  # fmt: skip

    def list_scenarios(kind: ScenarioKind) -> Any:
        choices = scenarios.choices(kind)
        return gr.update(choices=choices, value=choices[0][1])

    kind.input(list_scenarios, kind, scenario, queue=False, **event_options())
    return kind, scenario, interval


def _interval_info() -> str:
    names = [kind.name for kind in strategies.STRATEGIES.values() if kind.argument is strategies.INTERVAL]
    return strings.INTERVAL_INFO.format(strategies=" and ".join(names))


def _add_pane(label: str, kind: str, elem_id: str) -> tuple[gr.Dropdown, gr.Textbox, gr.HTML]:
    with gr.Column(min_width=280, elem_id=elem_id):
        picker = gr.Dropdown(
            list(strategies.STRATEGIES), value=kind, label=f"{label}: {strings.STRATEGY}", info=strings.STRATEGY_INFO
        )
        text = gr.Textbox(
            label=f"{label}: {strings.ANSWER.format(letter='')}".strip(), lines=8, max_lines=8, interactive=False,
            autoscroll=True, show_label=False,
        )  # fmt: skip
        stats = gr.HTML("")
    return picker, text, stats
