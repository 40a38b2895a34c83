"""Verdicts between providers: better, worse, equal within the margin, or unknown; one Holm family per report.

The primary metric is compared over all pairs of providers and, where a run mixed them, for fresh and for repeated
prompts apart. Only these comparisons claim anything; all other metrics are exploratory. A provider that failed clearly
more often is never called better, however soon its other answers came.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from evaluation.analysis import trial_names
from evaluation.analysis.distributions import fisher_exact
from evaluation.analysis.metric_names import DIRECTION
from evaluation.analysis.paired import LEVEL, MARGIN_S, PairedRatio, compare_pairs, holm
from evaluation.analysis.statistics import Floats
from evaluation.analysis.trial_names import Population
from evaluation.schema import TRIAL_UNITS
from evaluation.tables import Run

Verdict = Literal["better", "worse", "equal", "cannot tell"]
CANNOT_TELL: Verdict = "cannot tell"
ANSWER_TEXT = "ttfot_s"
FIRST_TOKEN = "ttft_s"
EXPLORATORY = ("ttft_s", "icl_p50_s", "output_tps", "e2e_s")
"""Further metrics in which providers are compared, without a verdict."""
MAX_FAILURE_EXCESS = 0.05
"""A provider that fails more often than the other by over 5 percentage points is not called better."""
MAX_FAILURE_SHARE = 0.5
_PAIRING_COLUMNS = (
    "trial_id", "prompt_id", "name", "provider", "model", "strategy", "transport", "level", "block", "fresh", "outcome",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How many of a provider's trials failed; cancelled trials are not counted."""

    failed: int
    trials: int

    @property
    def share(self) -> float:
        return self.failed / self.trials if self.trials else 0.0

    def exceeds(self, other: "FailureCount") -> bool:
        """Whether this provider failed too often for being called better than the other, or as good."""
        if self.share >= MAX_FAILURE_SHARE:
            return True
        if self.share <= other.share:
            return False
        is_clear = fisher_exact(self.failed, self.trials, other.failed, other.trials) < LEVEL
        return is_clear or self.share > other.share + MAX_FAILURE_EXCESS


@dataclass(frozen=True, slots=True)
class ProviderComparison:
    """One metric of provider `b` against provider `a`.

    `is_claimed` says that Holm's procedure rejects equality within a family of `comparisons`; a comparison outside of
    any family is exploratory (`comparisons` 0) and has no verdict.
    """

    a: str
    b: str
    column: str
    population: Population
    ratio: PairedRatio
    a_failures: FailureCount
    b_failures: FailureCount
    comparisons: int = 0
    is_claimed: bool = False

    @property
    def verdict(self) -> Verdict:
        """The verdict on B."""
        ratio, failed_apart = self.ratio.ratio, self.is_withheld
        if ratio is None or self.ratio.low is None or not self.comparisons or failed_apart:
            return CANNOT_TELL
        if self.ratio.is_equal:
            return "equal"
        if not self.is_claimed:
            return CANNOT_TELL
        return "better" if self._favors_b else "worse"

    @property
    def is_withheld(self) -> bool:
        """Whether failures alone forbid the verdict that the ratio would suggest."""
        if self.ratio.ratio is None or (self.ratio.low is None):
            return False
        if self.ratio.is_equal:
            return self.a_failures.exceeds(self.b_failures) or self.b_failures.exceeds(self.a_failures)
        first, second = (self.b_failures, self.a_failures) if self._favors_b else (self.a_failures, self.b_failures)
        return first.exceeds(second)

    @property
    def _favors_b(self) -> bool:
        assert self.ratio.ratio is not None
        return (self.ratio.ratio < 1) == (direction_of(self.column) == "less")

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values; differences are shares of A."""
        result = self.ratio
        return {
            "a": self.a, "b": self.b, "metric": self.column, "population": self.population,
            "difference": _finite_change(result.ratio), "low": _finite_change(result.low),
            "high": _finite_change(result.high), "pairs": result.pairs, "prompts": result.prompts,
            "basis": result.basis, "comparisons": self.comparisons, "verdict": self.verdict,
            "a_failed": self.a_failures.failed, "b_failed": self.b_failures.failed,
        }  # fmt: skip


def _finite_change(ratio: float | None) -> float | None:
    """Return a ratio as a change; None also for an infinite one, which JSON cannot hold."""
    return None if ratio is None or ratio == float("inf") else round(ratio - 1, 6)


def direction_of(column: str) -> str:
    """Return whether less, more or neither of a metric is better."""
    return DIRECTION.get(column, "less")


def primary_columns(run: Run) -> tuple[str, ...]:
    """Return the metrics that claims are made on: those of `--primary`, else the time to the first answer text.

    A run without any answer-text timestamp, from before there was one, is judged by its first token.
    """
    if chosen := run.manifest.get("primary"):
        return tuple(column for column in chosen if column in run.trials)
    return (first_text_column(run),)


def first_text_column(run: Run) -> str:
    """Return the column of the time to the first answer text, or to the first token where that is all there is."""
    return ANSWER_TEXT if run.trials[ANSWER_TEXT].notna().any() else FIRST_TOKEN


def compare_providers(run: Run) -> list[ProviderComparison]:
    """Return the comparisons that make claims: every pair of providers, by population, in the primary metrics.

    A sweep has none: its levels are no rivals.
    """
    if run.is_sweep:
        return []
    return judge_family(_iter_comparisons(run, primary_columns(run), failures=True))


def explore_providers(run: Run) -> list[ProviderComparison]:
    """Return the comparisons in all other metrics, of completed answers, without verdicts."""
    primary = primary_columns(run)
    if run.is_sweep:
        return []
    columns = [column for column in EXPLORATORY if column not in primary]
    return [entry for entry in _iter_comparisons(run, columns, failures=False) if entry.ratio.pairs]


def judge_family(comparisons: Sequence[ProviderComparison] | Iterator[ProviderComparison]) -> list[ProviderComparison]:
    """Return comparisons with their verdicts, so that a false claim is among them in at most 5 % of reports."""
    result = list(comparisons)
    testable = [one for one in result if one.ratio.low is not None]
    claimed = dict(zip(map(id, testable), holm([one.ratio.p_value for one in testable]), strict=True))
    size = max(len(testable), 1)
    return [replace(one, comparisons=size, is_claimed=claimed.get(id(one), False)) for one in result]


def failure_count(trials: pd.DataFrame) -> FailureCount:
    """Return the failures among trials; cancelled trials are left out."""
    outcomes = trials["outcome"]
    counted = outcomes[outcomes != "cancelled"]
    return FailureCount(int((counted != "completed").sum()), len(counted))


def _iter_comparisons(run: Run, columns: Sequence[str], *, failures: bool) -> Iterator[ProviderComparison]:
    trials = trial_names.add_name_column(run.trials)
    names = trial_names.names_in_order(run, trials["name"])
    if len(names) < 2:
        return
    # Selecting rows of a table with many columns takes longer than all the statistics.
    trials = trials[[column for column in trials if column in _PAIRING_COLUMNS or column in columns]]
    trials = trial_names.add_population_column(run, trials)
    trials = trials[trials["outcome"] != "cancelled"]
    for population in trial_names.populations(trials):
        own = trials[trials["population"] == population]
        counts = {name: failure_count(own[own["name"] == name]) for name in names}
        for column in columns:
            values = paired_values(own, column, population, failures=failures)
            for a, b in combinations(names, 2):
                ratio = _compare_columns(values, a, b, column)
                yield ProviderComparison(a, b, column, population, ratio, counts[a], counts[b])


def paired_values(trials: pd.DataFrame, column: str, population: Population, *, failures: bool) -> pd.DataFrame:
    """Return a column by block, prompt and everything else that pairs share, with one column for each provider.

    With `failures` a failed trial is infinitely late (or infinitely slow, where more is better); else it is unknown.
    Of fresh prompts only one strategy can be the first, so that pairs may differ in it: it does not delay a first text.
    """
    keys = ["block", "prompt_id", "transport", *(["strategy"] if population != "fresh" else [])]
    keys += [key for key in ("level",) if key in trials and trials[key].nunique() > 1]
    worst = 0.0 if direction_of(column) == "more" else float("inf")
    completed = trials["outcome"].eq("completed")
    values = trials[column].astype("float64").where(completed, worst if failures else float("nan"))
    # Sorting makes the middle of several values well defined where one of them is infinite.
    return values.groupby([*(trials[key] for key in keys), trials["name"]], observed=True).median().unstack("name")


def _compare_columns(values: pd.DataFrame, a: str, b: str, column: str) -> PairedRatio:
    if a not in values or b not in values:
        return PairedRatio(0, 0)
    first: Floats = values[a].to_numpy(dtype="float64")
    second: Floats = values[b].to_numpy(dtype="float64")
    unit = MARGIN_S if TRIAL_UNITS.get(column) == "s" else 0.0
    prompts = values.index.get_level_values("prompt_id").tolist()
    if direction_of(column) == "more":
        # Where more is better a failure is 0: of the inverse, which is compared, it is infinity.
        result = compare_pairs(invert(first), invert(second), prompts, margin_unit=0)
        return result.inverse()
    return compare_pairs(first, second, prompts, margin_unit=unit)


def invert(values: Floats) -> Floats:
    """Return the inverse of rates: times, of which a failure (rate 0) is infinite."""
    with np.errstate(divide="ignore"):
        result: Floats = 1 / values
    return result
