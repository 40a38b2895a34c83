"""Medians with bootstrap intervals, pooled gaps and paired differences; seeded, so that a report repeats itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Prompts = Sequence[Any] | npt.NDArray[Any]
"""Of each value the prompt that it is of."""

MIN_TRIALS = 6
"""Below six values no 95 % interval of a median exists: five can all lie on one side by chance, 1 time in 16."""
RESAMPLES = 4000
_MIN_RESAMPLES = 400
_MAX_RESAMPLE_CELLS = 250_000
"""Values that are drawn at once; of many values fewer resamples are enough."""
NO_DIFFERENCE_TEXT = "no difference within the noise"
TOO_FEW_TEXT = "too few pairs to tell"
METHOD_NOTE = (
    "where there are six prompts or more, prompts are drawn, each with its repeats, else the repeats of each prompt: "
    "then the interval speaks for these prompts alone"
)


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
            return TOO_FEW_TEXT
        if estimate.spans_zero:
            return NO_DIFFERENCE_TEXT
        return "more" if estimate.value > 0 else "less"


def median(values: Sequence[float] | Floats, prompts: Prompts | None = None, seed: int = 0) -> Estimate:
    """Estimate a median: percentile bootstrap, 95 %. Unknown values (NaN) are left out.

    With `prompts`, of which each value has one, repeats of a prompt are no independent values: see `bootstrap_medians`.
    """
    found = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(found)
    found = found[known]
    n = len(found)
    if not n:
        return Estimate(0)
    value = float(np.median(found))
    if n < MIN_TRIALS:
        return Estimate(n, value)
    asked = None if prompts is None else np.asarray(prompts, dtype=object)[known]
    low, high = np.percentile(bootstrap_medians(found, asked, np.random.default_rng(seed)), [2.5, 97.5])
    return Estimate(n, value, float(low), float(high))


def column_median(trials: pd.DataFrame, column: str) -> Estimate:
    """Estimate the median of a column of trials, whose prompts are not forgotten."""
    return median(trials[column].to_numpy(dtype=np.float64, na_value=np.nan), trials["prompt_id"].tolist())


def bootstrap_medians(
    values: Floats, prompts: Prompts | None, rng: np.random.Generator, *, mean: bool = False
) -> Floats:
    """Give medians, or means, of resamples of values that are known.

    Of six prompts on, prompts are drawn, each with all its repeats: the interval then holds for prompts like these.
    Of fewer nothing can be said about others: the repeats of each are drawn, and it holds for these prompts.
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
    """Draw how often each prompt is in a resample, or of few prompts each value; one row a resample."""
    if count >= MIN_TRIALS:
        units, drawn = count, rng.integers(0, count, (size, count))
    else:
        units, first = len(codes), np.searchsorted(codes, codes)
        many = np.bincount(codes)[codes]
        drawn = first + (rng.random((size, units)) * many).astype(np.int64)
    places = drawn + np.arange(size)[:, None] * units
    return np.bincount(places.ravel(), minlength=size * units).reshape(size, units)


def _weighted_means(values: Floats, weights: Ints) -> Floats:
    found: Floats = (weights * values).sum(axis=1) / weights.sum(axis=1)
    return found


def _weighted_medians(values: Floats, weights: Ints) -> Floats:
    """Give the median of each list in which a value stands as often as its weight says."""
    order = np.argsort(values, kind="stable")
    ordered, upto = values[order], weights[:, order].cumsum(axis=1)
    total = upto[:, -1:]
    low, high = ((upto <= place).sum(axis=1) for place in ((total - 1) // 2, total // 2))
    found: Floats = (ordered[low] + ordered[high]) / 2
    return found


def _bootstrap_independent_medians(values: Floats, rng: np.random.Generator) -> Floats:
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


def paired_difference(
    trials: pd.DataFrame, by: str, a: str, b: str, column: str, within: Sequence[str], seed: int = 0
) -> Difference:
    """Compare two values of `by` on one column, pair by pair: trials alike in all of `within` (block among them).

    A pair counts when both trials have the figure. Trials that were repeated within a cell enter as their median.
    """
    known = trials[trials[by].isin([a, b]) & trials[column].notna()]
    table = known.groupby([*within, by], observed=True)[column].median().unstack(by)
    if a not in table or b not in table:
        return Difference(a, b, column, Estimate(0))
    prompts = table.index.get_level_values("prompt_id").tolist() if "prompt_id" in within else None
    return Difference(a, b, column, median((table[b] - table[a]).to_numpy(dtype=np.float64), prompts, seed))


def arrival_chunks(events: pd.DataFrame) -> pd.DataFrame:
    """Give the text as it arrived, chunk by chunk: trial_id, chars, at_s, and gap_s to the chunk before.

    Over a service's wire it arrived at the reader: such a trial has no source, and its delivered text stands for it.
    Events must stand in order within a trial, as they do in the tables.
    """
    source = events["kind"].eq("source_text")
    sourced = events.loc[source, "trial_id"].unique()
    over_wire = events["kind"].eq("delivered_text") & ~events["trial_id"].isin(sourced)
    return _text_chunks(events[source | over_wire], "source_s")


def delivered_chunks(events: pd.DataFrame) -> pd.DataFrame:
    """Give the text as it was delivered, in the same columns."""
    return _text_chunks(events[events["kind"].eq("delivered_text")], "delivered_s")


def _text_chunks(texts: pd.DataFrame, stamp: str) -> pd.DataFrame:
    at_s = texts[stamp].fillna(texts["delivered_s"])
    found = pd.DataFrame({"trial_id": texts["trial_id"], "chars": texts["chars"], "at_s": at_s})
    return found.assign(gap_s=found.groupby("trial_id", sort=False)["at_s"].diff())


def chunk_gaps(events: pd.DataFrame) -> pd.DataFrame:
    """Give every gap between text deltas as they arrived: trial_id and gap_s, to be pooled by group, never averaged."""
    found = arrival_chunks(events)
    return found.loc[found["gap_s"].notna(), ["trial_id", "gap_s"]]
