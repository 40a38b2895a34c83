"""Two providers compared as a ratio: answers to the same prompt, moments apart, on logarithms.

Where every pair has two values, the interval is Student's t over log ratios: over the prompts, and where prompts were
asked several times also over the pairs, whichever is wider; a drift of one provider during the run widens it. Where a
pair holds a failure, which is infinitely late, the interval is that of the sign test; two failures are a tie. Both ask
for more than an equivalence margin before anything is claimed. What no interval can be had for is unknown, never equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from evaluation.analysis.distributions import binomial_cdf, t_quantile, t_tail
from evaluation.analysis.statistics import MIN_UNITS, Floats, Ints, order_ranks

MARGIN_S = 0.001
MARGIN_SHARE = 0.02
"""A difference below 1 ms or below 2 % counts as equal: the timers' resolution, and an unnoticeable change."""
LEVEL = 0.05
POWER = 0.8
WORTHWHILE = 0.10
"""The difference for which a report says how many more prompts would show it."""
DEFAULT_SIGMA = 0.3
"""The trial-to-trial standard deviation of log latency that a plan assumes while nothing has been measured."""
_SMALLEST = 1e-6
_MIN_DRIFT_PAIRS = 6
_MAX_CORRELATION = 0.8
_MIN_SHRINKAGE = 0.2
_MAX_PROMPTS = 100_000
_MAX_LOG_EFFECT = 10.0

Basis = Literal["t over log ratios", "signs", "none"]


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """The ratio of B to A over `pairs` pairs of `prompts` prompts; `low` and `high` are its 95 % interval.

    `p_value` is that of the hypothesis that the ratio is within the margin (1 where there is no interval). `margin` is
    the log of the largest ratio that counts as equal. `spread` is the standard deviation of the prompts' log ratios.
    `failed_pairs` counts pairs in which a trial failed. `median_ratio` is that of the median pair, `ratio` the
    geometric mean of all.
    """

    pairs: int
    prompts: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float = 1.0
    margin: float = math.log1p(MARGIN_SHARE)
    basis: Basis = "none"
    spread: float | None = None
    failed_pairs: int = 0
    is_paired: bool = True
    median_ratio: float | None = None

    @property
    def is_equal(self) -> bool:
        """Whether the whole interval lies within the margin."""
        if self.low is None or self.high is None:
            return False
        return -self.margin <= _log(self.low) and _log(self.high) <= self.margin

    @property
    def rests_on_few_pairs(self) -> bool:
        """Whether the median pair shows less than a third of the difference: a few slow trials make the rest."""
        if self.ratio is None or self.median_ratio is None:
            return False
        return _log(self.median_ratio) * math.copysign(1, _log(self.ratio)) < abs(_log(self.ratio)) / 3

    def inverse(self) -> "PairedRatio":
        """Return the ratio of the inverse values: of a rate, where this one is of the time that it stands for."""
        ratio, low, high, median = (
            None if x is None else 1 / x if x else math.inf
            for x in (self.ratio, self.high, self.low, self.median_ratio)
        )
        return replace(self, ratio=ratio, low=low, high=high, median_ratio=median)

    def smallest_effect(self, comparisons: int = 1) -> float | None:
        """Return the smallest difference (a share of A) that this run finds in 80 % of cases; None if unknown."""
        units = self.prompts if self.prompts > 1 else self.pairs
        return None if self.spread is None else detectable_effect(units, self.spread, comparisons, self.margin)

    def more_prompts(self, comparisons: int = 1, effect: float = WORTHWHILE) -> int | None:
        """Return how many more prompts (for one prompt: repeats) find a difference of `effect`; None if unknown."""
        units = self.prompts if self.prompts > 1 else self.pairs
        needed = None if self.spread is None else required_pairs(effect, self.spread, comparisons, self.margin)
        return None if needed is None else max(needed - units, 0)


def detectable_effect(
    pairs: int, spread: float, comparisons: int = 1, margin: float = math.log1p(MARGIN_SHARE)
) -> float | None:
    """Return the smallest difference, as a share of A, that `pairs` pairs find in 80 % of runs.

    `spread` is the standard deviation of the log ratios: of two providers with sigma each, sigma times the root of 2.
    `comparisons` is the size of the family, of which Holm's first step is the strictest.

    >>> round(detectable_effect(24, 0.3 * 2**0.5), 2)
    0.31
    """
    if pairs < MIN_UNITS:
        return None
    df = pairs - 1
    steps = t_quantile(1 - LEVEL / 2 / comparisons, df) + t_quantile(POWER, df)
    return math.expm1(min(margin + steps * spread / math.sqrt(pairs), _MAX_LOG_EFFECT))


def required_pairs(
    effect: float, spread: float, comparisons: int = 1, margin: float = math.log1p(MARGIN_SHARE)
) -> int | None:
    """Return the smallest number of pairs that find a difference of `effect` in 80 % of runs; None above 100,000."""
    low, high = MIN_UNITS, _MAX_PROMPTS

    def suffices(pairs: int) -> bool:
        result = detectable_effect(pairs, spread, comparisons, margin)
        return result is not None and result <= effect

    if not suffices(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return low


def compare_pairs(a: Floats, b: Floats, prompts: Sequence[Any], *, margin_unit: float = MARGIN_S) -> PairedRatio:
    """Return the ratio of `b` to `a`, which are paired; infinity is a failure, an unknown value leaves its pair out.

    The pairs are in the order in which they were asked, so that a drift of one provider can be told from noise.

    `margin_unit` is the smallest difference that counts, in the values' unit (0 for none beside the 2 %).
    """
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = np.maximum(a[known], _SMALLEST), np.maximum(b[known], _SMALLEST)
    codes = pd.factorize(np.asarray(prompts, dtype=object)[known])[0]
    count = int(codes.max()) + 1 if len(codes) else 0
    failed = int((np.isinf(a) | np.isinf(b)).sum())
    if not len(a):
        return PairedRatio(0, 0)
    finite = np.concatenate([a[np.isfinite(a)], b[np.isfinite(b)]])
    typical = float(np.median(finite)) if len(finite) else math.inf
    margin = math.log1p(max(MARGIN_SHARE, margin_unit / typical))
    with np.errstate(invalid="ignore"):
        logs = np.log(b) - np.log(a)
    logs = np.where(np.isnan(logs), 0.0, logs)
    result = PairedRatio(len(a), count, margin=margin, failed_pairs=failed)
    if failed:
        return _compare_by_sign(result, logs, codes)
    return _compare_by_t(result, logs, codes, margin_unit / 2 / typical)


def _compare_by_t(result: PairedRatio, logs: Floats, codes: Ints, resolution: float) -> PairedRatio:
    """Return the ratio with t intervals; `resolution` bounds the deviation from below, as timers are no finer."""
    means = np.bincount(codes, logs) / np.bincount(codes)
    center = float(means.mean())
    result = replace(result, median_ratio=_exp(float(np.median(logs))))
    samples = [means, logs] if len(means) > 1 else [logs]
    if min(map(len, samples)) < MIN_UNITS:
        return replace(result, ratio=_exp(center))
    half, p_value = 0.0, 0.0
    inflation = _drift_inflation(logs)
    for sample in samples:
        # Drift is that of the pairs, which are in the order of time; the prompts have none.
        error, df = _standard_error(sample, inflation if sample is logs else 1.0, resolution)
        half = max(half, error * t_quantile(1 - LEVEL / 2, df))
        away = abs(center)
        tail = t_tail((away - result.margin) / error, df) + t_tail((away + result.margin) / error, df)
        p_value = max(p_value, 1.0 if away <= result.margin else min(tail, 1.0))
    return replace(
        result, ratio=_exp(center), low=_exp(center - half), high=_exp(center + half), p_value=p_value,
        basis="t over log ratios", spread=max(float(samples[0].std(ddof=1)) * math.sqrt(inflation), resolution),
    )  # fmt: skip


def _standard_error(sample: Floats, inflation: float, resolution: float) -> tuple[float, int]:
    """Return the standard error of a mean, and its degrees of freedom, where drift inflates its variance."""
    n = len(sample)
    spread = max(float(sample.std(ddof=1)), resolution, 1e-9)
    independent = n / inflation
    # Values that are alike also make their own deviation look too small.
    shrinkage = max((1 - 1 / independent) / (1 - 1 / n), _MIN_SHRINKAGE)
    return spread / math.sqrt(independent * shrinkage), max(round(independent) - 1, 2)


def _drift_inflation(logs: Floats) -> float:
    """Return by what factor drift inflates the variance of the mean of values in the order of time; 1 without drift.

    A provider that is slower for some minutes makes pairs alike that follow each other: they count for less, as of an
    autoregressive process, (1 + r) / (1 - r) with the correlation r of neighbours, corrected for its bias (Kendall
    1954). A correlation within one standard error of none is no drift.
    """
    n = len(logs)
    centered = logs - logs.mean()
    total = float((centered**2).sum())
    if n < _MIN_DRIFT_PAIRS or total <= 0:
        return 1.0
    r = float((centered[1:] * centered[:-1]).sum()) / total
    if r + 1 / n <= 1 / math.sqrt(n):
        return 1.0
    r = min((n * r + 1) / (n - 3), _MAX_CORRELATION)
    return (1 + r) / (1 - r)


def _compare_by_sign(result: PairedRatio, logs: Floats, codes: Ints) -> PairedRatio:
    units = (
        logs if result.prompts == 1 else np.asarray([_center(logs[codes == code]) for code in range(result.prompts)])
    )
    ordered, ranks = np.sort(units), order_ranks(len(units), 0.5)
    ratio = _exp(_center(units))
    if ranks is None:
        return replace(result, ratio=ratio)
    over, under = int((units > result.margin).sum()), int((units < -result.margin).sum())
    most = max(over, under)
    p_value = min(2 * (1 - binomial_cdf(most - 1, len(units), 0.5)), 1.0)
    low, high = float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])
    return replace(result, ratio=ratio, low=_exp(low), high=_exp(high), p_value=p_value, basis="signs")


def _center(logs: Floats) -> float:
    """Return the median of log ratios; between a win and a loss by failure it is a tie."""
    ordered = np.sort(logs)
    low, high = float(ordered[(len(ordered) - 1) // 2]), float(ordered[len(ordered) // 2])
    return 0.0 if math.isinf(low) and math.isinf(high) and low != high else (low + high) / 2


def compare_samples(
    a: Floats, a_prompts: Sequence[Any], b: Floats, b_prompts: Sequence[Any], *, margin_unit: float = MARGIN_S
) -> PairedRatio:
    """Return the ratio of two samples that share no prompt, by Welch's t over the prompts' mean logarithms.

    Failures cannot be compared without pairs: then there is no interval.
    """
    a_known, b_known = ~np.isnan(a), ~np.isnan(b)
    n = min(int(a_known.sum()), int(b_known.sum()))
    failed = int(np.isinf(a).sum() + np.isinf(b).sum())
    blank = PairedRatio(n, 0, failed_pairs=failed, is_paired=False)
    if not n or failed:
        return blank
    x = _mean_logs(a[a_known], [prompt for prompt, known in zip(a_prompts, a_known, strict=True) if known])
    y = _mean_logs(b[b_known], [prompt for prompt, known in zip(b_prompts, b_known, strict=True) if known])
    center, typical = float(y.mean() - x.mean()), float(np.median(np.concatenate([a[a_known], b[b_known]])))
    blank = replace(blank, ratio=_exp(center), prompts=min(len(x), len(y)))
    if min(len(x), len(y)) < MIN_UNITS:
        return blank
    margin = math.log1p(max(MARGIN_SHARE, margin_unit / max(typical, _SMALLEST)))
    parts = [max(float(part.var(ddof=1)), 1e-12) / len(part) for part in (x, y)]
    error = math.sqrt(sum(parts))
    df = sum(parts) ** 2 / sum(part**2 / (len(of) - 1) for part, of in zip(parts, (x, y), strict=True))
    half, away = error * t_quantile(1 - LEVEL / 2, round(df, 3)), abs(center)
    tail = t_tail((away - margin) / error, df) + t_tail((away + margin) / error, df)
    return replace(
        blank, low=_exp(center - half), high=_exp(center + half), basis="t over log ratios", margin=margin,
        p_value=1.0 if away <= margin else min(tail, 1.0), spread=error * math.sqrt(min(len(x), len(y))),
    )  # fmt: skip


def _mean_logs(values: Floats, prompts: Sequence[Any]) -> Floats:
    codes = pd.factorize(np.asarray(prompts, dtype=object))[0]
    means: Floats = np.bincount(codes, np.log(np.maximum(values, _SMALLEST))) / np.bincount(codes)
    return means


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Return which hypotheses are rejected so that a wrong rejection is among them in at most `level` of families.

    >>> holm([0.06, 0.01, 0.03])
    [False, True, False]
    """
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > level / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
