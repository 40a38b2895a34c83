"""Medians with bootstrap intervals, pooled gaps and paired differences; seeded, so that reports are reproducible."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Prompts = Sequence[Any] | npt.NDArray[Any]
"""The prompt of each value."""

MIN_TRIALS = 6
"""Fewer than six values have no 95 % interval of the median: 1 time in 16, all five are on one side of it by chance."""
RESAMPLES = 4000
_MIN_RESAMPLES = 400
_MAX_RESAMPLE_CELLS = 250_000
"""Values drawn at once; a sample with many values needs fewer resamples."""
NO_DIFFERENCE_TEXT = "no difference within the noise"
TOO_FEW_TEXT = "too few pairs to tell"
METHOD_NOTE = (
    "where there are six prompts or more, prompts are drawn, each with its repeats, else the repeats of each prompt: "
    "then the interval speaks for these prompts alone"
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median of `n` values and its 95 % interval.

    `low` and `high` are None for fewer than six values, and so is `value` without any.
    """

    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def spans_zero(self) -> bool:
        """Whether the interval contains 0; False if there is no interval."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Difference:
    """The median of `b` - `a` over pairs within a block (same prompt, same minute), with its interval."""

    a: str
    b: str
    column: str
    estimate: Estimate

    @property
    def verdict(self) -> str:
        """`more` or `less`, for `b` compared with `a`, or why there is no verdict."""
        estimate = self.estimate
        if estimate.value is None or estimate.low is None:
            return TOO_FEW_TEXT
        if estimate.spans_zero:
            return NO_DIFFERENCE_TEXT
        return "more" if estimate.value > 0 else "less"


def median(values: Sequence[float] | Floats, prompts: Prompts | None = None, seed: int = 0) -> Estimate:
    """Return the median with its 95 % percentile bootstrap interval; unknown values (NaN) are ignored.

    With `prompts`, one for each value, repeats of a prompt do not count as independent: see `bootstrap_medians`.
    """
    array = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(array)
    array = array[known]
    n = len(array)
    if not n:
        return Estimate(0)
    value = float(np.median(array))
    if n < MIN_TRIALS:
        return Estimate(n, value)
    prompts_of_known = None if prompts is None else np.asarray(prompts, dtype=object)[known]
    low, high = np.percentile(bootstrap_medians(array, prompts_of_known, np.random.default_rng(seed)), [2.5, 97.5])
    return Estimate(n, value, float(low), float(high))


def column_median(trials: pd.DataFrame, column: str) -> Estimate:
    """Return the median of a column of trials, with an interval that accounts for repeats of a prompt."""
    return median(trials[column].to_numpy(dtype=np.float64, na_value=np.nan), trials["prompt_id"].tolist())


def bootstrap_medians(
    values: Floats, prompts: Prompts | None, rng: np.random.Generator, *, mean: bool = False
) -> Floats:
    """Return the medians (or means) of bootstrap resamples of known values.

    With six prompts or more, prompts are resampled, each with all its repeats (a cluster bootstrap): the interval
    applies to prompts like these. With fewer, the repeats of each prompt are resampled: it applies to these prompts
    only.
    """
    codes = np.arange(len(values)) if prompts is None else pd.factorize(np.asarray(prompts, dtype=object))[0]
    count = int(codes.max()) + 1
    if count in (1, len(values)) and not mean:
        return _bootstrap_independent_medians(values, rng)
    order = np.lexsort((values, codes))
    values, codes = values[order], codes[order]
    units = codes if count >= MIN_TRIALS else np.arange(len(values))
    size = max(_MIN_RESAMPLES, min(RESAMPLES, _MAX_RESAMPLE_CELLS // len(values)))
    rounds = max(1, size * len(values) // _MAX_RESAMPLE_CELLS)
    centers = _weighted_means if mean else _weighted_medians
    drawn = (_draw_weights(codes, count, -(-size // rounds), rng)[:, units] for _ in range(rounds))
    return np.concatenate([centers(values, weights) for weights in drawn])


def _draw_weights(codes: Ints, count: int, size: int, rng: np.random.Generator) -> Ints:
    """Draw how often each prompt (with few prompts: each value) is in a resample; return one row per resample."""
    if count >= MIN_TRIALS:
        units, drawn = count, rng.integers(0, count, (size, count))
    else:
        units, first = len(codes), np.searchsorted(codes, codes)
        many = np.bincount(codes)[codes]
        drawn = first + (rng.random((size, units)) * many).astype(np.int64)
    places = drawn + np.arange(size)[:, None] * units
    return np.bincount(places.ravel(), minlength=size * units).reshape(size, units)


def _weighted_means(values: Floats, weights: Ints) -> Floats:
    means: Floats = (weights * values).sum(axis=1) / weights.sum(axis=1)
    return means


def _weighted_medians(values: Floats, weights: Ints) -> Floats:
    """Return the median for each row of weights; a weight is the number of times a value is repeated."""
    order = np.argsort(values, kind="stable")
    ordered, upto = values[order], weights[:, order].cumsum(axis=1)
    total = upto[:, -1:]
    low, high = ((upto <= place).sum(axis=1) for place in ((total - 1) // 2, total // 2))
    medians: Floats = (ordered[low] + ordered[high]) / 2
    return medians


def _bootstrap_independent_medians(values: Floats, rng: np.random.Generator) -> Floats:
    """Return medians of bootstrap resamples; after sorting, the cost does not depend on the number of values.

    A resample is n uniform positions in the sorted values. Its median is at the middle one of n sorted uniform numbers,
    which has a Beta distribution; for even n it is the mean of that value and the next one, whose position is the
    minimum of the uniform numbers above.
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


def paired_difference(
    trials: pd.DataFrame, by: str, a: str, b: str, column: str, within: Sequence[str], seed: int = 0
) -> Difference:
    """Return the paired difference of a column between values `a` and `b` of `by`.

    Trials form a pair if all their `within` columns are equal (block is one of them) and both have a value. Repeated
    trials within a cell are represented by their median.
    """
    known = trials[trials[by].isin([a, b]) & trials[column].notna()]
    table = known.groupby([*within, by], observed=True)[column].median().unstack(by)
    if a not in table or b not in table:
        return Difference(a, b, column, Estimate(0))
    prompts = table.index.get_level_values("prompt_id").tolist() if "prompt_id" in within else None
    return Difference(a, b, column, median((table[b] - table[a]).to_numpy(dtype=np.float64), prompts, seed))


def arrival_chunks(events: pd.DataFrame) -> pd.DataFrame:
    """Return the text chunks as they arrived: trial_id, chars, at_s, and gap_s since the previous chunk.

    A trial over a transport of the service has no source events, so its delivered text is used. Events must be in order
    within a trial, as they are in the tables.
    """
    source = events["kind"].eq("source_text")
    sourced = events.loc[source, "trial_id"].unique()
    over_wire = events["kind"].eq("delivered_text") & ~events["trial_id"].isin(sourced)
    return _text_chunks(events[source | over_wire], "source_s")


def delivered_chunks(events: pd.DataFrame) -> pd.DataFrame:
    """Return the text chunks as they were delivered, in the columns of `arrival_chunks`."""
    return _text_chunks(events[events["kind"].eq("delivered_text")], "delivered_s")


def _text_chunks(texts: pd.DataFrame, column: str) -> pd.DataFrame:
    at_s = texts[column].fillna(texts["delivered_s"])
    chunks = pd.DataFrame({"trial_id": texts["trial_id"], "chars": texts["chars"], "at_s": at_s})
    return chunks.assign(gap_s=chunks.groupby("trial_id", sort=False)["at_s"].diff())


def chunk_gaps(events: pd.DataFrame) -> pd.DataFrame:
    """Return all inter-chunk latencies on arrival (trial_id, gap_s), to be pooled by group, never averaged."""
    chunks = arrival_chunks(events)
    return chunks.loc[chunks["gap_s"].notna(), ["trial_id", "gap_s"]]
