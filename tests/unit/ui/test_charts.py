"""The charts of the page: the room of a title and of a legend, which Plotly does not make by itself."""

import json
from typing import Any

import pytest

from evaluation.reports.chart_kinds import Chart, Series
from ui.charts import chart_figure

AXIS_PX = 60
"""Tick labels and the title of the axis, at the sizes of the page."""


def layout_of(names: int, title: str = "Text over time") -> dict[str, Any]:
    series = [Series(f"sim:steady {number}", number, x=[0.0, 1.0], y=[0.0, 1.0]) for number in range(names)]
    layout: dict[str, Any] = json.loads(chart_figure(Chart("growth", title, "line", "s", "tokens", series, "")).plot)
    return layout["layout"]  # type: ignore[no-any-return] # JSON


def plot_px(layout: dict[str, Any]) -> float:
    return float(layout["height"] - layout["margin"]["t"] - layout["margin"]["b"])


@pytest.mark.parametrize("names", [2, 6, 12, 30])
def test_legend_of_many_names_takes_no_room_of_the_axis_and_the_lines(names: int) -> None:
    layout = layout_of(names)
    legend = layout["legend"]
    begins_px = -legend["y"] * plot_px(layout)
    assert begins_px >= AXIS_PX and begins_px + legend["maxheight"] <= layout["margin"]["b"] + 1e-6
    assert plot_px(layout) == plot_px(layout_of(1))


def test_long_title_takes_no_room_of_the_lines() -> None:
    layout = layout_of(2, "Delay until text is delivered, and until it is painted: sim:steady over browser:columns=4")
    assert layout["title"]["text"].count("<br>") == 1
    assert plot_px(layout) == plot_px(layout_of(2))
