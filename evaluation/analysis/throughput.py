"""Throughput, goodput and shares of failures of a run, for each provider and level of the load.

The answers of all strategies, transports and efforts of a provider share its load, so that they are counted together.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from evaluation.analysis import statistics
from evaluation.analysis.distributions import t_quantile, wilson_interval
from evaluation.analysis.slo import GAP_COLUMN, Objective, parse_slo
from evaluation.analysis.statistics import Estimate
from evaluation.metrics.load import (
    LOAD_METRIC_BY_NAME,
    LOAD_METRICS,
    MIN_ANSWERS,
    LoadAnswer,
    LoadSlice,
    add_slices,
    measure_load,
    remove_idle_time,
)
from evaluation.scenario import full_name
from evaluation.tables import Run

_RESUMED = re.compile(r"-r(\d+)$")
_LOAD_COLUMNS = (
    "run_id", "sitting", "load_name", "level", "prompt_id", "outcome", "is_good", "token_source", "input_tokens",
    "output_tokens", "start_s", "first_s", "end_s", "ttft_s", "ttft_total_s", "e2e_s",
)  # fmt: skip
"""What a level is computed from: selecting rows of the whole table takes longer than the rest."""


@dataclass(frozen=True, slots=True)
class LoadLevel:
    """One provider at one level of the load: requests per second of an open loop, else concurrent answers.

    `outcomes` counts its trials, `slices` are parts of the window of its metrics. `is_cut`: warm-up and cool-down are
    left out of the window. `is_estimated`: the tokens of some answers are only estimated. `medians` are
    those of the latencies in seconds, of an open loop from the intended start. `level` is None if it was not
    recorded.
    """

    name: str
    level: float | None
    is_open: bool
    outcomes: dict[str, int]
    slices: tuple[LoadSlice, ...]
    is_cut: bool
    is_estimated: bool
    medians: dict[str, Estimate]

    @property
    def trials(self) -> int:
        """The number of trials."""
        return sum(self.outcomes.values())

    @property
    def completed(self) -> int:
        """The number of completed trials."""
        return self.outcomes.get("completed", 0)

    @property
    def window_s(self) -> float:
        """The duration of the window in seconds."""
        return sum(part.duration_s for part in self.slices)

    @property
    def level_text(self) -> str:
        """The level in words."""
        if self.level is None:
            return "unknown load"
        return f"{self.level:g} starts/s" if self.is_open else f"{self.level:g} at a time"

    @property
    def delivered_per_s(self) -> float:
        """Goodput where there are objectives, else throughput; 0 if nothing was delivered."""
        return self.value(self.delivery_metric) or 0.0

    @property
    def delivery_metric(self) -> str:
        """The metric that a knee is about: goodput where there are objectives, else throughput."""
        return "throughput" if self.value("goodput") is None else "goodput"

    def value(self, metric: str) -> float | None:
        """Return a metric of the registry; None if it is unknown."""
        return LOAD_METRIC_BY_NAME[metric].function(add_slices(self.slices)) if self.slices else None

    def median_s(self, column: str) -> Estimate:
        """Return the median of `ttft_s` or `e2e_s`, failed trials infinitely late; n = 0 if it is unknown."""
        return self.medians.get(column, Estimate(0))

    def slice_values(self, metric: str) -> list[float]:
        """Return a metric of each slice; none if it is unknown, or there are too few answers for their spread."""
        values = [LOAD_METRIC_BY_NAME[metric].function(part) for part in self.slices]
        known = [value for value in values if value is not None]
        return known if len(known) == len(values) and self.completed >= MIN_ANSWERS else []

    def estimate(self, metric: str, confidence: float = 0.975) -> Estimate:
        """Return a metric with its interval, by Student's t over the slices; each end holds with `confidence`."""
        value, parts = self.value(metric), self.slice_values(metric)
        if value is None:
            return Estimate(0)
        if len(parts) < statistics.MIN_UNITS:
            return Estimate(self.completed, value)
        half = t_quantile(confidence, len(parts) - 1) * float(np.std(parts, ddof=1)) / math.sqrt(len(parts))
        return Estimate(self.completed, value, max(value - half, 0.0), value + half, "t over time slices")

    def outcome_shares(self) -> dict[str, tuple[float, float, float]]:
        """Return the share of each outcome among all trials but cancelled ones, with Wilson's 95 % interval."""
        counted = {name: count for name, count in self.outcomes.items() if name != "cancelled"}
        n = sum(counted.values())
        return {name: (count / n, *wilson_interval(count, n)) for name, count in counted.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the level as JSON values: a metric, and the ends of its interval, are None if unknown."""
        result: dict[str, Any] = {"name": self.name, "level": self.level, "trials": self.trials}
        result |= {"completed": self.completed, "window_s": round(self.window_s, 6), "window_cut": self.is_cut}
        for metric in LOAD_METRICS:
            estimate = self.estimate(metric.name)
            ends = {
                metric.name: estimate.value,
                f"{metric.name}_low": estimate.low,
                f"{metric.name}_high": estimate.high,
            }
            result |= {key: None if value is None else round(value, 9) for key, value in ends.items()}
        for name, estimate in self.medians.items():
            value = estimate.value
            result[f"{name}_p50"] = None if value is None or math.isinf(value) else round(value, 9)
        failed, low, high = _failed_share(self.outcomes)
        return result | {"failed_share": failed, "failed_share_low": low, "failed_share_high": high}


@dataclass(frozen=True, slots=True)
class LoadChange:
    """A load metric of one provider at one level in two runs; `ratio` is B / A with its 95 % interval, if known."""

    name: str
    level_text: str
    metric: str
    a: float
    b: float
    ratio: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the change as JSON values."""
        return asdict(self)


def compare_loads(a: Run, b: Run) -> list[LoadChange]:
    """Return the changes of every load metric from run `a` to run `b`, at each level that both have."""
    levels_a, levels_b = ({(one.name, one.level_text): one for one in load_levels(run)} for run in (a, b))
    both = [(levels_a[key], levels_b[key]) for key in levels_a if key in levels_b]
    changes = (_compare_metric(*pair, metric.name) for pair in both for metric in LOAD_METRICS)
    return [change for change in changes if change is not None]


def _compare_metric(a: LoadLevel, b: LoadLevel, metric: str) -> LoadChange | None:
    value_a, value_b = a.value(metric), b.value(metric)
    if value_a is None or value_b is None:
        return None
    unknown = LoadChange(a.name, a.level_text, metric, value_a, value_b, None, None, None)
    if value_a <= 0 or value_b <= 0:
        return unknown
    parts = a.slice_values(metric), b.slice_values(metric)
    ratio = value_b / value_a
    if min(map(len, parts)) < statistics.MIN_UNITS:
        return replace(unknown, ratio=ratio)
    errors = [float(np.std(part, ddof=1)) / math.sqrt(len(part)) / float(np.mean(part)) for part in parts]
    half = t_quantile(0.975, min(map(len, parts)) - 1) * math.hypot(*errors)
    return replace(unknown, ratio=ratio, low=ratio * math.exp(-half), high=ratio * math.exp(half))


def _failed_share(outcomes: dict[str, int]) -> tuple[float | None, float | None, float | None]:
    n = sum(outcomes.values()) - outcomes.get("cancelled", 0)
    if not n:
        return None, None, None
    failed = n - outcomes.get("completed", 0)
    low, high = wilson_interval(failed, n)
    return round(failed / n, 9), round(low, 9), round(high, 9)


def load_levels(run: Run, objectives: Sequence[Objective] | None = None) -> list[LoadLevel]:
    """Return the levels of each provider, in the order of the scenario; none for a replay, which asked nobody.

    Goodput is under `objectives`, or under those of the manifest if that is None.
    """
    if run.is_replay or not len(run.trials):
        return []
    if objectives is None:
        texts = run.manifest.get("slo") or []
        objectives = parse_slo(",".join(texts)) if texts else ()
    names = _load_names(run)
    trials = run.trials.assign(load_name=names, is_good=meets_objectives(run, objectives))
    trials = add_times(trials, run.events)[list(_LOAD_COLUMNS)]
    planned = run.manifest.get("scenario", {}).get("providers", [])
    seen = list(dict.fromkeys(names))
    ordered = sorted(seen, key=lambda name: planned.index(name) if name in planned else len(planned))
    return [
        _make_level(run, name, level, cell)
        for name in ordered
        for level, cell in trials[trials["load_name"] == name].groupby("level", dropna=False, sort=True)
    ]


def _load_names(run: Run) -> "pd.Series[str]":
    """Return the name of each trial's load: its provider, whatever the effort."""
    trials = run.trials
    if trials["name"].nunique() == 1 or len(run.manifest.get("scenario", {}).get("effort", [])) < 2:
        return trials["name"]
    pairs = zip(trials["provider"], trials["model"].fillna(""), strict=True)
    return pd.Series([full_name(*pair) for pair in pairs], trials.index, dtype="string")


def _make_level(run: Run, name: str, level: Any, cell: pd.DataFrame) -> LoadLevel:
    facts, is_load_test = run.manifest.get("scenario", {}), run.manifest.get("kind") == "load"
    is_open = facts.get("rate") is not None
    known = None if pd.isna(level) else float(level)
    if known is None and not facts.get("levels"):
        known = facts.get("rate") if is_open else facts.get("concurrency")
    streams = None if is_open else int(known or 1)
    slices: list[LoadSlice] = []
    cuts = []
    for _, sitting in cell.groupby(["run_id", "sitting"], sort=True):
        answers = list(_iter_answers(sitting))
        # The users of a load test may think between two answers, and requests of an open loop come when they come.
        parts, is_cut = measure_load(answers if is_open or is_load_test else remove_idle_time(answers), streams)
        slices += parts
        cuts.append(is_cut)
    counts = {str(outcome): int(count) for outcome, count in cell["outcome"].value_counts().items()}
    is_estimated = bool(cell["token_source"].eq("estimated").any())
    return LoadLevel(name, known, is_open, counts, tuple(slices), all(cuts), is_estimated, _medians_s(cell, is_open))


def _medians_s(trials: pd.DataFrame, is_open: bool) -> dict[str, Estimate]:
    counted = trials[trials["outcome"] != "cancelled"]
    ttft = "ttft_total_s" if is_open and counted["ttft_total_s"].notna().any() else "ttft_s"
    columns = {"ttft_s": ttft, "e2e_s": "e2e_s"}
    known = {name: column for name, column in columns.items() if counted[column].notna().any()}
    return {name: statistics.column_median(counted, column, failures=True) for name, column in known.items()}


def add_times(trials: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with the columns `start_s`, `first_s`, `end_s` and `sitting`, the resumes before them.

    A run that did not record monotonic times has those of its wall clock.
    """
    sent_s = trials["sent_monotonic_s"]
    sent_s = sent_s.fillna(trials["intended_start_s"]) if sent_s.notna().any() else _wall_clock_s(trials)
    at_s = events["source_s"].fillna(events["delivered_s"])
    last_s = _by_text(at_s.groupby(events["trial_id"], observed=True).max())
    ended_s = trials["trial_id"].map(last_s).astype("float64").fillna(trials["e2e_s"]).fillna(0.0)
    sittings = [match[1] if (match := _RESUMED.search(str(name))) else "0" for name in trials["trial_id"]]
    is_planned = trials["intended_start_s"].notna() & trials["sent_monotonic_s"].notna()
    return trials.assign(
        start_s=trials["intended_start_s"].where(is_planned, sent_s),
        first_s=sent_s + trials["ttft_s"],
        end_s=sent_s + ended_s,
        sitting=pd.Series([int(number) for number in sittings], trials.index),
    )


def _wall_clock_s(trials: pd.DataFrame) -> "pd.Series[float]":
    """Return the starts on the wall clock, in seconds since 1970."""
    started = pd.to_datetime(trials["started_at"], utc=True, format="ISO8601", errors="coerce")
    return (started - pd.Timestamp(0, tz="UTC")).dt.total_seconds()


def _iter_answers(trials: pd.DataFrame) -> Iterator[LoadAnswer]:
    columns = ["start_s", "first_s", "end_s", "outcome", "is_good", "input_tokens", "output_tokens"]
    for start_s, first_s, end_s, outcome, *rest in trials[columns].itertuples(index=False, name=None):
        if pd.isna(start_s):
            continue
        is_good, *tokens = (None if pd.isna(value) else float(value) for value in rest)
        known_first_s = None if pd.isna(first_s) else first_s
        good = None if is_good is None else bool(is_good)
        yield LoadAnswer(start_s, known_first_s, end_s, outcome == "completed", good, *tokens)


def meets_objectives(run: Run, objectives: Sequence[Objective]) -> "pd.Series[bool]":
    """Return whether each trial met every objective; NA if there are none, or what one is about is unknown for all.

    A percentile of a column is a limit on each answer's own value, one of gaps on the answer's own percentile.
    """
    trials = run.trials
    unknown = pd.Series(pd.NA, trials.index, dtype="boolean")
    own = [objective for objective in objectives if objective.stat != "load"]
    if not own:
        return unknown
    completed = (trials["outcome"] == "completed").astype("boolean")
    result = completed
    for objective in own:
        if objective.stat == "share":
            result = result & (completed if objective.column == "failed" else trials["stalls"].eq(0).fillna(False))
            continue
        values = _answer_values(run, objective)
        if not values[completed].notna().any():
            return unknown
        result = result & values.map(objective.accepts, na_action="ignore").astype("boolean").fillna(False)
    return result


def _answer_values(run: Run, objective: Objective) -> "pd.Series[float]":
    if objective.column != GAP_COLUMN:
        return run.trials[objective.column].astype("float64")
    gaps = statistics.chunk_gaps(run.events, run.trials)
    by_trial = _by_text(gaps.groupby("trial_id", observed=True)["gap_s"].quantile(objective.percent / 100))
    return run.trials["trial_id"].map(by_trial).astype("float64")


def _by_text(values: "pd.Series[float]") -> "pd.Series[float]":
    """Return values by trial with texts as their index, which the events hold as a category."""
    return values.set_axis(values.index.astype("string"))
