"""Charts that compare strategies and cost, and the timeline of a run. `charts` has the other ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from evaluation.analysis import statistics
from evaluation.analysis.statistics import Floats
from evaluation.metrics.cadence import MAX_STALL_S, STALL_MEDIANS, STALL_S, stall_threshold_s
from evaluation.reports import formatting
from evaluation.scenario import display_name

MAX_POINTS = 300
"""Maximum number of points drawn for a box or a line."""
PALETTE = ("#3b82f6", "#f97316", "#10b981", "#d946ef", "#8b5cf6", "#0d9488", "#e11d48", "#a3a3a3")
"""Colours by group; all are distinguishable on white and on black."""
_MIN_HEIGHT_PX = 230
_BOX_PX = 46
MAX_LINES = 8
"""Maximum number of answers drawn for a provider."""


@dataclass(frozen=True, slots=True)
class BoxSeries:
    """The 5th, 25th, 50th, 75th and 95th percentile of all values, and a sample of the values."""

    place: str
    percentiles: tuple[float, ...]
    points: list[float]


@dataclass(frozen=True, slots=True)
class Series:
    """One entry of the legend: a box, or lines or points at `x` and `y`; `group` selects the colour."""

    name: str
    group: int
    box: BoxSeries | None = None
    x: list[float] = field(default_factory=list)
    y: list[float | str | None] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart; `caption` has its numbers, `note` explains it. A None in a series' `y` ends a line.

    With `has_points` each value of a line is marked: they are few, and nothing is known between them.
    """

    id: str
    title: str
    kind: Literal["box", "line", "step", "point"]
    x_title: str
    y_title: str
    series: list[Series]
    caption: str
    note: str = ""
    log_x: bool = False
    has_points: bool = False

    @property
    def is_step(self) -> bool:
        """Whether each value is constant until the next one: shares of bins, and text, which grows by chunks."""
        return self.kind == "step" or self.id == "progress"


def height_px(chart: Chart) -> int:
    """Return the height of a chart in pixels; boxes and rows of points add to it."""
    if chart.kind == "box":
        return max(_MIN_HEIGHT_PX, 90 + _BOX_PX * len(chart.series))
    rows = len({series.y[0] for series in chart.series if series.y and isinstance(series.y[0], str)})
    return max(_MIN_HEIGHT_PX, 90 + 56 * rows) if rows else 360


def known_values(values: "pd.Series[float]") -> Floats:
    """Return the known values as floats."""
    return np.asarray(values.dropna(), dtype=np.float64)


def sample_values(values: Floats, most: int = MAX_POINTS) -> list[float]:
    """Return a random sample of at most `most` values, with a fixed seed, rounded to five digits."""
    if len(values) > most:
        values = np.random.default_rng(0).choice(values, most, replace=False)
    return [float(f"{value:.5g}") for value in values]


def box(name: str, group: int, place: str, values: Floats) -> Series:
    """Return a box of all values."""
    percentiles = tuple(float(x) for x in np.percentile(values, [5, 25, 50, 75, 95]))
    return Series(name, group, BoxSeries(place, percentiles, sample_values(values)))


def sampling_note(series: Sequence[Series], counts: Sequence[int]) -> str:
    """Return a note on the number of points left out; an empty text if all are drawn."""
    most = max(counts, default=0)
    return f" Points: {MAX_POINTS} of up to {most} drawn; the boxes are of all." if most > MAX_POINTS else ""


BOX_NOTE = "Box: middle half, line: median, whiskers: 5th to 95th percentile; every point is an answer."


def round_values(values: Floats) -> list[float]:
    """Return the values rounded to five significant digits."""
    return [float(f"{value:.5g}") for value in values]


SPEED_COLUMNS = ("prompt_id", "output_tps", "chars_per_s")
"""The columns of trials that `median_speed_text` needs."""


def median_speed_text(cell: pd.DataFrame) -> str:
    """Return the median throughput after the first token, in tokens/s if known, else in characters/s."""
    tps = statistics.column_median(cell, "output_tps")
    if tps.n:
        return f"{formatting.format_interval(tps, in_ms=False)} tokens/s"
    return f"{formatting.format_interval(statistics.column_median(cell, 'chars_per_s'), in_ms=False)} characters/s"


def delay_chart(done: pd.DataFrame, names: list[str], strategies: list[str]) -> Chart | None:
    """Return the chart of each strategy's delivery delay."""
    title = "Delivery delay of each strategy"
    return _strategy_chart(
        done, names, strategies, "delay", title, "delay_mean_s", "delay of a character in ms, mean of an answer", 1000
    )


def strategy_charts(done: pd.DataFrame, names: list[str], strategies: list[str]) -> Iterator[Chart | None]:
    """Yield the charts of each strategy's first delivered text and update rate."""
    title = "Latency of the first text at the reader"
    after = "ms after the request was sent"
    yield _strategy_chart(done, names, strategies, "first-text", title, "delivered_ttft_s", after, 1000)
    title = "Updates of the reader's text"
    yield _strategy_chart(done, names, strategies, "updates", title, "updates_per_s", "updates/s", 1)


def _strategy_chart(
    done: pd.DataFrame,
    names: list[str],
    strategies: list[str],
    id_: str,
    title: str,
    column: str,
    x_title: str,
    scale: float,
) -> Chart | None:
    series, words, counts = [], [], []
    for strategy in strategies:
        for name in names:
            values = known_values(done.loc[(done["name"] == name) & (done["strategy"] == strategy), column]) * scale
            if not len(values):
                continue
            place = f"{strategy} · {display_name(name)}" if len(names) > 1 else str(strategy)
            series.append(box(display_name(name), names.index(name), place, values))
            words.append(f"{place} {formatting.format_number(float(np.median(values)))}")
            counts.append(len(values))
    if not series:
        return None
    return Chart(
        id_, title, "box", x_title, "", series, f"Median: {'; '.join(words)}.", BOX_NOTE + sampling_note(series, counts)
    )


def cost_chart(done: pd.DataFrame, names: list[str]) -> Chart | None:
    """Return the chart of the cost of 1000 answers against throughput, or None if no trial has both."""
    done = done[["name", "cost_usd", *SPEED_COLUMNS]]
    priced = done[done["cost_usd"].notna() & done["output_tps"].notna()]
    if not len(priced):
        return None
    series, words = [], []
    for name in names:
        own = priced[priced["name"] == name]
        if len(own):
            kept = own.sample(min(len(own), MAX_POINTS), random_state=0)
            x, y = known_values(kept["cost_usd"]) * 1000, known_values(kept["output_tps"])
            series.append(Series(display_name(name), names.index(name), x=round_values(x), y=[*round_values(y)]))
            words.append(
                f"{display_name(name)} {formatting.format_usd(round(float(own['cost_usd'].median()) * 1000, 6))} USD, "
                f"{median_speed_text(own)}"
            )
    unpriced = [display_name(name) for name in names if name in set(done["name"]) - set(priced["name"])]
    note = "Every point is an answer; higher is faster, further left is cheaper."
    note += f" Not shown, as the price or the tokens are unknown: {', '.join(unpriced)}." if unpriced else ""
    return Chart(
        "cost",
        "Cost against speed",
        "point",
        "USD for 1000 such answers",
        "tokens/s",
        series,
        f"Median for 1000 answers: {'; '.join(words)}.",
        note,
    )


def timeline_chart(trials: pd.DataFrame, names: list[str], texts: pd.DataFrame) -> Chart | None:
    """Return the timeline of stalls and of answers that were not completed, or None if there are none."""
    if not trials["sent_monotonic_s"].notna().any():
        return None
    trials = trials[["trial_id", "name", "outcome", "sent_monotonic_s"]]
    start_s = trials["sent_monotonic_s"].min()
    sent_s = trials.set_index("trial_id")["sent_monotonic_s"] - start_s
    threshold_s = texts.groupby("trial_id")["gap_s"].median().map(stall_threshold_s)
    stalls = texts[texts["gap_s"] > texts["trial_id"].map(threshold_s).astype("float64")]
    series, words = [], []
    for place, name in enumerate(names):
        own = stalls[stalls["name"] == name].nlargest(MAX_POINTS, "gap_s")
        broken = trials[(trials["name"] == name) & (trials["outcome"] != "completed")]
        at_s = own["trial_id"].map(sent_s).astype("float64") + own["at_s"] - own["gap_s"]
        title = display_name(name)
        at, sizes = round_values(known_values(at_s)), round_values(known_values(own["gap_s"]))
        series.append(Series(title, place, x=at, y=[title] * len(own), sizes=sizes))
        if len(broken):
            lost_s = sample_values(known_values(broken["sent_monotonic_s"] - start_s))
            series.append(Series(f"{title}: not completed", place, x=lost_s, y=[title] * len(lost_s), failed=True))
        silences_s = stalls.loc[stalls["name"] == name, "gap_s"]
        counted = f"{len(silences_s)} {'stall' if len(silences_s) == 1 else 'stalls'}"
        seconds = formatting.format_number(float(silences_s.sum()))
        words.append(f"{title} {counted}, {seconds} s in total, {len(broken)} not completed")
    if not any(one.x for one in series):
        return None
    note = (
        f"A circle is a gap in an answer of over {STALL_S:g} s and over {STALL_MEDIANS:g} times its median gap, or "
        f"over {MAX_STALL_S:g} s; a larger circle is a longer gap. A cross is an answer that was not completed. At "
        f"most {MAX_POINTS} of each are drawn."
    )
    return Chart(
        "stalls", "Stalls over time", "point", "seconds since the run began", "", series, f"{'; '.join(words)}.", note
    )
