"""Time to first token of conversations by turn, and by the size of what was sent."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.analysis import statistics, summary
from evaluation.analysis.statistics import Estimate
from evaluation.tables import Run


@dataclass(frozen=True, slots=True)
class TurnGroup:
    """The completed turns of one provider with the same number, or of about the same size.

    `key` names the group: the number of the turn, or the range of input tokens. Medians, in tokens and seconds; None is
    unknown. `cached_share` is of the input, `uncached_tokens` the rest of it.
    """

    name: str
    key: str
    trials: int
    context_tokens: float | None
    input_tokens: float | None
    cached_share: float | None
    uncached_tokens: float | None
    ttft_s: Estimate


def turn_groups(run: Run) -> list[TurnGroup]:
    """Return the turns of each provider by their number; none for a run without conversations."""
    done = _completed_turns(run)
    return [] if done is None else list(_iter_groups(done, done["turn"].astype("string"), done["turn"]))


def size_groups(run: Run) -> list[TurnGroup]:
    """Return the turns of each provider by their input tokens, in ranges that double; none where these are unknown."""
    done = _completed_turns(run)
    done = None if done is None else done[done["input_tokens"].fillna(0) > 0]
    if done is None or not len(done):
        return []
    power = pd.Series(np.floor(np.log2(done["input_tokens"].astype("float64"))).astype(int), done.index)
    ranges = power.map(lambda exponent: f"{2**exponent}–{2 ** (exponent + 1) - 1}").astype("string")
    return list(_iter_groups(done, ranges, power))


def _completed_turns(run: Run) -> pd.DataFrame | None:
    if "turn" not in run.trials or not run.trials["turn"].notna().any():
        return None
    trials, names = summary.named_trials(run)
    done = trials[(trials["outcome"] == "completed") & trials["turn"].notna()]
    return done.assign(place=done["name"].map(names.index))


def _iter_groups(done: pd.DataFrame, keys: "pd.Series[str]", order: "pd.Series[int]") -> Iterator[TurnGroup]:
    for _, own in done.assign(key=keys, order=order).groupby(["place", "order"], sort=True):
        uncached = own["input_tokens"] - own["cached_tokens"]
        yield TurnGroup(
            name=str(own["name"].iloc[0]),
            key=str(own["key"].iloc[0]),
            trials=len(own),
            context_tokens=_median(own["context_tokens"]),
            input_tokens=_median(own["input_tokens"]),
            cached_share=_median(own["cached_tokens"] / own["input_tokens"]),
            uncached_tokens=_median(uncached),
            ttft_s=statistics.column_median(own, "ttft_s"),
        )


def _median(column: "pd.Series[float]") -> float | None:
    known = column.dropna()
    return float(known.median()) if len(known) else None
