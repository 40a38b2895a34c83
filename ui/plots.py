"""Plots for the page, as plotly's JSON: the browser draws them, and nothing of plotly is imported here."""

import json
from typing import Any

from gradio.components.plot import PlotData

from evaluation.page import COLOURS, figure, height_px
from evaluation.view import Series, View
from ui import texts
from ui.comparison import Column, Round

_MARGIN = {"l": 60, "r": 16, "t": 44, "b": 96}
_FRAME_PX = 140
_BELOW_PX = 62
"""Where the legend begins, below the axis and its title."""


def drawn(view: View) -> PlotData:
    """Draw one plot of an evaluation."""
    found = figure(view)
    return _data(view.title, found["data"], found["layout"] | {"height": height_px(view) + 72})


def of_round(found: Round) -> list[PlotData]:
    """Draw a comparison: text over time, gaps, first token, cost; in this order."""
    growth = [Series(found.head(p), p, x=xs, y=[*ys]) for p, c in enumerate(found.columns) for xs, ys in [_growth(c)]]
    gaps = [Series(found.head(p), p, x=xs, y=[*ys]) for p, c in enumerate(found.columns) for xs, ys in [_shares(c)]]
    titles = texts.PLOT_GROWTH, texts.PLOT_GAPS
    return [
        drawn(View("growth", titles[0], "line", texts.AXIS_SECONDS, texts.AXIS_TOKENS, _some(growth), "")),
        drawn(View("gaps", titles[1], "line", texts.AXIS_GAP, texts.AXIS_SHARE, _some(gaps), "", log_x=True)),
        _bars(found, texts.PLOT_TTFT, texts.AXIS_SECONDS, "ttft_s"),
        _bars(found, texts.PLOT_COST, texts.AXIS_USD, "cost_usd"),
    ]


def _some(series: list[Series]) -> list[Series]:
    return [one for one in series if one.x]


def _growth(column: Column) -> tuple[list[float], list[float]]:
    """Give seconds and tokens so far; the answer's tokens are spread evenly over its text."""
    arrivals, receipt = column.arrivals(), column.receipt
    total = sum(chars for _, chars in arrivals)
    if receipt is None or not total:
        return [], []
    usage = receipt.reading.usage
    tokens = (usage.output_tokens or 0) - (usage.thinking_tokens or 0)
    xs, ys, so_far = [], [], 0
    for at_s, chars in arrivals:
        so_far += chars
        xs.append(round(at_s, 3))
        ys.append(round(so_far * tokens / total, 1))
    return xs, ys


def _shares(column: Column) -> tuple[list[float], list[float]]:
    """Give each gap in milliseconds, and the share of gaps that are no longer."""
    gaps_ms = sorted(max(gap_s * 1000, 0.1) for gap_s in column.gaps_s())
    return [round(gap, 2) for gap in gaps_ms], [round((i + 1) * 100 / len(gaps_ms), 1) for i in range(len(gaps_ms))]


def _bars(found: Round, title: str, axis: str, measure: str) -> PlotData:
    values = [column.figures[measure] for column in found.columns]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [found.head(place) for place in range(len(values))],
        "x": values,
        "marker": {"color": [COLOURS[place] for place in range(len(values))]},
    }
    layout = {
        "height": 150 + 46 * len(values),
        "xaxis": {"title": {"text": axis}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True},
        "showlegend": False,
    }
    if not any(value is not None for value in values):
        layout |= {"annotations": [{"text": texts.PLOT_UNKNOWN, "showarrow": False, "xref": "paper", "yref": "paper"}]}
    return _data(title, [bars], layout)


def _data(title: str, data: list[dict[str, Any]], layout: dict[str, Any]) -> PlotData:
    look = {
        "title": {"text": title, "x": 0.01, "font": {"size": 14}},
        "margin": _MARGIN,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "yanchor": "top", "y": -_BELOW_PX / (layout["height"] - _FRAME_PX)},
    }
    # A `</script>` inside of a name ends nothing here: this is data, which plotly draws as text but for a few tags.
    return PlotData(type="plotly", plot=json.dumps({"data": data, "layout": look | layout}, allow_nan=False))
