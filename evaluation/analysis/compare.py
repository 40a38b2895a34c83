"""Comparison of two runs, metric by metric, in every provider x strategy cell that both runs have.

If a run has several transports, each of them is a separate cell. A run over one transport can be compared with a run
over another.

Trials are paired by prompt and repeat if both runs have them; otherwise the two medians are compared. Intervals are 95
% bootstrap intervals. They cover the variation between trials, not a difference between the two days. About one in
twenty comparisons reports a difference by chance.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from evaluation.analysis import statistics, summary
from evaluation.analysis.statistics import MIN_TRIALS, NO_DIFFERENCE_TEXT, Estimate, Floats
from evaluation.metrics import METRICS
from evaluation.metrics.metric import Direction
from evaluation.scenario import split_names
from evaluation.schema import TRIAL_UNITS
from evaluation.tables import Run
from streaming.errors import UsageError

DIRECTION: dict[str, Direction] = {
    "failed": "less",
    "stalled": "less",
    **{metric.name: metric.direction for metric in METRICS if metric.scope != "instrument"},
}
"""The compared metrics, and whether less, more or neither is better."""
SHARE_METRICS = ("failed", "stalled")
RESOLUTION_S = 0.001
"""The resolution of the event loop's timers; a smaller difference in latency is not reported as a difference."""


@dataclass(frozen=True, slots=True)
class MetricChange:
    """The change of one metric from run A to run B in one cell; `difference` is B - A.

    The `n` of the difference is the number of pairs or, if unpaired, of trials in the smaller run. `a` and `b` are
    medians over completed trials; for `failed` and `stalled` they are shares of all trials.
    """

    provider: str
    strategy: str
    metric: str
    a: float
    b: float
    difference: Estimate
    paired: bool

    @property
    def verdict(self) -> str:
        """`better` or `worse` (`more` or `less` if neither is better), or why there is no verdict."""
        difference = self.difference
        if difference.value is None or difference.low is None:
            return f"too few {'pairs' if self.paired else 'trials'} to tell"
        if difference.spans_zero or (self.is_time and abs(difference.value) < RESOLUTION_S):
            return NO_DIFFERENCE_TEXT
        way = "more" if difference.value > 0 else "less"
        better = DIRECTION[self.metric]
        return way if better == "neither" else "better" if way == better else "worse"

    @property
    def is_time(self) -> bool:
        return TRIAL_UNITS.get(self.metric) == "s"

    @property
    def percent(self) -> float | None:
        """The difference as a percentage of A; None if A is 0 or the difference is unknown."""
        return self.difference.value / self.a * 100 if self.a and self.difference.value is not None else None

    def as_dict(self) -> dict[str, Any]:
        """Return the change as JSON values, in seconds, shares and USD as in the tables."""
        difference = self.difference
        return {
            "provider": self.provider, "strategy": self.strategy, "metric": self.metric, "a": self.a, "b": self.b,
            "difference": difference.value, "low": difference.low, "high": difference.high, "n": difference.n,
            "paired": self.paired, "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """The changes in all common cells, and the cells (provider, strategy) that only one of the runs has."""

    changes: list[MetricChange]
    only_a: list[tuple[str, str]]
    only_b: list[tuple[str, str]]


def parse_metrics(text: str) -> tuple[str, ...]:
    """Parse comma-separated metric names, with or without the suffix `_s` or `_usd`.

    Raises UsageError when a name is unknown or the metric has no better direction.
    """
    metrics = []
    for name in split_names(text):
        known = [metric for metric in DIRECTION if metric in (name, f"{name}_s", f"{name}_usd")]
        if not known or DIRECTION[known[0]] == "neither":
            choose = ", ".join(metric for metric, better in DIRECTION.items() if better != "neither")
            raise UsageError(f"--fail-if-worse: {name!r} cannot get worse (choose from {choose})")
        metrics.append(known[0])
    return tuple(metrics)


def compare(a: Run, b: Run) -> Comparison:
    """Return the changes from run `a` to run `b`."""
    cells_a, cells_b = _trial_cells(a), _trial_cells(b)
    both = [key for key in cells_a if key in cells_b]
    changes = [change for key in both for change in _iter_changes(key, cells_a[key], cells_b[key])]
    only_a = [key for key in cells_a if key not in cells_b]
    return Comparison(changes, only_a, [key for key in cells_b if key not in cells_a])


def _trial_cells(run: Run) -> dict[tuple[str, str], pd.DataFrame]:
    trials, _ = summary.add_transport_names(run, run.trials)
    completed = trials["outcome"] == "completed"
    trials = trials.assign(
        failed=(~completed).astype("float64"), stalled=(trials["stalls"] > 0).fillna(False).astype("float64")
    )
    return {(str(n), str(s)): cell for (n, s), cell in trials.groupby(["name", "strategy"], sort=False)}


def _iter_changes(key: tuple[str, str], a: pd.DataFrame, b: pd.DataFrame) -> Iterator[MetricChange]:
    for metric in DIRECTION:
        known_a, known_b = (_known_values(cell, metric) for cell in (a, b))
        if not len(known_a) or not len(known_b):
            continue
        center: Callable[..., Any] = np.mean if metric in SHARE_METRICS else np.median
        values_a: Floats = np.asarray(known_a, dtype=np.float64)
        values_b: Floats = np.asarray(known_b, dtype=np.float64)
        pairs = known_a.index.intersection(known_b.index)
        middle_a, middle_b = float(center(values_a)), float(center(values_b))
        if len(pairs) and metric not in SHARE_METRICS:
            differences: Floats = np.asarray(known_b[pairs] - known_a[pairs], dtype=np.float64)
            difference = statistics.median(differences, pairs.get_level_values("prompt_id").tolist())
        else:
            difference = _unpaired_difference(known_a, known_b, middle_b - middle_a, mean=metric in SHARE_METRICS)
        yield MetricChange(
            *key, metric, middle_a, middle_b, difference, bool(len(pairs)) and metric not in SHARE_METRICS
        )


def _known_values(cell: pd.DataFrame, metric: str) -> "pd.Series[float]":
    """Return the known values by prompt and repeat; duplicates, which only edited runs have, become their median."""
    rows = cell if metric in SHARE_METRICS else cell[cell["outcome"] == "completed"]
    rows = rows[rows[metric].notna()]
    return rows.groupby(["prompt_id", "repeat"], observed=True)[metric].median().astype("float64")


def _unpaired_difference(
    a: "pd.Series[float]", b: "pd.Series[float]", value: float, *, mean: bool, seed: int = 0
) -> Estimate:
    """Return `value` (center of `b` - center of `a`) with its interval; both samples are resampled independently."""
    n = min(len(a), len(b))
    if n < MIN_TRIALS:
        return Estimate(n, value)
    rng = np.random.default_rng(seed)
    drawn_a, drawn_b = (
        statistics.bootstrap_medians(
            np.asarray(known, dtype=np.float64), known.index.get_level_values("prompt_id").tolist(), rng, mean=mean
        )
        for known in (a, b)
    )
    most = min(len(drawn_a), len(drawn_b))
    low, high = np.percentile(drawn_b[:most] - drawn_a[:most], [2.5, 97.5])
    return Estimate(n, value, float(low), float(high))
