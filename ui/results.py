"""The results tab: evaluation and load-test runs of a folder, as tables and charts."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from evaluation import tables
from evaluation.reports import markdown
from evaluation.reports.chart_kinds import Chart
from evaluation.reports.charts import build_charts
from streaming.errors import UsageError
from streaming.escaping import to_line, to_markdown
from ui import charts, strings
from ui.components import event_options
from ui.html import error_badge

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "docs" / "sample-run"
MAX_PLOTS = 8
_MANIFEST_FILE = "manifest.json"


class ResultsHandlers:
    """Event handlers that list the runs in `folder`, newest first, and the bundled sample run last."""

    def __init__(self, folder: Path = ROOT / "out", sample: Path = SAMPLE) -> None:
        self._folder = folder
        self._sample = sample

    def choices(self) -> list[tuple[str, str]]:
        """Return the options of the run picker as pairs of label and name."""
        return [(name or strings.SAMPLE_RUN, name) for name in self._folders()]

    def _folders(self) -> dict[str, Path]:
        """Return the runs' folders by display name, newest first; the sample run has an empty name."""
        result: list[tuple[float, Path]] = []
        for path in self._folder.glob(f"*/{_MANIFEST_FILE}"):
            with suppress(OSError):  # the folder was removed since it was listed
                result.append((path.stat().st_mtime, path.parent))
        folders: dict[str, Path] = {to_line(folder.name): folder for _, folder in sorted(result, reverse=True)}
        return {**folders, "": self._sample} if (self._sample / _MANIFEST_FILE).exists() else folders

    def refresh(self, chosen: str | None) -> Any:
        """Return an update of the picker from the folder; the chosen run stays selected if it still exists."""
        choices = self.choices()
        names = [name for _, name in choices]
        return gr.update(choices=choices, value=chosen if chosen in names else next(iter(names), None))

    def show(self, chosen: str | None) -> tuple[Any, ...]:
        """Return updates of the report, the error line, the chart boxes, the charts and their captions, in this order.

        Reads the run's files and blocks meanwhile.
        """
        hidden = [gr.update(visible=False)] * MAX_PLOTS
        runs = self._folders()
        if chosen is None or chosen not in runs:
            return "", error_badge(strings.NO_RUN), *hidden, *[None] * MAX_PLOTS, *[""] * MAX_PLOTS
        try:
            run = tables.load(runs[chosen])
            drawn, written = build_charts(run)[:MAX_PLOTS], markdown.markdown(run)
        except UsageError as error:
            return "", error_badge(to_line(str(error))), *hidden, *[None] * MAX_PLOTS, *[""] * MAX_PLOTS
        rest = MAX_PLOTS - len(drawn)
        boxes = [gr.update(visible=n < len(drawn)) for n in range(MAX_PLOTS)]
        captions = [_caption(view) for view in drawn]
        return (
            written,
            "",
            *boxes,
            *[charts.chart_figure(view) for view in drawn],
            *[None] * rest,
            *captions,
            *[""] * rest,
        )


def _caption(view: Chart) -> str:
    """Return a chart's caption and note as Markdown."""
    caption = to_markdown(view.caption)
    return f"{caption} *{to_markdown(view.note)}*" if view.note else caption


def build_tab(tab: gr.Tab) -> None:
    """Build the tab into the current page; selecting `tab` refreshes it."""
    results = ResultsHandlers()
    gr.HTML(f'<p class="sg-intro">{strings.RESULTS_INTRO}</p>')
    choices = results.choices()
    first = choices[0][1] if choices else None
    with gr.Row(elem_classes="sg-form"):
        run = gr.Dropdown(
            choices, value=first, label=strings.RUN, info=strings.RUN_INFO, scale=3, elem_id="sg-run-picker"
        )
        refresh = gr.Button(strings.REFRESH, min_width=110)
    errors = gr.HTML("", elem_id="sg-run-wrong")
    boxes, plots, captions = [], [], []
    with gr.Row(elem_classes="sg-plots"):
        for _ in range(MAX_PLOTS):
            with gr.Column(visible=False, min_width=420, elem_classes="sg-plot") as box:
                plots.append(gr.Plot(show_label=False))
                captions.append(gr.Markdown("", elem_classes="sg-caption", latex_delimiters=[]))
            boxes.append(box)
    report = gr.Markdown("", elem_id="sg-report", latex_delimiters=[])
    outputs = [report, errors, *boxes, *plots, *captions]
    # Reading the tables takes a while, so these events show Gradio's progress.
    shown: dict[str, Any] = {"api_visibility": "private", "show_progress": "full", "show_progress_on": report}
    tab.select(results.refresh, run, run, **event_options()).then(results.show, run, outputs, **shown)
    refresh.click(results.refresh, run, run, **event_options()).then(results.show, run, outputs, **shown)
    run.input(results.show, run, outputs, **shown)
