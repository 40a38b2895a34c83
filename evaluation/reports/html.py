"""`report.html`: the report with interactive charts, in one file that makes no requests.

The text is that of report.md; the charts follow its findings, each with its caption below. The page uses the browser's
light or dark colour scheme, prints in the light one, and its content security policy forbids every request.
"""

import json
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from markdown_it import MarkdownIt

from evaluation.escaping import to_html, to_plotly
from evaluation.reports.chart_kinds import Chart, Series

PALETTE = ("#3b82f6", "#f97316", "#10b981", "#d946ef", "#8b5cf6", "#0d9488", "#e11d48", "#a3a3a3")
"""Colours by group; all are distinguishable on white and on black."""
_MIN_HEIGHT_PX = 230
_BOX_PX = 46


def render_html(markdown: str, charts: Sequence[Chart]) -> str:
    """Return the HTML page: about 100 KB, and plotly.js with 4.8 MB."""
    head, _, rest = markdown.partition("\n## ")
    render = MarkdownIt("commonmark", {"html": False}).enable("table").render
    title = to_html(_plain(head.splitlines()[0]))
    body = [render(head), *map(_render_section, charts), render(f"## {rest}" if rest else "")]
    text = "\n".join(body).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    scripts = ""
    if charts:
        plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
        # Escape `<`, because a `</script>` in a name would end the script element.
        data = json.dumps({chart.id: plotly_figure(chart) for chart in charts}, allow_nan=False).replace("<", "\\u003c")
        scripts = f"<script>{plotly}</script>\n<script>const FIGURES = {data};\n{_read_asset('page.js')}</script>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta '
        f'charset="utf-8"><title>{title}</title>\n{_CONTENT_SECURITY_POLICY}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_read_asset('page.css')}</style></head>\n<body><main>\n{text}\n</main>\n{scripts}\n</body></html>\n"
    )


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
    return (
        f'<section class="plot"><h2>{to_html(chart.title)}</h2>\n'
        f'<div id="{chart.id}" style="height:{height_px(chart)}px" role="img" aria-label="{to_html(chart.caption)}">'
        f'</div>\n<p class="caption">{to_html(chart.caption)}</p>{note}</section>'
    )


def height_px(chart: Chart) -> int:
    """Return the height of a chart in pixels; boxes and rows of points add to it."""
    if chart.kind == "box":
        return max(_MIN_HEIGHT_PX, 90 + _BOX_PX * len(chart.series))
    rows = len({series.y[0] for series in chart.series if series.y and isinstance(series.y[0], str)})
    return max(_MIN_HEIGHT_PX, 90 + 56 * rows) if rows else 360


def plotly_figure(chart: Chart) -> dict[str, Any]:
    """Return a chart as Plotly's data and layout; the page sets the colours of text and grid."""
    seen: set[str] = set()
    data = []
    for series in chart.series:
        name = to_plotly(series.name)
        entry = {"name": name, "legendgroup": name, "showlegend": series.name not in seen}
        data.append(_plotly_trace(chart, series) | entry)
        seen.add(series.name)
    below: dict[str, Any] = {"title": {"text": chart.x_title}, "type": "log" if chart.log_x else "linear"}
    if chart.kind == "box":
        most = max(max(series.box.points) for series in chart.series if series.box is not None)
        below["range"] = [0, most * 1.06 or 1.0]
    elif not chart.log_x:
        below["rangemode"] = "tozero"  # a timeline begins with the run, and the wait for the first token is visible
    if chart.log_x:
        below["dtick"] = "D2"  # ticks at 1, 2 and 5, since gaps rarely span a power of ten
    left: dict[str, Any] = {"title": {"text": chart.y_title}, "automargin": True}
    if chart.kind == "box" or chart.id == "stalls":
        left |= {"autorange": "reversed", "type": "category"}
    else:
        left["rangemode"] = "tozero"
    return {
        "data": data,
        "layout": {"xaxis": below, "yaxis": left, "showlegend": len(seen) > 1 and chart.kind != "box"},
    }


def _plotly_trace(chart: Chart, series: Series) -> dict[str, Any]:
    colour = PALETTE[series.group % len(PALETTE)]
    if series.box is not None:
        low, q1, median, q3, high = ([value] for value in series.box.percentiles)
        return {
            "type": "box", "orientation": "h", "y": [to_plotly(series.box.place)], "x": [series.box.points],
            "lowerfence": low, "q1": q1, "median": median, "q3": q3, "upperfence": high, "boxpoints": "all",
            "jitter": 0.6, "pointpos": 0, "marker": {"color": colour, "size": 4, "opacity": 0.45},
            "line": {"color": colour, "width": 2},
        }  # fmt: skip
    places = [to_plotly(place) if isinstance(place, str) else place for place in series.y]
    trace: dict[str, Any] = {"type": "scatter", "x": series.x, "y": places}
    if chart.kind == "point":
        marker: dict[str, Any] = {"color": colour, "size": 8, "opacity": 0.6}
        if series.failed:
            marker |= {"symbol": "x", "opacity": 1.0}
        if series.sizes:
            marker |= {"size": list(_marker_sizes_px(series.sizes))}
            trace |= {"text": [f"{size:.2f} s of silence" for size in series.sizes]}
        return trace | {"mode": "markers", "marker": marker}
    line: dict[str, Any] = {"color": colour, "width": 1.6, "shape": "hv" if chart.is_step else "linear"}
    fill = {"fill": "tozeroy", "opacity": 0.8} if chart.kind == "step" else {}
    return trace | {"mode": "lines", "line": line} | fill


def _marker_sizes_px(seconds: Sequence[float]) -> Iterator[float]:
    """Yield marker diameters in pixels, with areas proportional to the seconds, within readable limits."""
    return (round(min(max(14 * size**0.5, 6), 40), 1) for size in seconds)
