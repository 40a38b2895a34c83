"""Runs in folders, and what the results tab shows of them, for tests without a browser."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.ui.ui_fixtures import make_request
from ui.results.downloads import RunDownloads
from ui.results.handlers import ResultsHandlers
from ui.results.run_list import SAMPLE, RunList
from ui.results.run_view import MAX_CHARTS, RunViews

TABLES = ("trials.parquet", "events.parquet")


@dataclass(frozen=True)
class ShownRun:
    """The values of an update of the results tab."""

    error: str
    head: str
    headline: str
    lead: str
    sides: tuple[str, str]
    comparison: str
    charts: int
    texts: list[str]


def copy_sample(folder: Path, name: str, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """Copy the sample run under another name, without some of its files and with changes of its manifest."""
    run = Path(shutil.copytree(SAMPLE, folder / name))
    for file in drop:
        (run / file).unlink()
    if changes:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        (run / "manifest.json").write_text(json.dumps(manifest | changes), encoding="utf-8")
    return run


def make_handlers(folder: Path, sample: Path | None = None) -> tuple[ResultsHandlers, RunList]:
    """Return the handlers of the tab over a folder, by default without the sample run."""
    runs, views = RunList(folder, sample or folder / "none"), RunViews()
    return ResultsHandlers(runs, views, RunDownloads(runs, views, {"a"})), runs


def show(handlers: ResultsHandlers, chosen: str | None, other: str = "") -> ShownRun:
    """Return what the tab shows for the values of its pickers."""
    error, head, headline, lead, *rest = handlers.show(chosen, other, make_request())
    values = [part.get("value", "") if isinstance(part, dict) else part for part in rest]
    boxes = rest[3 : 3 + MAX_CHARTS]
    texts = [text for text in (error, head, headline, lead, *values) if isinstance(text, str)]
    charts = sum(bool(box["visible"]) for box in boxes)
    return ShownRun(error, head, headline, lead, (values[0], values[1]), values[2], charts, texts)


def show_run(run: Path) -> ShownRun:
    """Return what the tab shows for the run in a folder."""
    handlers, runs = make_handlers(run.parent)
    return show(handlers, id_of(runs, lambda folder: folder == run))


def id_of(runs: RunList, matches: Callable[[Path], bool]) -> str:
    """Return the id of the run whose folder matches."""
    return next(entry.id for entry in runs.entries() if matches(entry.folder))
