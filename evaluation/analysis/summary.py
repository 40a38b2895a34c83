"""Summary of a run: the metrics of each provider x strategy group, and the paired differences between groups.

If a run has several transports, each of them is a separate group. Latencies and rates are those of completed trials; a
truncated answer is counted, but its metrics are only in the tables.
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
"""Metrics of the strategy itself: `first_held_s` excludes the provider's time to first token."""
_BETWEEN_TRANSPORTS = ("delivered_ttft_s", "delivered_e2e_s", "delivered_gap_p99_s")
"""Metrics at the reader: of the text that arrives at the client, or in process that leaves the strategy."""


@dataclass(frozen=True, slots=True)
class Group:
    """The metrics of one provider with one strategy over one transport.

    Estimates are medians over trials; None or n = 0 is unknown. `gap_p*_s` are percentiles of all `gaps` inter-chunk
    latencies, pooled. `delay_max_s` is the maximum over all characters. `cost_usd` is the sum over the `priced` trials,
    including failed trials with a price; `cost_estimated` is True if the tokens of any of them were only estimated.
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
    """Return the trials with a column `name`: the provider's full name, as written in the command.

    If the effort differs between trials, it is part of the name.
    """
    pairs = zip(trials["provider"], trials["model"].fillna(""), strict=True)
    names = [full_name(*pair) for pair in pairs]
    efforts = [None if pd.isna(effort) else str(effort) for effort in trials["effort"]]
    if len(set(efforts)) > 1:
        names = [at_effort(*pair) for pair in zip(names, efforts, strict=True)]
    return trials.assign(name=pd.Series(names, trials.index, dtype="string"))


def _names_in_order(run: Run, column: "pd.Series[str]") -> list[str]:
    """Return the names of the providers in the order of the scenario: by provider, then by effort."""
    facts = run.manifest.get("scenario", {})
    efforts = [None, *facts.get("effort", [])]
    planned = [at_effort(*pair) for pair in product(facts.get("providers", []), efforts)]
    seen = list(dict.fromkeys(column))
    return [name for name in planned if name in seen] + sorted(name for name in seen if name not in planned)


def transports(run: Run) -> list[str]:
    """Return the transports that have a trial; the first is the baseline of comparisons."""
    transport_names = order_values(run, "transport", run.trials["transport"])
    return sorted(transport_names, key=lambda name: name != IN_PROCESS)


def add_transport_names(run: Run, trials: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the trials with a column `name`, and the names in order.

    If there are several transports, the transport is part of the name.
    """
    trials, all_transports = add_name_column(trials), transports(run)
    names = _names_in_order(run, trials["name"])
    if len(all_transports) < 2:
        return trials, names
    pairs = [transport_name(*pair) for pair in zip(trials["name"], trials["transport"], strict=True)]
    apart = trials.assign(name=pd.Series(pairs, trials.index, dtype="string"))
    in_order = (transport_name(*pair) for pair in product(names, all_transports))
    return apart, [name for name in in_order if name in set(pairs)]


def groups(run: Run) -> list[Group]:
    """Return a group for each cell that has a trial, in the order of the scenario if that is known."""
    trials, names = add_transport_names(run, run.trials)
    completed = trials[trials["outcome"] == "completed"]
    gaps = statistics.chunk_gaps(run.events).merge(completed[["trial_id", "name", "strategy"]], on="trial_id")
    result = []
    for name in names:
        for strategy in order_values(run, "strategies", trials["strategy"]):
            cell = trials[(trials["name"] == name) & (trials["strategy"] == strategy)]
            if len(cell):
                own_gaps = gaps.loc[(gaps["name"] == name) & (gaps["strategy"] == strategy), "gap_s"]
                result.append(_make_group(name, strategy, cell, own_gaps.to_numpy(dtype=np.float64)))
    return result


def differences(run: Run) -> list[Difference]:
    """Return the differences of every provider from the first, then of every strategy from the first.

    Trials are paired within a block. A difference without any pair is left out.
    """
    trials = add_name_column(run.trials)
    completed = trials[trials["outcome"] == "completed"]
    # Over a transport of the service the delay of its strategy is unknown.
    held_s = (completed["delivered_ttft_s"] - completed["ttfot_s"]).where(completed["delay_mean_s"].notna())
    completed = completed.assign(first_held_s=held_s)
    all_differences = [
        *_differences_from_first(completed, "name", _names_in_order(run, trials["name"]), _BETWEEN_PROVIDERS),
        *_differences_from_first(
            completed, "strategy", order_values(run, "strategies", trials["strategy"]), _BETWEEN_STRATEGIES
        ),
    ]
    return [difference for difference in all_differences if difference.estimate.n]


def wire_differences(run: Run) -> list[Difference]:
    """Return the differences of every transport from the first, paired by block, provider and strategy."""
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
    """Return the distinct values of a column: first those in the scenario, in its order, then the others, sorted."""
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
    """Return the reduction of the known values; None if there are none."""
    known = column.dropna()
    return float(reduce(known)) if len(known) else None
