"""The charts of a report as PNG files in `plots/`: the same charts as on the HTML page, for slides or mails."""

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.reports.chart_kinds import PALETTE, Chart, Series, height_px
from streaming.escaping import to_picture

PLOTS = "plots"
_DPI = 120
_WIDTH_IN = 9.0
_TITLE_CHARS = 78
"""Characters in a line of the title; wide letters fit too."""


def write_pngs(folder: Path, charts: Sequence[Chart], run_id: str) -> list[str]:
    """Draw every chart into `plots/` and return the paths; files of an earlier report are deleted. Raises OSError."""
    target = folder / PLOTS
    if not charts and not target.exists():
        return []
    target.mkdir(exist_ok=True)
    for old in target.glob("*.png"):
        old.unlink()
    with plain_text():
        for chart in charts:
            draw_chart(chart, run_id).savefig(target / f"{chart.id}.png", dpi=_DPI)
    return [f"{PLOTS}/{chart.id}.png" for chart in charts]


@contextmanager
def plain_text() -> Iterator[None]:
    """Disable TeX, and the warning about characters that the font lacks, which are drawn as boxes."""
    with rc_context({"text.usetex": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


@plain_text()
def draw_chart(chart: Chart, run_id: str) -> Figure:
    """Return a figure of one chart on white, with its title, and its caption below."""
    caption = textwrap.wrap(to_picture(f"{chart.caption} Run {run_id}."), 138)
    figure = Figure(figsize=(_WIDTH_IN, height_px(chart) / 80 + 0.9 + 0.2 * len(caption)), layout="constrained")
    axes = figure.subplots()
    title = textwrap.fill(to_picture(chart.title), _TITLE_CHARS)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.grid(axis="x" if chart.kind == "box" else "both", color="#d9dde3", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _draw_axes(axes, chart)
    figure.supxlabel("\n".join(caption), fontsize=8.5, color="#444444", x=0.01, ha="left")
    return figure


def _draw_axes(axes: Axes, chart: Chart) -> None:
    if chart.log_x:
        axes.set_xscale("log")
    if chart.kind == "box":
        _draw_boxes(axes, chart.series)
        return
    for series in chart.series:
        _draw_series(axes, chart, series)
    if not chart.log_x:
        axes.set_xlim(left=0)
    if chart.id == "stalls":
        axes.invert_yaxis()
        axes.margins(y=0.4)
    else:
        axes.set_ylim(bottom=0)
    if len(chart.series) > 1 and chart.id != "stalls":
        axes.legend(frameon=False, loc="best", fontsize=9)


def _draw_boxes(axes: Axes, series: Sequence[Series]) -> None:
    """Draw boxes one below the other, in the same order as on the HTML page."""
    boxes = [(one.box, PALETTE[one.group % len(PALETTE)]) for one in series if one.box is not None]
    stats = [
        {
            "label": to_picture(box.place),
            "whislo": p[0],
            "q1": p[1],
            "med": p[2],
            "q3": p[3],
            "whishi": p[4],
            "fliers": [],
        }
        for box, p in ((box, box.percentiles) for box, _ in boxes)
    ]
    drawn = axes.bxp(stats, orientation="horizontal", widths=0.5, patch_artist=True)
    for place, (box, colour) in enumerate(boxes):
        drawn["boxes"][place].set(facecolor=colour, alpha=0.35, edgecolor=colour)
        drawn["medians"][place].set(color=colour, linewidth=2.5)
        spread = [place + 1 + 0.32 * ((n * 0.618034) % 1 - 0.5) for n in range(len(box.points))]
        axes.scatter(box.points, spread, s=7, color=colour, alpha=0.5, linewidths=0)
    axes.set_ylim(len(boxes) + 0.6, 0.4)
    axes.set_xlim(0, max(max(box.points) for box, _ in boxes) * 1.06 or 1.0)


def _draw_series(axes: Axes, chart: Chart, series: Series) -> None:
    colour = PALETTE[series.group % len(PALETTE)]
    if chart.kind == "point":
        _draw_points(axes, series, colour)
        return
    values = [value if isinstance(value, float) else float("nan") for value in series.y]
    shape = "steps-post" if chart.is_step else "default"
    axes.plot(
        series.x,
        values,
        color=colour,
        linewidth=1.2,
        alpha=0.8,
        drawstyle=shape,
        label=to_picture(series.name),
        marker="o" if chart.has_points else "",
        markersize=5,
    )


def _draw_points(axes: Axes, series: Series, colour: str) -> None:
    sizes = [min(max(60 * size, 15), 600) for size in series.sizes] or 26
    look: dict[str, Any] = {"marker": "x", "alpha": 0.9} if series.failed else {"marker": "o", "alpha": 0.5}
    # Matplotlib accepts names on a category axis, but its type stubs do not.
    places: Any = [to_picture(place) if isinstance(place, str) else place for place in series.y]
    axes.scatter(series.x, places, s=sizes, color=colour, label=to_picture(series.name), **look)
