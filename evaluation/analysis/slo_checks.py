"""Verdicts on the objectives of a run.

A failed trial meets no objective on a latency or a rate; cancelled ones are left out.

A verdict is met, missed or too few to tell, by one-sided 95 % bounds that are exact (Clopper and Pearson; for a
percentile they are those of order statistics): an objective that the provider does not meet passes in at most 5 % of
runs. An objective is about the prompts as they were asked, fresh and repeated alike: a verdict says how few prompts
were repeated, and where fresh ones alone do not meet it. `max` is about this run's trials alone, so that it is never
too few.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from evaluation.analysis.distributions import lower_share_bound, t_quantile, upper_share_bound
from evaluation.analysis.slo import GAP_COLUMN, Objective, format_value
from evaluation.metrics.cadence import percentile
from evaluation.metrics.load import MIN_ANSWERS
from evaluation.scenario import display_name

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.tables import Run

Outcome = Literal["met", "missed", "too few"]
EXIT_CODES: dict[Outcome, int] = {"met": 0, "missed": 1, "too few": 4}
_STALL_COLUMNS = ("stalls", "stall_s")
"""Columns that are empty for an answer of one chunk, which counts as not met."""
_MIN_GAP_TRIALS = 6
_MAX_ANSWERS = 10_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on an objective in one cell of `n` trials (or gaps), of which `value` is the observed statistic.

    `needed` is the number of trials that would decide, were the observed share the true one; None if none would. With
    `value` None nothing was measured. `scope` says in words which trials the verdict holds for.
    """

    objective: Objective
    provider: str
    strategy: str
    n: int
    value: float | None
    outcome: Outcome
    needed: int | None = None
    scope: str = ""

    @property
    def met(self) -> bool:
        return self.outcome == "met"

    @property
    def holds_here(self) -> bool:
        """Whether the observed value is on the right side of the limit, however few trials there are."""
        return self.value is not None and self.objective.accepts(self.value)

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values; None also for an infinite value, which falls on failed trials."""
        value = self.value if self.value is not None and math.isfinite(self.value) else None
        return {
            "objective": self.objective.text, "provider": self.provider, "strategy": self.strategy, "n": self.n,
            "value": value, "outcome": self.outcome, "needed": self.needed,
            **({"scope": self.scope} if self.scope else {}),
        }  # fmt: skip

    def __str__(self) -> str:
        objective, where = self.objective, f"{display_name(self.provider)} × {self.strategy}"
        if self.value is None:
            return f"{objective.text}: too few to tell, not measured ({where})"
        measurement = f"{format_value(self.value, objective.unit)} ({where}, n = {self.n}{self.scope})"
        if self.met:
            return f"{objective.text}: met, {measurement}"
        if self.outcome == "missed":
            return f"{objective.text}: missed{self._excess_text()}: {measurement}"
        return f"{objective.text}: too few to tell{self._needed_text()}: so far {measurement}"

    def _excess_text(self) -> str:
        objective, value = self.objective, self.value
        if value is None or not math.isfinite(value):
            return " because of failed trials"
        over = abs(value - objective.limit)
        if objective.unit == "share":
            return f" by {over * 100:.3g} percentage points"
        share = f" ({over / objective.limit * 100:.1f} %)" if objective.limit else ""
        return f" by {format_value(over, objective.unit)}{share}"

    def _needed_text(self) -> str:
        if self.needed is None:
            return ", as it lies at the limit"
        noun = "gap" if self.objective.column == GAP_COLUMN else "answer"
        return f" from {self.n} {noun}{'' if self.n == 1 else 's'}, {self.needed} are needed"


def worst_outcome(verdicts: Sequence[Verdict]) -> Outcome:
    """Return the outcome of several objectives: missed if one is missed, else too few if one is, else met."""
    result = {verdict.outcome for verdict in verdicts}
    return "missed" if "missed" in result else "too few" if "too few" in result else "met"


def check_objectives(run: "Run", objectives: tuple[Objective, ...]) -> list[Verdict]:
    """Return the verdict on every objective in every cell of a run.

    In a sweep the objectives define the goodput; a metric of the load is judged at the level where it is highest.
    """
    # Imported here because SLOs are parsed before a load test, and pandas is needed only after it.
    from evaluation.analysis import statistics, trial_names

    if run.is_sweep:
        return [
            v for objective in objectives if objective.stat == "load" for v in _judge_loads(objective, run, objectives)
        ]
    trials, _ = trial_names.add_transport_names(run, run.trials)
    trials = trials[trials["outcome"] != "cancelled"]
    gaps = statistics.chunk_gaps(run.events, run.trials) if any(o.column == GAP_COLUMN for o in objectives) else None
    cells = [((str(n), str(s)), cell) for (n, s), cell in trials.groupby(["name", "strategy"])]
    if not cells:
        return [Verdict(objective, "no provider", "no trial", 0, None, "too few") for objective in objectives]
    of_load = [objective for objective in objectives if objective.stat == "load"]
    return [
        _judge_gaps(objective, name, strategy, cell, gaps)
        if gaps is not None and objective.column == GAP_COLUMN
        else _add_scope(_judge_trials(objective, name, strategy, _trial_values(objective, cell)), cell)
        for objective in objectives
        if objective.stat != "load"
        for (name, strategy), cell in cells
    ] + [verdict for objective in of_load for verdict in _judge_loads(objective, run, objectives)]


def _judge_loads(objective: Objective, run: "Run", objectives: tuple[Objective, ...]) -> Iterator[Verdict]:
    """Yield the verdict on a metric of the load for each provider and level, by Student's t over slices of the time."""
    from evaluation.analysis import throughput

    levels = throughput.load_levels(run, objectives)
    if run.is_sweep:
        by_name = {level.name: level for level in sorted(levels, key=lambda one: one.value(objective.column) or 0.0)}
        levels = list(by_name.values())
    for level in levels:
        estimate = level.estimate(objective.column, 0.95)
        n, value, needed = level.completed, estimate.value, MIN_ANSWERS
        outcome: Outcome = "too few"
        if value is not None and estimate.low is not None and estimate.high is not None:
            inside = objective.accepts(estimate.low), objective.accepts(estimate.high)
            outcome = "met" if all(inside) else "too few" if any(inside) else "missed"
            distance = abs(value - objective.limit)
            half = max(estimate.high - value, value - estimate.low)
            needed = math.ceil(n * (half / distance) ** 2) + 1 if distance else _MAX_ANSWERS
        known = needed if outcome == "too few" and needed < _MAX_ANSWERS else None
        yield Verdict(objective, level.name, level.level_text, n, value, outcome, known)


def _trial_values(objective: Objective, cell: "pd.DataFrame") -> list[float]:
    """Return a value for each trial that counts; of a failed one the worst. Trials without a value are left out.

    For a share, 1 is a trial that it counts.
    """
    completed = cell["outcome"] == "completed"
    if objective.stat == "share":
        stalls = cell["stalls"].isna() | (cell["stalls"] > 0)
        return [float(x) for x in (~completed if objective.column == "failed" else ~completed | stalls)]
    worst = math.inf if objective.op in ("<", "<=") else -math.inf
    values = cell[objective.column].astype("float64")
    if objective.column in _STALL_COLUMNS and values.notna().any():
        values = values.fillna(worst)
    if not values[completed].notna().any() and completed.any():
        return []
    return [float(x) for x in values.where(completed, worst).dropna()]


def _add_scope(verdict: Verdict, cell: "pd.DataFrame") -> Verdict:
    """Return the verdict with how few prompts were repeated, and what fresh ones show where they alone miss it."""
    objective, prompts = verdict.objective, cell["prompt_id"].nunique()
    scope = f" of {prompts} prompt{'s' if prompts > 1 else ''}" if 0 < prompts < len(cell) else ""
    fresh = cell[cell["fresh"].eq(True).fillna(False)]
    if verdict.holds_here and objective.stat not in ("max", "share") and 0 < len(fresh) < len(cell):
        values = sorted(_trial_values(objective, fresh))
        if values and not objective.accepts(observed := _percentile_of(values, objective.percent)):
            scope += f"; fresh prompts alone {format_value(observed, objective.unit)}"
    return replace(verdict, scope=scope)


def _judge_trials(objective: Objective, name: str, strategy: str, values: list[float]) -> Verdict:
    n = len(values)
    if not n:
        return Verdict(objective, name, strategy, 0, None, "too few")
    if objective.stat == "share":
        observed, counted = sum(values) / n, int(sum(values))
        good = n - counted if objective.op in ("<", "<=") else counted
        return Verdict(objective, name, strategy, n, observed, *_judge_share(objective, good, n))
    ordered = sorted(values)
    observed = _percentile_of(ordered, objective.percent)
    if objective.stat == "max":
        return Verdict(objective, name, strategy, n, observed, "met" if objective.accepts(observed) else "missed")
    good = sum(map(objective.accepts, ordered))
    return Verdict(objective, name, strategy, n, observed, *_judge_share(objective, good, n))


def _percentile_of(ordered: list[float], percent: float) -> float:
    result = percentile(ordered, percent)
    # Interpolating towards infinity gives infinity, but beside a weight of 0 it gives NaN.
    return ordered[int((len(ordered) - 1) * percent / 100)] if math.isnan(result) else result


def _judge_share(objective: Objective, good: int, n: int) -> tuple[Outcome, int | None]:
    """Return the outcome for `good` of `n` trials on the right side, and how many trials would decide."""
    outcome = _outcome_of_bounds(objective, lower_share_bound(good, n), upper_share_bound(good, n))
    return outcome, None if outcome != "too few" else _needed_trials(objective, good / n)


def _outcome_of_bounds(objective: Objective, low: float, high: float) -> Outcome:
    required = objective.required_share
    is_strict = objective.stat == "share" and objective.op in ("<", ">")
    if low > required or (low == required and not is_strict):
        return "met"
    return "missed" if high < required else "too few"


def _needed_trials(objective: Objective, share: float) -> int | None:
    """Return the smallest number of trials that decides if `share` of them is good; None if ten million do not."""

    def decides(n: int) -> bool:
        good = math.floor(share * n + 1e-9)
        low, high = lower_share_bound(good, n), upper_share_bound(math.ceil(share * n - 1e-9), n)
        return _outcome_of_bounds(objective, low, high) != "too few"

    high = 1
    while not decides(high):
        high *= 2
        if high > _MAX_ANSWERS:
            return None
    low = high // 2 + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle + 1, high)
    return low


def _judge_gaps(objective: Objective, name: str, strategy: str, cell: "pd.DataFrame", gaps: "pd.DataFrame") -> Verdict:
    """Judge gaps pooled over trials, by the wider of the exact bounds and of Student's t over whole trials."""
    own = gaps[gaps["trial_id"].isin(cell.loc[cell["outcome"] == "completed", "trial_id"])]
    values = sorted(map(float, own["gap_s"]))
    n = len(values)
    if not n:
        return Verdict(objective, name, strategy, 0, None, "too few")
    observed = percentile(values, objective.percent)
    if objective.stat == "max":
        return Verdict(objective, name, strategy, n, observed, "met" if objective.accepts(observed) else "missed")
    accepted = own["gap_s"].map(objective.accepts)
    by_trial = accepted.groupby(own["trial_id"]).agg(["sum", "count"])
    good, trials = int(accepted.sum()), len(by_trial)
    outcome, needed = _judge_share(objective, good, n)
    if trials < _MIN_GAP_TRIALS:
        return Verdict(objective, name, strategy, n, observed, "too few", -(-n * _MIN_GAP_TRIALS // trials))
    errors = by_trial["sum"] - good / n * by_trial["count"]
    half = t_quantile(0.95, trials - 1) * math.sqrt(float((errors**2).sum()) * trials / (trials - 1)) / n
    by_t = _outcome_of_bounds(objective, good / n - half, good / n + half)
    if by_t == outcome:
        return Verdict(objective, name, strategy, n, observed, outcome, needed)
    return Verdict(objective, name, strategy, n, observed, "too few", 2 * n if needed is None else max(needed, 2 * n))
