"""Layout of the results tab, and wiring of its events to `ResultsHandlers`."""

from typing import Any

import gradio as gr

from ui import strings
from ui.components import event_options
from ui.results.downloads import RunDownloads
from ui.results.handlers import NO_OTHER, ResultsHandlers
from ui.results.run_list import RunList
from ui.results.run_view import MAX_CHARTS, RunViews


def build_tab(tab: gr.Tab, runs: RunList, views: RunViews, downloads: RunDownloads) -> None:
    """Build the tab into the current page; each visit of `tab` shows the newest run."""
    results = ResultsHandlers(runs, views, downloads)
    gr.HTML(f'<p class="sg-intro">{strings.RESULTS_INTRO}</p>')
    with gr.Row(elem_classes="sg-form"):
        run = gr.Dropdown([], label=strings.RUN, info=strings.RUN_INFO, scale=3, min_width=280, elem_id="sg-run-picker")
        other = gr.Dropdown(
            [(strings.NO_COMPARISON, NO_OTHER)], value=NO_OTHER, label=strings.COMPARE_WITH,
            info=strings.COMPARE_WITH_INFO, scale=2, min_width=240, elem_id="sg-run-other",
        )  # fmt: skip
        refresh = gr.Button(strings.REFRESH, min_width=110)
    note = gr.Markdown("", elem_id="sg-run-note", latex_delimiters=[])
    outputs = _add_views()
    # Reading the tables takes a while, so these events show Gradio's progress; one run is read at a time.
    shown: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "full",
        "show_progress_on": outputs[2],
        "concurrency_limit": 1,
        "concurrency_id": "results",
    }
    pickers = [run, other]
    tab.select(results.open_newest, None, [*pickers, note], **event_options()).then(
        results.show, pickers, outputs, **shown
    )
    refresh.click(results.refresh, pickers, [*pickers, note], **event_options()).then(
        results.show, pickers, outputs, **shown
    )
    gr.on([run.input, other.input], results.show, pickers, outputs, **shown)


def _add_views() -> list[gr.components.Component]:
    """Add what shows one run or two; return its components in the order of `ResultsUpdate`."""
    errors = gr.HTML("", elem_id="sg-run-wrong")
    head = gr.HTML("", elem_id="sg-run-head")
    headline = _add_markdown("sg-run-headline", "sg-headline")
    lead = _add_markdown("sg-run-lead", "sg-tables")
    comparison = _add_markdown("sg-run-comparison", "sg-tables", visible=False)
    with gr.Row(elem_classes="sg-runs"):
        sides = [_add_markdown(f"sg-run-{letter}", "sg-tables", visible=False) for letter in "ab"]
    boxes, plots, captions = [], [], []
    with gr.Row(elem_classes="sg-plots"):
        for _ in range(MAX_CHARTS):
            with gr.Column(visible=False, min_width=420, elem_classes="sg-plot") as box:
                plots.append(gr.Plot(show_label=False))
                captions.append(gr.Markdown("", elem_classes="sg-caption", latex_delimiters=[]))
            boxes.append(box)
    with gr.Accordion(strings.FULL_REPORT, open=False, visible=False, elem_id="sg-run-details") as fold:
        report = gr.Markdown("", elem_id="sg-report", elem_classes="sg-tables", latex_delimiters=[])
    return [errors, head, headline, lead, *sides, comparison, *boxes, *plots, *captions, fold, report]


def _add_markdown(elem_id: str, elem_classes: str, *, visible: bool = True) -> gr.Markdown:
    return gr.Markdown("", elem_id=elem_id, elem_classes=elem_classes, visible=visible, latex_delimiters=[])
