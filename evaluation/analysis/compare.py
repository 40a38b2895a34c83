"""Two runs side by side: what got better or worse, by metric, in every provider x strategy cell that both have.

Over several transports each wire is a cell of its own; a run over one is compared with one over another.

Trials are paired by prompt and repeat where both runs have them, else the two medians are compared; intervals are
95 % bootstraps. They hold the scatter of the trials, not what differs between two days. Of many comparisons about one
in twenty calls a difference where there is none.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from evaluation.analysis import statistics, summary
from evaluation.analysis.statistics import MIN_TRIALS, NO_DIFFERENCE_TEXT, Estimate, Floats
from evaluation.scenario import split_names
from evaluation.schema import TRIAL_UNITS
from evaluation.tables import Run
from streaming.errors import UsageError

Direction = Literal["less", "more", "neither"]
DIRECTION: dict[str, Direction] = {
    "failed": "less",
    "stalled": "less",
    "ttft_s": "less",
    "ttft_total_s": "less",
    "icl_p50_s": "less",
    "icl_p95_s": "less",
    "icl_max_s": "less",
    "e2e_s": "less",
    "output_tps": "more",
    "chars_per_s": "more",
    "delivered_ttft_s": "less",
    "delay_mean_s": "less",
    "updates_per_s": "neither",
    "fluidity": "more",
    "qoe": "more",
    "output_tokens": "neither",
    "cost_usd": "less",
}
"""The metrics that are compared, and which way is better; for some neither is."""
SHARE_METRICS = ("failed", "stalled")
RESOLUTION_S = 0.001
"""That of the event loop's timers: no shorter difference of times is called one."""


@dataclass(frozen=True, slots=True)
class MetricChange:
    """B against A on one metric of one cell; `difference` is B - A, its `n` the pairs, or of unpaired the fewer trials.

    `a` and `b` are medians over completed trials, of `failed` and `stalled` the shares of all trials.
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
        """`better`, `worse` (`more`, `less` where neither is better), or that it cannot be told."""
        found = self.difference
        if found.value is None or found.low is None:
            return f"too few {'pairs' if self.paired else 'trials'} to tell"
        if found.spans_zero or (self.is_time and abs(found.value) < RESOLUTION_S):
            return NO_DIFFERENCE_TEXT
        way = "more" if found.value > 0 else "less"
        better = DIRECTION[self.metric]
        return way if better == "neither" else "better" if way == better else "worse"

    @property
    def is_time(self) -> bool:
        return TRIAL_UNITS.get(self.metric) == "s"

    @property
    def percent(self) -> float | None:
        """B - A as a share of A, in percent; None where A is 0 or nothing was found."""
        return self.difference.value / self.a * 100 if self.a and self.difference.value is not None else None

    def as_dict(self) -> dict[str, Any]:
        """Give it for a program; seconds, shares and USD as in the tables."""
        found = self.difference
        return {
            "provider": self.provider, "strategy": self.strategy, "metric": self.metric, "a": self.a, "b": self.b,
            "difference": found.value, "low": found.low, "high": found.high, "n": found.n, "paired": self.paired,
            "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was compared, and the cells (provider, strategy) that only one of the runs has."""

    changes: list[MetricChange]
    only_a: list[tuple[str, str]]
    only_b: list[tuple[str, str]]


def parse_metrics(text: str) -> tuple[str, ...]:
    """Read names of metrics, with or without their `_s` or `_usd`. Raises UsageError naming the one at fault."""
    found = []
    for name in split_names(text):
        known = [metric for metric in DIRECTION if metric in (name, f"{name}_s", f"{name}_usd")]
        if not known or DIRECTION[known[0]] == "neither":
            choose = ", ".join(metric for metric, better in DIRECTION.items() if better != "neither")
            raise UsageError(f"{name!r} cannot get worse: choose of {choose}")
        found.append(known[0])
    return tuple(found)


def compare(a: Run, b: Run) -> Comparison:
    """Compare run `b` with run `a`."""
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
    """Give the figures by prompt and repeat; a cell has each once, unless it was made by hand: then their median."""
    rows = cell if metric in SHARE_METRICS else cell[cell["outcome"] == "completed"]
    rows = rows[rows[metric].notna()]
    return rows.groupby(["prompt_id", "repeat"], observed=True)[metric].median().astype("float64")


def _unpaired_difference(
    a: "pd.Series[float]", b: "pd.Series[float]", value: float, *, mean: bool, seed: int = 0
) -> Estimate:
    """Give `value`, the center of `b` less that of `a`, with its interval: each is resampled on its own."""
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
