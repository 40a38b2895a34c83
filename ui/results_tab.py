"""The results tab: layout and wiring of `Results`."""

from typing import Any

import gradio as gr

from ui import texts
from ui.layout import quiet
from ui.results import PLOTS, Results


def draw(tab: gr.Tab) -> None:
    """Draw the tab into the page that is being built; `tab` tells when it is looked at."""
    results = Results()
    gr.HTML(f'<p class="sg-intro">{texts.RESULTS_INTRO}</p>')
    choices = results.choices()
    first = choices[0][1] if choices else None
    with gr.Row(elem_classes="sg-form"):
        run = gr.Dropdown(choices, value=first, label=texts.RUN, info=texts.RUN_INFO, scale=3, elem_id="sg-run-picker")
        refresh = gr.Button(texts.REFRESH, min_width=110)
    wrong = gr.HTML("", elem_id="sg-run-wrong")
    boxes, plots, captions = [], [], []
    with gr.Row(elem_classes="sg-plots"):
        for _ in range(PLOTS):
            with gr.Column(visible=False, min_width=420, elem_classes="sg-plot") as box:
                plots.append(gr.Plot(show_label=False))
                captions.append(gr.Markdown("", elem_classes="sg-caption", latex_delimiters=[]))
            boxes.append(box)
    report = gr.Markdown("", elem_id="sg-report", latex_delimiters=[])
    outputs = [report, wrong, *boxes, *plots, *captions]
    # Reading the tables takes a while: Gradio's own progress says so.
    shown: dict[str, Any] = {"api_visibility": "private", "show_progress": "full", "show_progress_on": report}
    tab.select(results.refresh, run, run, **quiet()).then(results.show, run, outputs, **shown)
    refresh.click(results.refresh, run, run, **quiet()).then(results.show, run, outputs, **shown)
    run.input(results.show, run, outputs, **shown)
