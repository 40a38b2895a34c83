"""Charts as figures of Plotly, for the page: its browser draws them, so the Plotly package is not needed here."""

from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.reports.chart_kinds import PALETTE, Chart, Series
from streaming.escaping import to_plotly


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
