"""The results tab's events: evaluation and load-test runs of a folder, as tables and plots."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

import evaluation
from evaluation import report
from evaluation.escaping import to_line, to_markdown
from evaluation.view import View
from evaluation.views import views
from streaming.errors import UsageError
from ui import plots, texts
from ui.figures import badge_problem

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "docs" / "sample-run"
PLOTS = 8
_MANIFEST = "manifest.json"


class Results:
    """Browses the runs of `folder`, newest first, and the sample, so that there always is one."""

    def __init__(self, folder: Path = ROOT / "out", sample: Path = SAMPLE) -> None:
        self._folder = folder
        self._sample = sample

    def choices(self) -> list[tuple[str, str]]:
        """Give the picker's lines: label and name."""
        return [(name or texts.SAMPLE_RUN, name) for name in self._folders()]

    def _folders(self) -> dict[str, Path]:
        """Return the runs' folders, newest first, by the names that can be shown, and the sample by an empty one."""
        found: list[tuple[float, Path]] = []
        for path in self._folder.glob(f"*/{_MANIFEST}"):
            with suppress(OSError):  # removed meanwhile
                found.append((path.stat().st_mtime, path.parent))
        folders: dict[str, Path] = {to_line(folder.name): folder for _, folder in sorted(found, reverse=True)}
        return {**folders, "": self._sample} if (self._sample / _MANIFEST).exists() else folders

    def refresh(self, chosen: str | None) -> Any:
        """Give the picker as the folder is now; what was chosen stays if it is still there."""
        choices = self.choices()
        names = [name for _, name in choices]
        return gr.update(choices=choices, value=chosen if chosen in names else next(iter(names), None))

    def show(self, chosen: str | None) -> tuple[Any, ...]:
        """Give the report, a line on what is wrong, and each plot with its caption. Blocks: tables are read."""
        hidden = [gr.update(visible=False)] * PLOTS
        runs = self._folders()
        if chosen is None or chosen not in runs:
            return "", badge_problem(texts.NO_RUN), *hidden, *[None] * PLOTS, *[""] * PLOTS
        try:
            run = evaluation.load(runs[chosen])
            drawn, written = views(run)[:PLOTS], report.markdown(run)
        except UsageError as error:
            return "", badge_problem(to_line(str(error))), *hidden, *[None] * PLOTS, *[""] * PLOTS
        rest = PLOTS - len(drawn)
        boxes = [gr.update(visible=n < len(drawn)) for n in range(PLOTS)]
        captions = [_caption(view) for view in drawn]
        return written, "", *boxes, *[plots.drawn(view) for view in drawn], *[None] * rest, *captions, *[""] * rest


def _caption(view: View) -> str:
    """Return what stands below a plot, as Markdown."""
    caption = to_markdown(view.caption)
    return f"{caption} *{to_markdown(view.note)}*" if view.note else caption
