"""One plot of a report as plain numbers, and how many values become few. See `views`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from evaluation import statistics, wording
from evaluation.statistics import Floats

MOST_POINTS = 300
"""Points drawn for a box or a line."""
MOST_LINES = 8
"""Answers drawn for a provider."""


@dataclass(frozen=True, slots=True)
class Box:
    """The 5th, 25th, 50th, 75th and 95th percentile of all values, and some of the values."""

    place: str
    percentiles: tuple[float, ...]
    points: list[float]


@dataclass(frozen=True, slots=True)
class Series:
    """One entry of the legend: a box, or lines or points given by `x` and `y`; `group` chooses the colour."""

    name: str
    group: int
    box: Box | None = None
    x: list[float] = field(default_factory=list)
    y: list[float | str | None] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    failed: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """One plot; `caption` is the finding in numbers, `note` how to read it. A None in `y` ends a line."""

    id: str
    title: str
    kind: Literal["box", "line", "step", "point"]
    x_title: str
    y_title: str
    series: list[Series]
    caption: str
    note: str = ""
    log_x: bool = False

    @property
    def stepped(self) -> bool:
        """Whether a value holds until the next one: shares of bins, and text, which comes chunk by chunk."""
        return self.kind == "step" or self.id == "progress"


def numbers(values: "pd.Series[float]") -> Floats:
    """Give the known values."""
    return np.asarray(values.dropna(), dtype=np.float64)


def some(values: Floats, most: int = MOST_POINTS) -> list[float]:
    """Give at most so many of the values, drawn with a fixed seed, to five digits."""
    if len(values) > most:
        values = np.random.default_rng(0).choice(values, most, replace=False)
    return [float(f"{value:.5g}") for value in values]


def box(name: str, group: int, place: str, values: Floats) -> Series:
    """Make a box of all values."""
    percentiles = tuple(float(x) for x in np.percentile(values, [5, 25, 50, 75, 95]))
    return Series(name, group, Box(place, percentiles, some(values)))


def sampled(series: Sequence[Series], counts: Sequence[int]) -> str:
    """Say that points were left out, if they were; nothing else."""
    most = max(counts, default=0)
    return f" Points: {MOST_POINTS} of up to {most} drawn; the boxes are of all." if most > MOST_POINTS else ""


BOXES = "Box: middle half, line: median, whiskers: 5th to 95th percentile; every point is an answer."


def short(values: Floats) -> list[float]:
    """Give values to five digits."""
    return [float(f"{value:.5g}") for value in values]


def speed(cell: pd.DataFrame) -> str:
    """Say the median speed after the first token, in tokens where they are known."""
    tps = statistics.of(cell, "output_tps")
    if tps.n:
        return f"{wording.span(tps, in_ms=False)} tokens/s"
    return f"{wording.span(statistics.of(cell, 'chars_per_s'), in_ms=False)} characters/s"
