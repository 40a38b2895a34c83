"""One run, and two runs side by side, as what the results tab shows: head, headline, tables and charts.

Reading a run takes a while, so the last few views are kept until a file of their run changes.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from html import escape
from threading import Lock
from typing import Any

from gradio.components.plot import PlotData

from evaluation.analysis import compare, slo, slo_checks
from evaluation.reports import markdown
from evaluation.reports.chart_kinds import Chart
from evaluation.reports.charts import build_charts
from evaluation.reports.compare import comparison_markdown, comparison_notes
from evaluation.tables import Run
from streaming.escaping import to_html, to_markdown
from ui import charts, strings
from ui.results.run_list import RunEntry, Signature, load_run, signature_of

MAX_CHARTS = 12
_KEPT_VIEWS = 8
_LEADING_SECTIONS = ("Decision", "Objectives", "Simulated delivery to the reader")


@dataclass(frozen=True, slots=True)
class RunView:
    """What is shown of a run: `head` as HTML; headline, leading tables and the rest of the report as Markdown."""

    head: str
    headline: str
    lead: str
    report: str
    charts: tuple[tuple[PlotData, str], ...]
    """Each chart with its caption."""
    has_rows: bool


class RunViews:
    """The views of runs. One run is read at a time, for it may be large; all methods block."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Signature, RunView]] = OrderedDict()
        self.reading = Lock()
        """Held while a run is read."""

    def view(self, entry: RunEntry) -> RunView:
        """Return the view of a run. Raises UsageError for a damaged run."""
        with self.reading:
            signature = signature_of(entry.folder)
            known = self._kept.get(entry.id)
            if known is None or known[0] != signature:
                known = (signature, make_view(load_run(entry)))
                self._kept[entry.id] = known
            self._kept.move_to_end(entry.id)
            if len(self._kept) > _KEPT_VIEWS:
                self._kept.popitem(last=False)
            return known[1]

    def compare(self, a: RunEntry, b: RunEntry) -> tuple[str, str]:
        """Return the claims and all metrics of two runs as Markdown. Raises UsageError for a damaged run."""
        with self.reading:
            found = compare.compare(load_run(a), load_run(b))
        claims = "\n\n".join(comparison_notes(found, to_markdown))
        return claims, comparison_markdown(found, a.label, b.label)


def make_view(run: Run) -> RunView:
    """Return the view of a run that was read."""
    headline, lead, report = split_report(markdown.markdown(run))
    drawn = tuple((charts.chart_figure(chart), _caption(chart)) for chart in build_charts(run)[:MAX_CHARTS])
    return RunView(_head_html(run), headline, lead, report, drawn, bool(len(run.trials)))


def split_report(text: str) -> tuple[str, str, str]:
    """Return the first sentence of a report with its cautions, its leading sections, and the rest of it."""
    findings, *sections = re.split(r"^## ", text, flags=re.M)
    findings = findings.partition("\n")[2].strip()
    lead = [section for section in sections if section.partition("\n")[0] in _LEADING_SECTIONS]
    rest = [section for section in sections if section not in lead]
    return findings, _join_sections(lead), _join_sections(rest)


def _join_sections(sections: list[str]) -> str:
    return "".join(f"## {section.strip()}\n\n" for section in sections)


def _head_html(run: Run) -> str:
    """Render kind, date, state and machine of a run, and the verdict on its objectives."""
    facts = run.manifest
    state, kind = (strings.ROWS_MISSING, "missed") if run.missing_rows else _state_of(facts)
    chips = [f'<span class="sg-chip sg-chip-{kind}">{escape(state)}</span>']
    if (objectives := facts.get("slo")) and len(run.trials):
        outcome = slo_checks.worst_outcome(slo_checks.check_objectives(run, slo.parse_slo(",".join(objectives))))
        chips.append(f'<span class="sg-chip sg-chip-{outcome.replace(" ", "-")}">{strings.OBJECTIVES[outcome]}</span>')
    words = [strings.RUN_KINDS.get(str(facts.get("kind", "")), ""), _format_date(facts), _count_rows(run, facts)]
    words += [_describe_machine(facts.get("machine", {})), str(facts.get("run_id", ""))]
    return f"{''.join(chips)}<span>{' · '.join(to_html(word) for word in words if word)}</span>"


def _state_of(facts: dict[str, Any]) -> tuple[str, str]:
    if facts.get("complete"):
        return strings.RUN_STATES["complete"], "met"
    for name in ("out_of_budget", "interrupted"):
        if facts.get(name):
            return strings.RUN_STATES[name], "too-few"
    return strings.RUN_STATES["open"], "too-few"


def _format_date(facts: dict[str, Any]) -> str:
    started_at = facts.get("started_at")
    return f"{started_at[:16].replace('T', ' ')} UTC" if isinstance(started_at, str) else ""


def _count_rows(run: Run, facts: dict[str, Any]) -> str:
    if facts.get("complete"):
        return strings.TRIALS.format(count=len(run.trials))
    planned = facts.get("trials_planned")
    return strings.ROWS_SO_FAR.format(count=len(run.trials), planned="?" if planned is None else planned)


def _describe_machine(machine: dict[str, Any]) -> str:
    count = machine.get("cpu_count")
    parts = (machine.get("cpu_model"), strings.PROCESSORS.format(count=count) if count else "")
    return ", ".join(str(part)[:60] for part in parts if part)


def _caption(chart: Chart) -> str:
    """Return a chart's caption and note as Markdown."""
    caption = to_markdown(chart.caption)
    return f"{caption} *{to_markdown(chart.note)}*" if chart.note else caption
