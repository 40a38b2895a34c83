"""Medians with bootstrap intervals, pooled gaps and paired differences; seeded, so that a report repeats itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.measures import Floats

FEWEST = 6
"""Below six values no 95 % interval of a median exists: five can all lie on one side by chance, 1 time in 16."""
RESAMPLES = 4000
NOISE = "no difference within the noise"
TOO_FEW = "too few pairs to tell"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median of `n` values and its 95 % interval; `low` and `high` are None for fewer than six, all for none."""

    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def spans_zero(self) -> bool:
        """Whether the interval holds 0; False where there is no interval."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Difference:
    """Median of `b` - `a` over pairs of one block (same prompt, same minute), with its interval."""

    a: str
    b: str
    column: str
    estimate: Estimate

    @property
    def verdict(self) -> str:
        """`b` against `a` in a word, or that it cannot be told."""
        estimate = self.estimate
        if estimate.value is None or estimate.low is None:
            return TOO_FEW
        if estimate.spans_zero:
            return NOISE
        return "more" if estimate.value > 0 else "less"


def median(values: Sequence[float] | Floats, seed: int = 0) -> Estimate:
    """Estimate a median: percentile bootstrap, 4000 resamples, 95 %. Unknown values (NaN) are left out."""
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    n = len(found)
    if not n:
        return Estimate(0)
    value = float(np.median(found))
    if n < FEWEST:
        return Estimate(n, value)
    low, high = np.percentile(_resampled(found, np.random.default_rng(seed)), [2.5, 97.5])
    return Estimate(n, value, float(low), float(high))


def _resampled(values: Floats, rng: np.random.Generator) -> Floats:
    """Draw medians of resamples, at a cost that does not grow with the number of values.

    A resample is n uniform places in the ordered values, so its median stands at the middle one of n ordered uniform
    numbers, which is Beta distributed, or between that and the next one: the least of those above it.
    """
    ordered, n = np.sort(values), len(values)
    middle = (n + 1) // 2
    place = rng.beta(middle, n - middle + 1, RESAMPLES)
    lower: Floats = ordered[(place * n).astype(np.int64).clip(max=n - 1)]
    if n % 2:
        return lower
    after = place + (1 - place) * (1 - (1 - rng.random(RESAMPLES)) ** (1 / (n - middle)))
    upper = ordered[(after * n).astype(np.int64).clip(max=n - 1)]
    middles: Floats = (lower + upper) / 2
    return middles


def paired(
    trials: pd.DataFrame, by: str, a: str, b: str, column: str, within: Sequence[str], seed: int = 0
) -> Difference:
    """Compare two values of `by` on one column, pair by pair: trials alike in all of `within` (block among them).

    A pair counts when both trials have the figure. Trials that were repeated within a cell enter as their median.
    """
    known = trials[trials[by].isin([a, b]) & trials[column].notna()]
    table = known.groupby([*within, by], observed=True)[column].median().unstack(by)
    if a not in table or b not in table:
        return Difference(a, b, column, Estimate(0))
    return Difference(a, b, column, median((table[b] - table[a]).to_numpy(dtype=np.float64), seed))


def gaps(events: pd.DataFrame, kind: str = "source_text", stamp: str = "source_s") -> pd.DataFrame:
    """Give every gap between text deltas: trial_id and gap_s, to be pooled by group and never averaged.

    Events must stand in order within a trial, as they do in the tables.
    """
    texts = events.loc[events["kind"] == kind, ["trial_id", stamp]]
    found = texts.assign(gap_s=texts.groupby("trial_id", sort=False)[stamp].diff())
    return found.loc[found["gap_s"].notna(), ["trial_id", "gap_s"]]
