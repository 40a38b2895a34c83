"""Event handlers of the results tab: the pickers of runs, one run, and two runs side by side."""

import re
from html import escape
from typing import Any

import gradio as gr

from streaming.errors import UsageError
from ui import strings
from ui.html import error_badge
from ui.results.downloads import MEDIA_TYPES, RunDownloads
from ui.results.run_list import RunEntry, RunList
from ui.results.run_view import MAX_CHARTS, RunView, RunViews

NO_OTHER = ""
"""The value of the second picker while no two runs are compared."""

ResultsUpdate = tuple[Any, ...]
"""Error, head, headline, leading tables, side A, side B, comparison, boxes, charts, captions, fold and report."""


class ResultsHandlers:
    """Event handlers that show the runs of a list; reading a run blocks."""

    def __init__(self, runs: RunList, views: RunViews, downloads: RunDownloads | None = None) -> None:
        self._runs = runs
        self._views = views
        self._downloads = downloads

    def open_newest(self) -> tuple[Any, Any, str]:
        """Return updates of both pickers from the folder, with the newest run chosen, and the note on an empty one."""
        return self.refresh(None, NO_OTHER)

    def refresh(self, chosen: str | None, other: str | None) -> tuple[Any, Any, str]:
        """Return updates of both pickers, which keep runs that still exist, and the note on an empty folder."""
        entries = self._runs.entries()
        choices = [(entry.label, entry.id) for entry in entries]
        ids = [entry.id for entry in entries]
        newest = next((entry.id for entry in entries if entry.is_readable), next(iter(ids), None))
        note = "" if any(not entry.is_sample for entry in entries) else strings.NO_RUNS
        return (
            gr.update(choices=choices, value=chosen if chosen in ids else newest),
            gr.update(choices=[(strings.NO_COMPARISON, NO_OTHER), *choices], value=other if other in ids else NO_OTHER),
            note,
        )

    def show(self, chosen: str | None, other: str | None, request: gr.Request) -> ResultsUpdate:
        """Return updates that show the chosen run, alone or beside another one, or one line on why not."""
        entries = {entry.id: entry for entry in self._runs.entries()}
        entry = entries.get(chosen or "")
        if entry is None:
            return _error_update(strings.NO_RUN) if entries else _error_update("")
        try:
            if other and other != chosen:
                if (earlier := entries.get(other)) is None:
                    return _error_update(strings.NO_RUN)
                return self._show_two(earlier, entry, request)
            return self._show_one(entry, request)
        except UsageError as error:
            return _error_update(f"{entry.name}: {error}")

    def _show_one(self, entry: RunEntry, request: gr.Request) -> ResultsUpdate:
        view = self._views.view(entry)
        rest = MAX_CHARTS - len(view.charts)
        return (
            "",
            self._head(entry, view, request),
            view.headline,
            view.lead,
            *[gr.update(visible=False)] * 3,
            *[gr.update(visible=place < len(view.charts)) for place in range(MAX_CHARTS)],
            *[figure for figure, _ in view.charts],
            *[None] * rest,
            *[caption for _, caption in view.charts],
            *[""] * rest,
            gr.update(visible=bool(view.report)),
            view.report,
        )

    def _show_two(self, a: RunEntry, b: RunEntry, request: gr.Request) -> ResultsUpdate:
        sides = [self._views.view(entry) for entry in (a, b)]
        texts = [
            f"## {letter}\n\n{view.headline}\n\n{re.sub('^##', '###', view.lead, flags=re.MULTILINE)}"
            for letter, view in zip("AB", sides, strict=True)
        ]
        claims, table = self._views.compare(a, b)
        comparison = f"## {strings.COMPARISON_TITLE}\n\n{claims}"
        heads = [
            f"<b>{letter}</b> {self._head(entry, view, request)}"
            for letter, entry, view in zip("AB", (a, b), sides, strict=True)
        ]
        return (
            "",
            "".join(heads),
            "",
            "",
            *[gr.update(value=text, visible=True) for text in (*texts, comparison)],
            *[gr.update(visible=False)] * MAX_CHARTS,
            *[None] * MAX_CHARTS,
            *[""] * MAX_CHARTS,
            gr.update(visible=True),
            table,
        )

    def _head(self, entry: RunEntry, view: RunView, request: gr.Request) -> str:
        """Render a run's state and its downloads."""
        links = ""
        if self._downloads is not None and request.session_hash and view.has_rows:
            links = "".join(
                f'<a href="{self._downloads.link(request.session_hash, entry.id, name)}" download>'
                f"{escape(strings.DOWNLOADS[name])}</a>"
                for name in MEDIA_TYPES
            )
        downloads = f'<span class="sg-downloads">{links}</span>' if links else ""
        note = f'<p class="sg-note">{escape(strings.SAMPLE_NOTE)}</p>' if entry.is_sample else ""
        return f'{note}<div class="sg-run-head">{view.head}{downloads}</div>'


def _error_update(words: str) -> ResultsUpdate:
    """Return an update that shows nothing but this line."""
    return (
        error_badge(words) if words else "",
        "",
        "",
        "",
        *[gr.update(visible=False)] * (3 + MAX_CHARTS),
        *[None] * MAX_CHARTS,
        *[""] * MAX_CHARTS,
        gr.update(visible=False),
        "",
    )
