"""Medians, quantiles and pooled gaps of one group of trials, with intervals that hold the truth at small samples.

From six values on, an interval is a pair of order statistics: it holds whatever the distribution. Below six it is
Student's t over logarithms, which a report must say. Trials of one prompt are not independent: where prompts were
asked several times, the interval is the wider of that over the prompts' centers and that over the trials. A failed
trial counts as infinitely late: it is infinity among the values, never a missing one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.analysis.distributions import binomial_cdf, normal_cdf, t_quantile
from evaluation.transports import CLIENT_TRANSPORTS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Prompts = Sequence[Any] | npt.NDArray[Any]
"""The prompt of each value."""

MIN_UNITS = 3
"""With two trials, or two prompts asked several times, Student's t (df 1) has no interval of any use."""
MIN_TRIALS = 6
"""Fewer than six values have no 95 % interval of order statistics: 1 time in 16 all five are on one side by chance."""
QUANTILES = (50.0, 80.0, 90.0, 95.0, 99.0, 99.9)
"""The percentiles that reports show, as far as the number of trials carries them."""
SMALL_SAMPLE_NOTE = (
    "of 3 to 5 trials (or repeated prompts) by Student's t over logarithms, from 6 on by order statistics"
)
_TAIL = 0.025
_RESAMPLES = 1000
_GRID = 400

Basis = Literal["", "order statistics", "t over logs", "t", "t over time slices", "drawn trials"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantile of `n` values and its 95 % interval; None is unknown.

    Infinity says that the quantile, or the end of its interval, falls on failed trials. `basis` is the method of the
    interval, empty without one.
    """

    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    basis: Basis = ""

    @property
    def is_finite(self) -> bool:
        """Whether there is an interval with two finite ends."""
        return self.low is not None and self.high is not None and math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True, slots=True)
class Difference:
    """The median of `b` - `a` over pairs within a block (same prompt, same minute), with its interval.

    It is exploratory: it has a sign and an interval, but never a verdict. `name` is the provider of both.
    """

    name: str
    a: str
    b: str
    column: str
    estimate: Estimate


def median(values: Sequence[float] | Floats, prompts: Prompts | None = None, *, signed: bool = False) -> Estimate:
    """Return the median with its 95 % interval; unknown values (NaN) are ignored.

    With `prompts`, one for each value, repeats of a prompt do not count as independent. With `signed`, for differences,
    an interval of fewer than six values rests on the values themselves instead of their logarithms.
    """
    known, codes = _known_values(values, prompts)
    if not len(known):
        return Estimate(0)
    value = interpolate(np.sort(known), 0.5)
    low, high, basis = _median_interval(known, signed=signed)
    count = len(np.unique(codes))
    if low is not None and 1 < count < len(known):
        low_of_prompts, high_of_prompts, basis = _median_interval(_prompt_centers(known, codes), signed=signed)
        if low_of_prompts is None or high_of_prompts is None or high is None:
            return Estimate(len(known), value)
        low, high = min(low, low_of_prompts), max(high, high_of_prompts)
    if low is None or high is None:
        return Estimate(len(known), value)
    return Estimate(len(known), value, min(low, value), max(high, value), basis)


def _known_values(values: Sequence[float] | Floats, prompts: Prompts | None) -> tuple[Floats, Ints]:
    result = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(result)
    codes = np.arange(len(result)) if prompts is None else prompt_codes(prompts)
    return result[known], codes[known].astype(np.int64)


def prompt_codes(prompts: Prompts) -> Ints:
    """Return a number for each prompt, equal for equal prompts; an array of such numbers is returned as it is."""
    if isinstance(prompts, np.ndarray) and prompts.dtype == np.int64:
        return prompts
    return pd.factorize(np.asarray(prompts, dtype=object))[0].astype(np.int64)


def _prompt_centers(values: Floats, codes: Ints) -> Floats:
    """Return the median of each prompt; of two middle values the geometric mean, which has their median on average."""
    result = []
    for code in np.unique(codes):
        own = np.sort(values[codes == code])
        low, high = float(own[(len(own) - 1) // 2]), float(own[len(own) // 2])
        result.append(math.sqrt(low * high) if low > 0 and math.isfinite(high) else (low + high) / 2)
    return np.asarray(result, dtype=np.float64)


def _median_interval(values: Floats, *, signed: bool) -> tuple[float | None, float | None, Basis]:
    ranks = order_ranks(len(values), 0.5)
    if ranks is not None:
        ordered = np.sort(values)
        return float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1]), "order statistics"
    if len(values) < MIN_UNITS or not np.isfinite(values).all() or not (signed or (values > 0).all()):
        return None, None, ""
    units = values if signed else np.log(values)
    half = t_quantile(1 - _TAIL, len(units) - 1) * float(units.std(ddof=1)) / math.sqrt(len(units))
    low, high = float(units.mean()) - half, float(units.mean()) + half
    return (low, high, "t") if signed else (math.exp(low), _exp(high), "t over logs")


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


@lru_cache(maxsize=4096)
def order_ranks(n: int, q: float) -> tuple[int, int] | None:
    """Return the ranks (from 1) of the two order statistics that enclose quantile `q` in 95 % of samples of `n`.

    Each end is exceeded in at most 2.5 %. None if `n` values carry no such interval.

    >>> order_ranks(24, 0.5), order_ranks(17, 0.8), order_ranks(16, 0.8)
    ((7, 18), (10, 17), None)
    """
    if q**n > _TAIL or (1 - q) ** n > _TAIL:
        return None
    return max(_first_rank(n, q, _TAIL) - 1, 1), _first_rank(n, q, 1 - _TAIL)


def _first_rank(n: int, q: float, level: float) -> int:
    """Return the smallest rank r with P(fewer than r values below the quantile) >= level, by bisection."""
    low, high = 1, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_cdf(middle - 1, n, q) >= level else (middle + 1, high)
    return low


def largest_quantile(n: int) -> float:
    """Return the largest percentile of `QUANTILES` for which `n` trials carry an interval; 50 below 17 trials."""
    return max((percent for percent in QUANTILES if order_ranks(n, percent / 100) is not None), default=50.0)


def quantile(values: Sequence[float] | Floats, percent: float, prompts: Prompts | None = None) -> Estimate:
    """Return a percentile with its 95 % interval of order statistics; without an interval if `n` carries none.

    Where prompts were asked several times, their number decides what `n` carries, and the ranks.
    """
    if percent == 50:
        return median(values, prompts)
    known, codes = _known_values(values, prompts)
    if not len(known):
        return Estimate(0)
    ordered, units = np.sort(known), independent_units(codes)
    value, ranks = interpolate(ordered, percent / 100), order_ranks(units, percent / 100)
    if ranks is None:
        return Estimate(len(known), value)
    if units == len(known):
        low, high = float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])
    else:
        low, high = (interpolate(ordered, rank / (units + 1)) for rank in ranks)
    return Estimate(len(known), value, min(low, value), max(high, value), "order statistics")


def independent_units(codes: Prompts) -> int:
    """Return the number of prompts if some were asked several times, else the number of trials.

    Trials of a single prompt count as independent: what they say holds for that prompt alone.
    """
    prompts = len(set(codes))
    return prompts if prompts > 1 else len(codes)


def interpolate(ordered: Floats, q: float) -> float:
    """Return a quantile of sorted values by linear interpolation; infinity where it falls on failed trials."""
    place = (len(ordered) - 1) * q
    low = int(place)
    if place == low or low + 1 >= len(ordered):
        return float(ordered[min(low, len(ordered) - 1)])
    first, second = float(ordered[low]), float(ordered[low + 1])
    return second if math.isinf(second) else first + (second - first) * (place - low)


def column_values(trials: pd.DataFrame, column: str, *, failures: bool) -> Floats:
    """Return a column of trials as floats; with `failures` every trial that did not complete is infinite."""
    result = trials[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(trials["outcome"].eq("completed"), result, np.inf) if failures else result


def column_median(trials: pd.DataFrame, column: str, *, failures: bool = False) -> Estimate:
    """Return the median of a column of trials, with an interval that accounts for repeats of a prompt."""
    return median(column_values(trials, column, failures=failures), trials["prompt_id"].tolist())


def column_medians(trials: pd.DataFrame, columns: Sequence[str], *, failures: bool = False) -> dict[str, Estimate]:
    """Return `column_median` of several columns; their prompts are numbered once for all of them."""
    codes = prompt_codes(trials["prompt_id"].tolist())
    return {column: median(column_values(trials, column, failures=failures), codes) for column in columns}


def pooled_quantiles(values: Floats, trials: Prompts, percents: Sequence[float], seed: int = 0) -> list[Estimate]:
    """Return percentiles of values pooled over trials, such as gaps, with intervals that draw whole trials.

    A bootstrap of few trials is too narrow: its tails are widened by Hesterberg's expanded percentiles (2015, table 4),
    as much as Student's t exceeds the normal distribution. There is no interval below six trials, nor for a percentile
    whose interval would end at the largest value.
    """
    codes, _ = pd.factorize(trials if isinstance(trials, np.ndarray) else np.asarray(trials, dtype=object))
    result = [float(x) for x in np.percentile(values, percents)]
    count = int(codes.max()) + 1
    if count < MIN_TRIALS:
        return [Estimate(len(values), value) for value in result]
    drawn = _draw_quantiles(values, codes, count, percents, np.random.default_rng(seed))
    tail = normal_cdf(-math.sqrt(count / (count - 1)) * t_quantile(1 - _TAIL, count - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    most = float(values.max())
    return [
        Estimate(len(values), value, min(float(a), value), max(float(b), value), "drawn trials")
        if b < most
        else Estimate(len(values), value)
        for value, a, b in zip(result, low, high, strict=True)
    ]


def _draw_quantiles(
    values: Floats, codes: Ints, count: int, percents: Sequence[float], rng: np.random.Generator
) -> Floats:
    """Return the percentiles of each resample of whole trials, one row per resample.

    Values are counted between some hundred of their own quantiles, denser above the 90th percentile, so that millions
    of gaps need little memory.
    """
    shares = np.concatenate([np.linspace(0, 0.9, _GRID // 2), np.linspace(0.9, 1, _GRID // 2)])
    edges = np.unique(np.quantile(values, shares, method="inverted_cdf"))
    cells = np.searchsorted(edges, values)
    counts = np.bincount(codes * len(edges) + cells, minlength=count * len(edges)).reshape(count, len(edges))
    weights = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES).astype(np.float64)
    upto = (weights @ counts.astype(np.float64)).cumsum(axis=1)
    places = [(upto < upto[:, -1:] * percent / 100).sum(axis=1) for percent in percents]
    return np.column_stack([edges[np.minimum(place, len(edges) - 1)] for place in places])


def paired_difference(
    trials: pd.DataFrame, by: str, pair: tuple[str, str], column: str, within: Sequence[str], name: str = ""
) -> Difference:
    """Return the paired difference of a column between two values of `by`.

    Trials form a pair if all their `within` columns are equal (block is one of them) and both have a value. Repeated
    trials within a cell are represented by their median.
    """
    a, b = pair
    known = trials[trials[by].isin([a, b]) & trials[column].notna()]
    table = known.groupby([*within, by], observed=True, dropna=False)[column].median().unstack(by)
    if a not in table or b not in table:
        return Difference(name, a, b, column, Estimate(0))
    prompts = table.index.get_level_values("prompt_id").tolist() if "prompt_id" in within else None
    values = (table[b] - table[a]).to_numpy(dtype=np.float64)
    return Difference(name, a, b, column, median(values, prompts, signed=True))


def arrival_chunks(events: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the text chunks as they arrived: trial_id, chars, at_s, and gap_s since the previous chunk.

    Of a trial that a client received from the service, and of one without source events, the delivered text is what
    arrived. Events must be in order within a trial, as they are in the tables.
    """
    at_client = trials.loc[is_timed_at_client(trials), "trial_id"]
    source = events["kind"].eq("source_text") & ~events["trial_id"].isin(at_client)
    sourced = events.loc[source, "trial_id"].unique()
    over_wire = events["kind"].eq("delivered_text") & ~events["trial_id"].isin(sourced)
    return _text_chunks(events[source | over_wire], "source_s")


def is_timed_at_client(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Return which trials a client received from the service: their metrics of arrival are those of that client."""
    return trials["transport"].isin(CLIENT_TRANSPORTS)


def delivered_chunks(events: pd.DataFrame) -> pd.DataFrame:
    """Return the text chunks as they were delivered, in the columns of `arrival_chunks`."""
    return _text_chunks(events[events["kind"].eq("delivered_text")], "delivered_s")


def _text_chunks(texts: pd.DataFrame, column: str) -> pd.DataFrame:
    at_s = texts[column].fillna(texts["delivered_s"])
    chunks = pd.DataFrame({"trial_id": texts["trial_id"], "chars": texts["chars"], "at_s": at_s})
    return chunks.assign(gap_s=chunks.groupby("trial_id", sort=False)["at_s"].diff())


def chunk_gaps(events: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Return all inter-chunk latencies on arrival (trial_id, gap_s), to be pooled by group, never averaged."""
    chunks = arrival_chunks(events, trials)
    return chunks.loc[chunks["gap_s"].notna(), ["trial_id", "gap_s"]]
