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


def render_html(markdown: str, views: Sequence[Chart]) -> str:
    """Return the HTML page: about 100 KB, and plotly.js with 4.8 MB."""
    found, _, rest = markdown.partition("\n## ")
    render = MarkdownIt("commonmark", {"html": False}).enable("table").render
    title = to_html(_plain(found.splitlines()[0]))
    body = [render(found), *map(_render_section, views), render(f"## {rest}" if rest else "")]
    text = "\n".join(body).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    scripts = ""
    if views:
        plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
        # Escape `<`, because a `</script>` in a name would end the script element.
        data = json.dumps({view.id: plotly_figure(view) for view in views}, allow_nan=False).replace("<", "\\u003c")
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


def _render_section(view: Chart) -> str:
    note = f'<p class="note">{to_html(view.note)}</p>' if view.note else ""
    return (
        f'<section class="plot"><h2>{to_html(view.title)}</h2>\n'
        f'<div id="{view.id}" style="height:{height_px(view)}px" role="img" aria-label="{to_html(view.caption)}">'
        f'</div>\n<p class="caption">{to_html(view.caption)}</p>{note}</section>'
    )


def height_px(view: Chart) -> int:
    """Return the height of a chart in pixels; boxes and rows of points add to it."""
    if view.kind == "box":
        return max(_MIN_HEIGHT_PX, 90 + _BOX_PX * len(view.series))
    rows = len({series.y[0] for series in view.series if series.y and isinstance(series.y[0], str)})
    return max(_MIN_HEIGHT_PX, 90 + 56 * rows) if rows else 360


def plotly_figure(view: Chart) -> dict[str, Any]:
    """Return a chart as Plotly's data and layout; the page sets the colours of text and grid."""
    seen: set[str] = set()
    data = []
    for series in view.series:
        name = to_plotly(series.name)
        entry = {"name": name, "legendgroup": name, "showlegend": series.name not in seen}
        data.append(_plotly_trace(view, series) | entry)
        seen.add(series.name)
    below: dict[str, Any] = {"title": {"text": view.x_title}, "type": "log" if view.log_x else "linear"}
    if view.kind == "box":
        most = max(max(series.box.points) for series in view.series if series.box is not None)
        below["range"] = [0, most * 1.06 or 1.0]
    elif not view.log_x:
        below["rangemode"] = "tozero"  # a timeline begins with the run, and the wait for the first token is visible
    if view.log_x:
        below["dtick"] = "D2"  # ticks at 1, 2 and 5, since gaps rarely span a power of ten
    left: dict[str, Any] = {"title": {"text": view.y_title}, "automargin": True}
    if view.kind == "box" or view.id == "stalls":
        left |= {"autorange": "reversed", "type": "category"}
    else:
        left["rangemode"] = "tozero"
    return {"data": data, "layout": {"xaxis": below, "yaxis": left, "showlegend": len(seen) > 1 and view.kind != "box"}}


def _plotly_trace(view: Chart, series: Series) -> dict[str, Any]:
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
    found: dict[str, Any] = {"type": "scatter", "x": series.x, "y": places}
    if view.kind == "point":
        marker: dict[str, Any] = {"color": colour, "size": 8, "opacity": 0.6}
        if series.failed:
            marker |= {"symbol": "x", "opacity": 1.0}
        if series.sizes:
            marker |= {"size": list(_marker_sizes_px(series.sizes))}
            found |= {"text": [f"{size:.2f} s of silence" for size in series.sizes]}
        return found | {"mode": "markers", "marker": marker}
    line: dict[str, Any] = {"color": colour, "width": 1.6, "shape": "hv" if view.is_step else "linear"}
    fill = {"fill": "tozeroy", "opacity": 0.8} if view.kind == "step" else {}
    return found | {"mode": "lines", "line": line} | fill


def _marker_sizes_px(seconds: Sequence[float]) -> Iterator[float]:
    """Yield marker diameters in pixels, with areas proportional to the seconds, within readable limits."""
    return (round(min(max(14 * size**0.5, 6), 40), 1) for size in seconds)
