"""`report.html`: the report with its charts, in one file that makes no requests.

The text is that of report.md; the charts follow the verdict and the decision table, each with its caption below. They
are SVG, drawn when the report is written, once for screens and paper and once for phones; a small script reads values
under the pointer and hides series. The page uses the browser's light or dark colour scheme, prints in the light one,
and its content security policy forbids every request.
"""

import re
from collections.abc import Sequence
from importlib import resources

from markdown_it import MarkdownIt

from evaluation.reports import svg
from evaluation.reports.chart_kinds import PALETTE, Chart
from streaming.escaping import to_html

_LEADING_SECTIONS = ("Decision", "Objectives")
"""The sections that come before the charts."""


def render_html(markdown: str, charts: Sequence[Chart]) -> str:
    """Return the HTML page."""
    lead, rest = _split_at_charts(markdown)
    render = MarkdownIt("commonmark", {"html": False}).enable("table").render
    title = to_html(_plain(markdown.splitlines()[0]))
    body = [render(lead), *map(_render_section, charts), render(rest)]
    text = "\n".join(body).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    script = f"<script>{_read_asset('page.js')}</script>" if charts else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta '
        f'charset="utf-8"><title>{title}</title>\n{_CONTENT_SECURITY_POLICY}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_read_asset('page.css')}</style></head>\n<body><main>\n{text}\n</main>\n{script}\n</body></html>\n"
    )


def _split_at_charts(markdown: str) -> tuple[str, str]:
    """Return the report up to the charts, and what follows them."""
    for found in re.finditer(r"^## (.+)$", markdown, re.M):
        if found[1] not in _LEADING_SECTIONS:
            return markdown[: found.start()], markdown[found.start() :]
    return markdown, ""


_CONTENT_SECURITY_POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'\">"
)


def _read_asset(name: str) -> str:
    return (resources.files("evaluation.reports") / "assets" / name).read_text(encoding="utf-8")


def _plain(heading: str) -> str:
    """Return the rendered text of a Markdown heading."""
    tokens = MarkdownIt("commonmark", {"html": False}).parseInline(heading.lstrip("# "))
    return "".join(token.content for token in tokens[0].children or ())


def _render_section(chart: Chart) -> str:
    note = f'<p class="note">{to_html(chart.note)}</p>' if chart.note else ""
    drawings = "".join(
        f'<div class="{name}">{svg.draw_chart(chart, width)}</div>' for name, width in svg.WIDTHS_PX.items()
    )
    return (
        f'<section class="plot" id="{chart.id}"><h2>{to_html(chart.title)}</h2>\n{_legend(chart)}'
        f'<div role="img" aria-label="{to_html(chart.caption)}">{drawings}</div><output class="reading"></output>\n'
        f'<p class="caption">{to_html(chart.caption)}</p>{note}</section>'
    )


def _legend(chart: Chart) -> str:
    """Return a button for each name of a chart of lines or points; boxes and rows have their names beside them."""
    names = {series.name: series.group for series in chart.series}
    if chart.kind == "box" or svg.has_rows(chart) or len(names) < 2:
        return ""
    buttons = (
        f'<button type="button" aria-pressed="true" data-group="{group}">'
        f'<i style="background:{PALETTE[group % len(PALETTE)]}"></i>{to_html(name)}</button>'
        for name, group in names.items()
    )
    return f'<p class="legend">{"".join(buttons)}</p>\n'
