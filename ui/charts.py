"""Charts for the page as Plotly JSON. The browser draws them, so the Plotly package is not needed here."""

import json
import textwrap
from typing import Any

from gradio.components.plot import PlotData

from evaluation.reports.chart_kinds import Chart, Series, height_px
from evaluation.reports.plotly_figures import plotly_figure

_MARGIN = {"l": 60, "r": 16, "t": 44, "b": 62}
"""In pixels; the legend comes below the axis and its title, and adds to the bottom."""
_TITLE_CHARS = 46
"""Characters of a title's line on a phone, since Plotly wraps no titles."""
_LINE_PX = 18
_LEGEND_ROW_PX = 29
_MAX_LEGEND_ROWS = 4
"""A legend has at most a row for each name, as on a phone; longer ones scroll."""


def chart_figure(view: Chart) -> PlotData:
    """Convert a chart of an evaluation to the data of a Gradio plot."""
    figure = plotly_figure(view)
    return plot_data(view.title, figure["data"], figure["layout"] | {"height": height_px(view) + 38})


def non_empty_series(series: list[Series]) -> list[Series]:
    """Return the series that have at least one point."""
    return [one for one in series if one.x]


def plot_data(title: str, data: list[dict[str, Any]], layout: dict[str, Any]) -> PlotData:
    """Wrap Plotly traces and a layout, which must have a height in pixels, in the page's common style.

    Further lines of the title and the rows of the legend add to the height.
    """
    lines = textwrap.wrap(title, _TITLE_CHARS)
    names = sum(one.get("showlegend", True) for one in data) if layout.get("showlegend") else 0
    title_px, legend_px = _LINE_PX * (len(lines) - 1), _LEGEND_ROW_PX * min(names, _MAX_LEGEND_ROWS)
    margin = layout.get("margin", _MARGIN)
    plot_px = layout["height"] - margin["t"] - margin["b"]
    look = {
        "title": {"text": "<br>".join(lines), "x": 0.01, "font": {"size": 14}},
        "margin": margin | {"t": margin["t"] + title_px, "b": margin["b"] + legend_px},
        "height": layout["height"] + title_px + legend_px,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "yanchor": "top", "y": -margin["b"] / plot_px, "maxheight": legend_px or None},
    }
    # A `</script>` inside a name is harmless: this is data, and Plotly draws all but a few tags as text.
    return PlotData(type="plotly", plot=json.dumps({"data": data, "layout": layout | look}, allow_nan=False))
