"""Charts as figures of Plotly, for the page: its browser draws them, so the Plotly package is not needed here."""

from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.reports.chart_kinds import PALETTE, Chart, Series
from streaming.escaping import to_plotly

_ROW_NAME_PX = 17
"""Distance of a row's name from the middle of the row."""


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
    rows = list(dict.fromkeys(place for series in chart.series if (place := _row_name(series)) is not None))
    layout = {"xaxis": below, "yaxis": left, "showlegend": len(seen) > 1 and not rows}
    if rows:
        left |= {"autorange": "reversed", "type": "category", "showticklabels": False}
        layout["annotations"] = [_label_row(row) for row in rows]
    else:
        left["rangemode"] = "tozero"
    return {"data": data, "layout": layout}


def _row_name(series: Series) -> str | None:
    """Return the name of the row of a box or of points; None for lines, and points at two numbers."""
    if series.box is not None:
        return series.box.place
    return series.y[0] if series.y and isinstance(series.y[0], str) else None


def _label_row(name: str) -> dict[str, Any]:
    """Return a row's name above it: beside it, a long one would leave no room for the plot on a phone."""
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": to_plotly(name), "yshift": _ROW_NAME_PX}
    return {"text": to_plotly(name), "showarrow": False, "font": {"size": 12}} | place


def _plotly_trace(chart: Chart, series: Series) -> dict[str, Any]:
    colour = PALETTE[series.group % len(PALETTE)]
    if series.box is not None:
        low, q1, median, q3, high = ([value] for value in series.box.percentiles)
        return {
            "type": "box", "orientation": "h", "y": [to_plotly(series.box.place)], "x": [series.box.points],
            "lowerfence": low, "q1": q1, "median": median, "q3": q3, "upperfence": high, "boxpoints": "all",
            "jitter": 0.6, "width": 0.4, "pointpos": 0, "marker": {"color": colour, "size": 4, "opacity": 0.45},
            "line": {"color": colour, "width": 2},
        }  # fmt: skip
    places = [to_plotly(place) if isinstance(place, str) else place for place in series.y]
    found: dict[str, Any] = {"type": "scatter", "x": series.x, "y": places}
    if chart.kind == "point":
        marker: dict[str, Any] = {"color": colour, "size": 8, "opacity": 0.6}
        if series.failed:
            marker |= {"symbol": "x", "opacity": 1.0}
        if series.sizes:
            marker |= {"size": list(_marker_sizes_px(series.sizes))}
            found |= {"text": [f"{size:.2f} s of silence" for size in series.sizes]}
        return found | {"mode": "markers", "marker": marker}
    line: dict[str, Any] = {"color": colour, "width": 1.6, "shape": "hv" if chart.is_step else "linear"}
    fill = {"fill": "tozeroy", "opacity": 0.8} if chart.kind == "step" else {}
    mode = "lines+markers" if chart.has_points else "lines"
    return found | {"mode": mode, "line": line} | fill


def _marker_sizes_px(seconds: Sequence[float]) -> Iterator[float]:
    """Yield marker diameters in pixels, with areas proportional to the seconds, within readable limits."""
    return (round(min(max(14 * size**0.5, 6), 40), 1) for size in seconds)
