"""Comparison of two runs, metric by metric, in every provider x strategy cell that both runs have.

Trials are paired by prompt and repeat if both runs have them; otherwise the prompts' mean logarithms are compared. If a
run has several transports, each of them is a separate cell, and so are fresh and repeated prompts where a run mixed
them. Only the primary metric makes claims, in one Holm family over all cells; the metrics of `--fail-if-worse` are a
family of their own. All others are exploratory. Intervals cover the variation between trials, not a difference between
the two days.
"""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from evaluation.analysis import statistics, trial_names, verdicts
from evaluation.analysis.distributions import fisher_exact, share_difference_interval
from evaluation.analysis.metric_names import DIRECTION, SHARE_METRICS
from evaluation.analysis.origins import describe_origin_changes
from evaluation.analysis.paired import MARGIN_S, PairedRatio, compare_pairs, compare_samples, holm
from evaluation.analysis.statistics import Floats
from evaluation.analysis.throughput import LoadChange, compare_loads
from evaluation.analysis.trial_names import Population
from evaluation.analysis.verdicts import FailureCount
from evaluation.schema import TRIAL_UNITS
from evaluation.tables import Run
from streaming.errors import UsageError

EXPLORATORY_TEXT = "exploratory"
TOO_FEW_TEXT = "too few to tell"
_MIN_SHARE_TRIALS = 4
_SCENARIO_KEYS = (
    "repeats", "max_tokens", "temperature", "concurrency", "rate", "arrivals", "warm_up", "retries", "transport",
    "effort", "fresh", "warm", "keep_alive", "timeouts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CellKey:
    """One cell of a comparison: a provider, a strategy, and fresh or repeated prompts."""

    provider: str
    strategy: str
    population: Population = "all"


@dataclass(frozen=True, slots=True)
class MetricChange:
    """The change of one metric from run A to run B in one cell.

    `a` and `b` are medians (for `failed` and `stalled` shares of the trials). `difference`, `low` and `high` are shares
    of A; for `failed` and `stalled` they are differences of shares. `n` counts pairs, or if unpaired the trials of the
    smaller run. Without a family (`comparisons` 0) the change is exploratory.
    """

    cell: CellKey
    metric: str
    a: float
    b: float
    difference: float | None
    low: float | None
    high: float | None
    n: int
    paired: bool
    p_value: float
    ratio: PairedRatio | None
    failures: tuple[FailureCount, FailureCount]
    comparisons: int = 0
    is_claimed: bool = False

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `equal`, `cannot tell`, `too few to tell` or `exploratory`."""
        if not self.comparisons:
            return EXPLORATORY_TEXT
        if self.difference is None or self.low is None:
            return TOO_FEW_TEXT
        if self.ratio is not None:
            return self._judge_ratio(self.ratio)
        if self.difference == 0 or not self.is_claimed:
            return verdicts.CANNOT_TELL
        return "worse" if self.difference > 0 else "better"

    def _judge_ratio(self, ratio: PairedRatio) -> str:
        return verdicts.ProviderComparison(
            "A", "B", self.metric, self.cell.population, ratio, *self.failures, self.comparisons, self.is_claimed
        ).verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the change as JSON values: `a` and `b` in the units of the tables, the others as shares."""
        numbers = {
            name: None if (value := getattr(self, name)) is None or not math.isfinite(value) else round(value, 6)
            for name in ("a", "b", "difference", "low", "high")
        }
        cell = {"provider": self.cell.provider, "strategy": self.cell.strategy, "population": self.cell.population}
        return {**cell, "metric": self.metric, **numbers, "n": self.n, "paired": self.paired, "verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class RunComparison:
    """The changes in all common cells, and the cells that only one of the runs has.

    `watched` are the changes of the metrics that must not get worse, judged as a family of their own. `differences`
    says in words how the runs' scenarios, machines and served models differ. `loads` are the changes of throughput,
    which claim nothing.
    """

    changes: list[MetricChange]
    watched: list[MetricChange]
    only_a: list[CellKey]
    only_b: list[CellKey]
    differences: list[str]
    loads: list[LoadChange]


def select_provider(run: Run, name: str | None, label: str) -> Run:
    """Return the run with the trials of one provider only, called `label`; the whole run for None.

    Raises UsageError when the run has no such provider.
    """
    if name is None:
        return run
    trials, names = trial_names.add_transport_names(run, run.trials)
    if name not in names:
        raise UsageError(f"compare: {name!r} is no provider of this run (choose from {', '.join(names)})")
    own = trials[trials["name"] == name]
    return replace(run, trials=own.assign(name=pd.Series(label, own.index, dtype="string")))


def compare(a: Run, b: Run, watched: Sequence[str] = (), primary: Sequence[str] = ()) -> RunComparison:
    """Return the changes from run `a` to run `b`, with verdicts on the primary and on the `watched` metrics.

    Without `primary` metrics those of run `a` make the claims.
    """
    cells_a, cells_b = _trial_cells(a), _trial_cells(b)
    if {key.population for key in cells_a} != {key.population for key in cells_b}:
        # One run has only fresh prompts or only repeated ones, and the other has both.
        cells_a, cells_b = _trial_cells(a, divided=True), _trial_cells(b, divided=True)
    both = [key for key in cells_a if key in cells_b]
    primary = primary or verdicts.primary_columns(a)
    result = [change for key in both for change in _iter_changes(key, cells_a[key], cells_b[key], watched, primary)]
    claims = judge_family([change for change in result if change.metric in primary])
    rest = [change for change in result if change.metric not in primary]
    in_order = sorted([*claims, *rest], key=lambda change: both.index(change.cell))
    return RunComparison(
        changes=in_order,
        watched=judge_family([change for change in result if change.metric in watched]),
        only_a=[key for key in cells_a if key not in cells_b],
        only_b=[key for key in cells_b if key not in cells_a],
        differences=[*scenario_differences(a, b), *describe_origin_changes(a, b)],
        loads=compare_loads(a, b),
    )


def judge_family(changes: Sequence[MetricChange]) -> list[MetricChange]:
    """Return changes with verdicts, so that a false claim is among them in at most 5 % of comparisons."""
    testable = [place for place, change in enumerate(changes) if change.low is not None]
    claimed = dict(zip(testable, holm([changes[place].p_value for place in testable]), strict=True))
    size = max(len(testable), 1)
    return [replace(c, comparisons=size, is_claimed=claimed.get(place, False)) for place, c in enumerate(changes)]


def _trial_cells(run: Run, *, divided: bool = False) -> dict[CellKey, pd.DataFrame]:
    trials, _ = trial_names.add_transport_names(run, run.trials)
    trials = trial_names.add_population_column(run, trials, always=divided)
    trials = trials[trials["outcome"] != "cancelled"]
    completed = trials["outcome"] == "completed"
    trials = trials.assign(
        failed=(~completed).astype("float64"), stalled=(trials["stalls"] > 0).fillna(False).astype("float64")
    )
    trials = trials.set_index(["prompt_id", "repeat"])
    keys = ["name", "strategy", "population"]
    return {CellKey(*map(str, key)): cell for key, cell in trials.groupby(keys)}  # type: ignore[arg-type]


def _iter_changes(
    key: CellKey, a: pd.DataFrame, b: pd.DataFrame, watched: Sequence[str], primary: Sequence[str]
) -> Iterator[MetricChange]:
    failures = (verdicts.failure_count(a), verdicts.failure_count(b))
    counted = {*primary, *watched}
    values_a, values_b = (_paired_metrics(cell, counted) for cell in (a, b))
    for metric in dict.fromkeys((*primary, *DIRECTION)):
        if metric in SHARE_METRICS:
            yield _share_change(key, metric, a[metric], b[metric], failures)
            continue
        if metric in values_a and metric in values_b:
            yield _ratio_change(key, metric, values_a[metric], values_b[metric], failures)


def _paired_metrics(cell: pd.DataFrame, counted: Container[str]) -> dict[str, "pd.Series[float]"]:
    """Return the known metrics of completed trials by prompt and repeat.

    In the `counted` metrics a failed trial has the worst value, unless no completed one has any. Duplicates, which only
    edited runs have, become their median.
    """
    completed = cell["outcome"].eq("completed").to_numpy(bool)
    is_unique = cell.index.is_unique
    result = {}
    for metric in DIRECTION:
        if metric in SHARE_METRICS:
            continue
        values = np.where(completed, cell[metric].to_numpy(np.float64, na_value=np.nan), np.nan)
        if metric in counted and not (completed.any() and np.isnan(values).all()):
            values = np.where(completed, values, 0.0 if DIRECTION[metric] == "more" else np.inf)
        known = ~np.isnan(values)
        if known.any():
            by_pair = pd.Series(values[known], cell.index if known.all() else cell.index[known])
            keys = ["prompt_id", "repeat"]
            result[metric] = by_pair if is_unique else by_pair.groupby(level=keys, observed=True).median()
    return result


def _ratio_change(
    key: CellKey,
    metric: str,
    a: "pd.Series[float]",
    b: "pd.Series[float]",
    failures: tuple[FailureCount, FailureCount],
) -> MetricChange:
    pairs = a.index if a.index.equals(b.index) else a.index.intersection(b.index)
    unit = MARGIN_S if TRIAL_UNITS.get(metric) == "s" else 0.0
    is_rate = DIRECTION[metric] == "more"
    (values_a, prompts_a), (values_b, prompts_b) = (_values_and_prompts(of, is_rate) for of in (a, b))
    if len(pairs):
        (first, prompts), (second, _) = (_values_and_prompts(of[pairs], is_rate) for of in (a, b))
        result = compare_pairs(first, second, prompts, margin_unit=unit)
    else:
        result = compare_samples(values_a, prompts_a, values_b, prompts_b, margin_unit=unit)
    ratio = result.inverse() if is_rate else result
    difference, low, high = (None if value is None else value - 1 for value in (ratio.ratio, ratio.low, ratio.high))
    return MetricChange(
        key, metric, _median(a), _median(b), difference, low, high, ratio.pairs, bool(len(pairs)), ratio.p_value, ratio,
        failures,
    )  # fmt: skip


def _median(values: "pd.Series[float]") -> float:
    return statistics.median([float(value) for value in values]).value or 0.0


def _values_and_prompts(values: "pd.Series[float]", is_rate: bool) -> tuple[Floats, list[Any]]:
    """Return the values and their prompts; rates are inverted, so that a failure (0) becomes infinity."""
    result: Floats = np.asarray(values, dtype=np.float64)
    return verdicts.invert(result) if is_rate else result, values.index.get_level_values("prompt_id").tolist()


def _share_change(
    key: CellKey,
    metric: str,
    a: "pd.Series[float]",
    b: "pd.Series[float]",
    failures: tuple[FailureCount, FailureCount],
) -> MetricChange:
    counts = (int(a.sum()), len(a), int(b.sum()), len(b))
    share_a, share_b, n = counts[0] / counts[1], counts[2] / counts[3], min(counts[1], counts[3])
    low, high = (None, None) if n < _MIN_SHARE_TRIALS else share_difference_interval(*counts)
    p_value = fisher_exact(*counts)
    return MetricChange(
        key, metric, share_a, share_b, share_b - share_a, low, high, n, False, p_value, None, failures
    )  # fmt: skip


def scenario_differences(a: Run, b: Run) -> list[str]:
    """Return how the scenarios of two runs differ, in words; nothing is known of a run without a manifest."""
    first, second = a.manifest.get("scenario", {}), b.manifest.get("scenario", {})
    if not first or not second:
        return []
    settings = [(key, _setting_text(first.get(key)), _setting_text(second.get(key))) for key in _SCENARIO_KEYS]
    result = [f"{key.replace('_', ' ')}: {in_a} in A, {in_b} in B" for key, in_a, in_b in settings if in_a != in_b]
    thinking_s = [of.get("think_s") or 0.0 for of in (first, second)]
    if thinking_s[0] != thinking_s[1]:
        result.append(f"think s: {thinking_s[0]:g} in A, {thinking_s[1]:g} in B")
    prompts = [{prompt["id"]: _sent_by(prompt) for prompt in of.get("prompts", [])} for of in (first, second)]
    if prompts[0] != prompts[1]:
        common = sum(prompts[1].get(id_) == sent for id_, sent in prompts[0].items())
        result.append(f"prompts: {len(prompts[0])} in A, {len(prompts[1])} in B, {common} in both")
    return result


def _setting_text(value: object) -> str:
    """Return a setting of a scenario in words; an empty list is one that was not given."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, list) else value
    return "not given" if text in (None, "") else str(text)


def _sent_by(prompt: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a prompt of a manifest sends: its text or that to generate, system prompt, other turns and limit."""
    text = prompt.get("text"), prompt.get("body"), prompt.get("system"), prompt.get("history") or []
    return *text, prompt.get("turns") or [], prompt.get("max_tokens")
