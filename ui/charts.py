"""Charts for the page as Plotly JSON. The browser draws them, so the Plotly package is not needed here."""

import json
import textwrap
from typing import Any

from gradio.components.plot import PlotData

from evaluation.reports.chart_kinds import Chart, Series, height_px
from evaluation.reports.plotly_figures import plotly_figure

_MARGIN = {"l": 60, "r": 16, "t": 44, "b": 96}
_FRAME_PX = 140
_TITLE_CHARS = 46
"""Characters of a title's line on a phone, since Plotly wraps no titles."""
_LINE_PX = 18
_BELOW_PX = 62
"""Distance of the legend from the plot area, in pixels: below the axis and its title."""


def chart_figure(view: Chart) -> PlotData:
    """Convert a chart of an evaluation to the data of a Gradio plot."""
    figure = plotly_figure(view)
    return plot_data(view.title, figure["data"], figure["layout"] | {"height": height_px(view) + 72})


def non_empty_series(series: list[Series]) -> list[Series]:
    """Return the series that have at least one point."""
    return [one for one in series if one.x]


def plot_data(title: str, data: list[dict[str, Any]], layout: dict[str, Any]) -> PlotData:
    """Wrap Plotly traces and a layout, which must have a height in pixels, in the page's common style."""
    lines = textwrap.wrap(title, _TITLE_CHARS)
    look = {
        "title": {"text": "<br>".join(lines), "x": 0.01, "font": {"size": 14}},
        "margin": _MARGIN | {"t": _MARGIN["t"] + _LINE_PX * (len(lines) - 1)},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "yanchor": "top", "y": -_BELOW_PX / (layout["height"] - _FRAME_PX)},
    }
    # A `</script>` inside a name is harmless: this is data, and Plotly draws all but a few tags as text.
    return PlotData(type="plotly", plot=json.dumps({"data": data, "layout": look | layout}, allow_nan=False))
