"""Summary of a run: the metrics of each provider x strategy group, and the differences between strategies.

If a run has several transports, each of them is a separate group, and so are fresh and repeated prompts where a run
mixed them. In latencies a failed trial counts as infinitely late; cadence, rates and lengths are those of completed
trials. A truncated answer is counted as failed, and its metrics are only in the tables.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from evaluation.analysis import statistics, trial_names, verdicts
from evaluation.analysis.statistics import Difference, Estimate, Floats
from evaluation.analysis.trial_names import Population
from evaluation.analysis.verdicts import FailureCount
from evaluation.tables import Run

_BETWEEN_STRATEGIES = ("first_held_s", "delay_mean_s", "updates_per_s")
"""Metrics of the strategy itself: `first_held_s` excludes the provider's time to first token."""
_BETWEEN_TRANSPORTS = ("delivered_ttft_s", "delivered_e2e_s", "delivered_gap_p99_s")
"""Metrics at the reader: of the text that arrives at the client, or in process that leaves the strategy."""
_GAP_PERCENTS = (50.0, 95.0, 99.0)
_CELL_KEYS = ["name", "strategy", "population"]


LATENCIES = ("ttft_s", "ttfot_s", "ttft_total_s", "e2e_s", "delivered_ttft_s", "delivered_e2e_s")
"""Columns in which a failed trial counts as infinitely late."""


@dataclass(frozen=True, slots=True)
class Group:
    """The metrics of one provider with one strategy over one transport, for one population of prompts.

    `medians` are over trials, by column; n = 0 is unknown. `answer_s` is the time to the first answer text (to the
    first token where no answer text is known), `answer_tail_s` its percentile `tail_percent`, the largest that the
    trials carry (None below 17). `gap_p50_s`, `gap_p95_s` and `gap_p99_s` are pooled over all `gaps` inter-chunk
    latencies. `delay_max_s` is the maximum over all characters. `cost_usd` is the sum over the `priced` trials,
    including failed trials with a price; `cost_estimated` is True if the tokens of any of them were only estimated.
    `cost_per_1000_usd` is all that was spent for 1000 delivered answers; None if any of these has no price. `correct`
    of `checked` trials passed the prompt's check; `usd_per_1000_correct` and `seconds_per_correct` are what all
    checked trials cost and took for one (or 1000) of those, None where that is unknown.
    """

    name: str
    strategy: str
    population: Population
    trials: int
    completed: int
    failures: FailureCount
    answer_s: Estimate
    answer_tail_s: Estimate
    tail_percent: float | None
    medians: dict[str, Estimate]
    gaps: int
    gap_p50_s: Estimate
    gap_p95_s: Estimate
    gap_p99_s: Estimate
    token_sources: tuple[str, ...]
    stalls: int | None
    stall_s: float | None
    delay_max_s: float | None
    cost_usd: float | None
    cost_per_1000_usd: float | None
    priced: int
    cost_estimated: bool
    checked: int
    correct: int
    usd_per_1000_correct: float | None = None
    seconds_per_correct: float | None = None

    def median(self, column: str) -> Estimate:
        """Return the median of a column; n = 0 if it is unknown."""
        return self.medians.get(column, Estimate(0))


def groups(run: Run) -> list[Group]:
    """Return a group for each cell that has a trial, in the order of the scenario if that is known."""
    trials, names = named_trials(run)
    column = verdicts.first_text_column(run)
    completed = trials.loc[trials["outcome"] == "completed", ["trial_id", *_CELL_KEYS]]
    cells = {tuple(key): cell for key, cell in trials.groupby(_CELL_KEYS, sort=False)}
    gaps, gap_cells = _gaps_by_cell(run, completed)
    strategies = trial_names.order_values(run, "strategies", trials["strategy"])
    planned = product(names, strategies, trial_names.populations(trials))
    return [
        _make_group(key, cells[key], _gap_quantiles(gap_cells.get(key, gaps.iloc[:0])), column)
        for key in planned
        if key in cells
    ]


def _gaps_by_cell(run: Run, completed: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple[Any, ...], pd.DataFrame]]:
    """Return all inter-chunk latencies, and those of each cell's completed trials, in the order of the events.

    Each trial is looked up once, not each of its latencies.
    """
    gaps = statistics.chunk_gaps(run.events, run.trials)
    gaps["trial_id"] = gaps["trial_id"].astype("category")
    places: dict[tuple[Any, ...], int] = {}
    place_of = {
        trial_id: places.setdefault(tuple(key), len(places))
        for trial_id, *key in completed.itertuples(index=False, name=None)
    }
    by_category = np.array([place_of.get(name, -1) for name in gaps["trial_id"].cat.categories], dtype=np.int64)
    found = by_category[gaps["trial_id"].cat.codes]
    return gaps, {key: gaps[found == place] for key, place in places.items()}


def named_trials(run: Run) -> tuple[pd.DataFrame, list[str]]:
    """Return the trials with the columns `name`, `population` and `length`, and the names of providers in order.

    `length` is that of the answer in tokens if these are known for all completed trials, else in characters.
    """
    trials, names = trial_names.add_transport_names(run, run.trials)
    trials = trial_names.add_population_column(run, trials)
    return trials.assign(length=answer_lengths(run)[0]), names


def answer_lengths(run: Run) -> tuple["pd.Series[float]", str]:
    """Return the length of each answer, and its unit: tokens if known for all completed trials, else characters."""
    trials = run.trials
    known = trials["token_source"].isin(["reported", "counted"])
    tokens = (trials["output_tokens"] - trials["thinking_tokens"].fillna(0)).astype("float64").where(known)
    completed = trials["outcome"] == "completed"
    if completed.any() and tokens[completed].notna().all():
        return tokens, "tokens"
    chars = statistics.arrival_chunks(run.events, run.trials).groupby("trial_id")["chars"].sum()
    return trials["trial_id"].map(chars).astype("float64"), "characters"


def strategy_differences(run: Run) -> list[Difference]:
    """Return the differences between every two strategies within each provider, paired within a block.

    A difference without any pair is left out.
    """
    trials = trial_names.add_name_column(run.trials)
    completed = trials[trials["outcome"] == "completed"]
    # At a client, and without a known delay, the first text was timed after the strategy had held it.
    is_known = completed["delay_mean_s"].notna() & ~statistics.is_timed_at_client(completed)
    held_s = (completed["delivered_ttft_s"] - completed["ttfot_s"]).where(is_known)
    completed = completed.assign(first_held_s=held_s)
    strategies = trial_names.order_values(run, "strategies", trials["strategy"])
    result = _iter_differences(run, completed, "strategy", strategies, _BETWEEN_STRATEGIES)
    return [difference for difference in result if difference.estimate.n]


def transport_differences(run: Run) -> list[Difference]:
    """Return the differences of every transport from the first within each provider, paired by block and strategy."""
    trials = trial_names.add_name_column(run.trials)
    gaps = statistics.delivered_chunks(run.events).dropna(subset="gap_s").groupby("trial_id")["gap_s"].quantile(0.99)
    completed = trials[trials["outcome"] == "completed"]
    completed = completed.assign(delivered_gap_p99_s=completed["trial_id"].map(gaps).astype("float64"))
    first = trial_names.transports(run)[:1]
    result = _iter_differences(run, completed, "transport", trial_names.transports(run), _BETWEEN_TRANSPORTS)
    return [difference for difference in result if [difference.a] == first]


def _iter_differences(
    run: Run, trials: pd.DataFrame, by: str, values: list[str], columns: tuple[str, ...]
) -> Iterator[Difference]:
    if len(values) < 2:
        return
    within = ("block", "prompt_id", *(column for column in ("strategy", "transport") if column != by))
    trials = trials[["name", by, *within, *columns]]
    for name in trial_names.names_in_order(run, trials["name"]):
        own = trials[trials["name"] == name]
        for pair in combinations(values, 2):
            for column in columns:
                yield statistics.paired_difference(own, by, pair, column, within, name)


def _make_group(key: tuple[str, str, Population], cell: pd.DataFrame, gaps: list[Estimate], column: str) -> Group:
    done = _rows_where(cell, cell["outcome"] == "completed")
    counted = _rows_where(cell, cell["outcome"] != "cancelled")
    prompts = counted["prompt_id"].tolist()
    answers = statistics.column_values(counted, column, failures=True)
    tail = statistics.largest_quantile(statistics.independent_units(prompts)) if prompts else 50.0
    p50, p95, p99 = gaps
    stalls, checked = _reduce_known(done["stalls"], pd.Series.sum), _checked_trials(counted)
    correct = int(checked["correct"].fillna(False).astype("bool").sum())
    return Group(
        *key,
        trials=len(cell),
        completed=len(done),
        failures=verdicts.failure_count(cell),
        answer_s=statistics.median(answers, prompts),
        answer_tail_s=statistics.quantile(answers, tail, prompts) if tail > 50 else Estimate(0),
        tail_percent=tail if tail > 50 else None,
        medians=_medians(done, counted) | _stop_median(cell),
        gaps=p50.n,
        gap_p50_s=p50,
        gap_p95_s=p95,
        gap_p99_s=p99,
        token_sources=tuple(sorted(done["token_source"].dropna().unique())),
        stalls=None if stalls is None else int(stalls),
        stall_s=_reduce_known(done["stall_s"], pd.Series.sum),
        delay_max_s=_reduce_known(done["delay_max_s"], pd.Series.max),
        cost_usd=_reduce_known(cell["cost_usd"], pd.Series.sum),
        cost_per_1000_usd=_cost_per_1000(cell, len(done)),
        priced=int(cell["cost_usd"].notna().sum()),
        cost_estimated=bool((cell["cost_usd"].notna() & cell["token_source"].eq("estimated")).any()),
        checked=len(checked),
        correct=correct,
        usd_per_1000_correct=_cost_per_1000(checked, correct),
        seconds_per_correct=float(checked["e2e_s"].sum()) / correct if correct else None,
    )


def _gap_quantiles(gaps: pd.DataFrame) -> list[Estimate]:
    if not len(gaps):
        return [Estimate(0)] * len(_GAP_PERCENTS)
    values: Floats = gaps["gap_s"].to_numpy(dtype=np.float64)
    return statistics.pooled_quantiles(values, gaps["trial_id"].cat.codes.to_numpy(np.int64), _GAP_PERCENTS)


def _medians(done: pd.DataFrame, counted: pd.DataFrame) -> dict[str, Estimate]:
    """Return the median of every numeric column that has a value in a completed trial."""
    known = [str(name) for name, column in done.items() if column.dtype.kind in "fi" and not _is_unknown(column)]
    latencies = statistics.column_medians(counted, [c for c in known if c in LATENCIES], failures=True)
    return statistics.column_medians(done, [c for c in known if c not in LATENCIES]) | latencies


def _is_unknown(column: "pd.Series[float]") -> bool:
    return bool(np.isnan(column.to_numpy(np.float64, na_value=np.nan)).all())


def _stop_median(cell: pd.DataFrame) -> dict[str, Estimate]:
    """Return the median time until a Stop was painted, if any was: of all trials, since a stopped one is cancelled."""
    return statistics.column_medians(cell, ["stop_painted_s"] if cell["stop_painted_s"].notna().any() else [])


def _cost_per_1000(cell: pd.DataFrame, answers: int) -> float | None:
    """Return all that the trials cost for 1000 such answers, of which there are `answers`; None if it is unknown."""
    if not answers or cell.loc[cell["outcome"] == "completed", "cost_usd"].isna().any():
        return None
    return float(cell["cost_usd"].sum()) / answers * 1000


def _checked_trials(counted: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the prompts that say what a right answer is; a failed one is not right."""
    prompts = counted.loc[counted["correct"].notna(), "prompt_id"]
    return _rows_where(counted, counted["prompt_id"].isin(prompts))


def _rows_where(trials: pd.DataFrame, is_kept: "pd.Series[bool]") -> pd.DataFrame:
    """Return the rows that are kept; the table itself if they all are, since a copy of its columns takes longer."""
    kept = is_kept.to_numpy(bool, na_value=False)
    return trials if kept.all() else trials[kept] if kept.any() else trials.iloc[:0]


def _reduce_known(column: "pd.Series[float]", reduce: Callable[["pd.Series[float]"], float]) -> float | None:
    """Return the reduction of the known values; None if there are none."""
    known = column.dropna()
    return float(reduce(known)) if len(known) else None
