"""What a run's tables come to: one group for each provider x strategy, and the paired differences between them.

Where a run has several transports, what was asked over each wire is a group of its own.

Figures are those of completed trials: a cut answer is counted, and its times are left to the tables.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from evaluation.analysis import statistics
from evaluation.analysis.statistics import Difference, Estimate, Floats
from evaluation.scenario import IN_PROCESS, at_effort, full_name, transport_name
from evaluation.tables import Run

_BETWEEN_PROVIDERS = ("ttft_s", "icl_p50_s", "output_tps", "e2e_s")
_BETWEEN_STRATEGIES = ("first_held_s", "delay_mean_s", "updates_per_s")
"""What a strategy does to a trial by itself: `first_held_s` leaves out how soon the provider began."""
_BETWEEN_TRANSPORTS = ("delivered_ttft_s", "delivered_e2e_s", "delivered_gap_p99_s")
"""What the reader gets: over a wire what arrives there, in process what leaves the strategy."""


@dataclass(frozen=True, slots=True)
class Group:
    """One provider under one strategy, over one transport. Estimates are medians over trials; None or n = 0 is unknown.

    `gap_p*_s` are percentiles of all `gaps` gaps pooled. `delay_max_s` is the longest that any character was held.
    `cost_usd` is the sum over the `priced` trials, failed ones included where they have a price; `cost_estimated` says
    that the tokens of some were only estimated.
    """

    name: str
    strategy: str
    trials: int
    completed: int
    ttft_s: Estimate
    ttft_total_s: Estimate
    gaps: int
    gap_p50_s: float | None
    gap_p95_s: float | None
    gap_p99_s: float | None
    output_tps: Estimate
    token_sources: tuple[str, ...]
    stalls: int | None
    stall_s: float | None
    delay_mean_s: Estimate
    delay_p95_s: Estimate
    delay_max_s: float | None
    updates_per_s: Estimate
    cost_usd: float | None
    priced: int
    cost_estimated: bool
    delivered_ttft_s: Estimate
    delivered_e2e_s: Estimate
    chars_per_s: Estimate
    fluidity: Estimate
    qoe: Estimate


def add_name_column(trials: pd.DataFrame) -> pd.DataFrame:
    """Add `name`, the full name of who was asked, as it was written in the command.

    Where the effort differs between trials, it is part of the name.
    """
    pairs = zip(trials["provider"], trials["model"].fillna(""), strict=True)
    found = [full_name(*pair) for pair in pairs]
    efforts = [None if pd.isna(effort) else str(effort) for effort in trials["effort"]]
    if len(set(efforts)) > 1:
        found = [at_effort(*pair) for pair in zip(found, efforts, strict=True)]
    return trials.assign(name=pd.Series(found, trials.index, dtype="string"))


def _names_in_order(run: Run, column: "pd.Series[str]") -> list[str]:
    """Return the names of who was asked, in the order of the scenario: by provider, then by effort."""
    facts = run.manifest.get("scenario", {})
    efforts = [None, *facts.get("effort", [])]
    planned = [at_effort(*pair) for pair in product(facts.get("providers", []), efforts)]
    seen = list(dict.fromkeys(column))
    return [name for name in planned if name in seen] + sorted(name for name in seen if name not in planned)


def transports(run: Run) -> list[str]:
    """Give the transports that have a trial: the first is what the others are compared with."""
    found = order_values(run, "transport", run.trials["transport"])
    return sorted(found, key=lambda name: name != IN_PROCESS)


def add_transport_names(run: Run, trials: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Add `name`, with the wire in it where there are several transports, and give the names in order."""
    trials, ways = add_name_column(trials), transports(run)
    names = _names_in_order(run, trials["name"])
    if len(ways) < 2:
        return trials, names
    pairs = [transport_name(*pair) for pair in zip(trials["name"], trials["transport"], strict=True)]
    apart = trials.assign(name=pd.Series(pairs, trials.index, dtype="string"))
    return apart, [name for name in (transport_name(*pair) for pair in product(names, ways)) if name in set(pairs)]


def groups(run: Run) -> list[Group]:
    """Give a group for each cell that has a trial, in the order of the scenario where it is known."""
    trials, names = add_transport_names(run, run.trials)
    completed = trials[trials["outcome"] == "completed"]
    gaps = statistics.chunk_gaps(run.events).merge(completed[["trial_id", "name", "strategy"]], on="trial_id")
    found = []
    for name in names:
        for strategy in order_values(run, "strategies", trials["strategy"]):
            cell = trials[(trials["name"] == name) & (trials["strategy"] == strategy)]
            if len(cell):
                own_gaps = gaps.loc[(gaps["name"] == name) & (gaps["strategy"] == strategy), "gap_s"]
                found.append(_make_group(name, strategy, cell, own_gaps.to_numpy(dtype=np.float64)))
    return found


def differences(run: Run) -> list[Difference]:
    """Compare every provider with the first, then every strategy with the first, over pairs of the same block.

    Only what both sides have measured at least once as a pair is there.
    """
    trials = add_name_column(run.trials)
    completed = trials[trials["outcome"] == "completed"]
    # Over a wire nobody knows what was held: it was at the service.
    held_s = (completed["delivered_ttft_s"] - completed["ttfot_s"]).where(completed["delay_mean_s"].notna())
    completed = completed.assign(first_held_s=held_s)
    found = [
        *_differences_from_first(completed, "name", _names_in_order(run, trials["name"]), _BETWEEN_PROVIDERS),
        *_differences_from_first(
            completed, "strategy", order_values(run, "strategies", trials["strategy"]), _BETWEEN_STRATEGIES
        ),
    ]
    return [difference for difference in found if difference.estimate.n]


def wire_differences(run: Run) -> list[Difference]:
    """Compare every transport with the first, over pairs of the same block, provider and strategy."""
    trials = add_name_column(run.trials)
    gaps = statistics.delivered_chunks(run.events).dropna(subset="gap_s").groupby("trial_id")["gap_s"].quantile(0.99)
    completed = trials[trials["outcome"] == "completed"]
    completed = completed.assign(delivered_gap_p99_s=completed["trial_id"].map(gaps).astype("float64"))
    return list(_differences_from_first(completed, "transport", transports(run), _BETWEEN_TRANSPORTS))


def _differences_from_first(
    trials: pd.DataFrame, by: str, values: list[str], columns: tuple[str, ...]
) -> Iterator[Difference]:
    within = ("block", "prompt_id", *(column for column in ("name", "strategy", "transport") if column != by))
    for other in values[1:]:
        for column in columns:
            yield statistics.paired_difference(trials, by, values[0], other, column, within)


def order_values(run: Run, key: str, column: "pd.Series[str]") -> list[str]:
    """Give the values of a column, those that the scenario names first and in its order."""
    seen = list(dict.fromkeys(column))
    planned = run.manifest.get("scenario", {}).get(key, [])
    return [name for name in planned if name in seen] + sorted(name for name in seen if name not in planned)


def _make_group(name: str, strategy: str, cell: pd.DataFrame, gaps_s: Floats) -> Group:
    done = cell[cell["outcome"] == "completed"]

    def estimate_median(column: str) -> Estimate:
        return statistics.column_median(done, column)

    p50_s, p95_s, p99_s = np.percentile(gaps_s, [50, 95, 99]).tolist() if len(gaps_s) else (None, None, None)
    stalls = _reduce_known(done["stalls"], pd.Series.sum)
    return Group(
        name=name,
        strategy=strategy,
        trials=len(cell),
        completed=len(done),
        ttft_s=estimate_median("ttft_s"),
        ttft_total_s=estimate_median("ttft_total_s"),
        gaps=len(gaps_s),
        gap_p50_s=p50_s,
        gap_p95_s=p95_s,
        gap_p99_s=p99_s,
        output_tps=estimate_median("output_tps"),
        token_sources=tuple(sorted(done["token_source"].dropna().unique())),
        stalls=None if stalls is None else int(stalls),
        stall_s=_reduce_known(done["stall_s"], pd.Series.sum),
        delay_mean_s=estimate_median("delay_mean_s"),
        delay_p95_s=estimate_median("delay_p95_s"),
        delay_max_s=_reduce_known(done["delay_max_s"], pd.Series.max),
        updates_per_s=estimate_median("updates_per_s"),
        cost_usd=_reduce_known(cell["cost_usd"], pd.Series.sum),
        priced=int(cell["cost_usd"].notna().sum()),
        cost_estimated=bool((cell["cost_usd"].notna() & cell["token_source"].eq("estimated")).any()),
        delivered_ttft_s=estimate_median("delivered_ttft_s"),
        delivered_e2e_s=estimate_median("delivered_e2e_s"),
        chars_per_s=estimate_median("chars_per_s"),
        fluidity=estimate_median("fluidity"),
        qoe=estimate_median("qoe"),
    )


def _reduce_known(column: "pd.Series[float]", reduce: Callable[["pd.Series[float]"], float]) -> float | None:
    """Reduce the known values; None when none is."""
    found = column.dropna()
    return float(reduce(found)) if len(found) else None
