"""The knee of a sweep: the level after which goodput no longer grows, with a bootstrap interval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.analysis.throughput import LoadLevel
from evaluation.levels import find_knee

_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Knee:
    """The lowest level of a provider at which nearly as much is delivered as at any; `low` and `high` are 95 % bounds.

    `rate` is what is delivered there in answers/s: goodput where the run has objectives. `is_passed`: a higher level
    was tried, so that the knee is not merely the end of the sweep. Without enough answers there are no bounds.
    """

    name: str
    is_open: bool
    metric: str
    level: float
    low: float | None
    high: float | None
    rate: float
    is_passed: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the knee as JSON values."""
        return asdict(self)


def find_knees(levels: Sequence[LoadLevel]) -> list[Knee]:
    """Return the knee of each provider that was tried at several levels and delivered anything."""
    names = dict.fromkeys(level.name for level in levels)
    knees = (_find_provider_knee([level for level in levels if level.name == name]) for name in names)
    return [knee for knee in knees if knee is not None]


def _find_provider_knee(levels: Sequence[LoadLevel]) -> Knee | None:
    known = [level for level in levels if level.level is not None]
    rates = {level.level: level.delivered_per_s for level in known if level.level is not None}
    if len(rates) < 2 or not any(rates.values()):
        return None
    metric = known[0].delivery_metric
    level = find_knee(rates)
    low, high = _bootstrap_bounds(known, metric)
    return Knee(known[0].name, known[0].is_open, metric, level, low, high, rates[level], level < max(rates))


def _bootstrap_bounds(levels: Sequence[LoadLevel], metric: str, seed: int = 0) -> tuple[float | None, float | None]:
    """Return the bounds of the knee over draws of whole time slices within each level."""
    slices = [np.asarray(level.slice_values(metric), dtype=np.float64) for level in levels]
    if any(len(values) < 2 for values in slices):
        return None, None
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(values, (_RESAMPLES, len(values))).mean(axis=1) for values in slices]
    names = [level.level or 0.0 for level in levels]
    knees = sorted(find_knee(dict(zip(names, map(float, rates), strict=True))) for rates in zip(*drawn, strict=True))
    return knees[int(0.025 * _RESAMPLES)], knees[-int(0.025 * _RESAMPLES) - 1]
