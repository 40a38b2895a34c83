"""Service-level objectives (SLOs) such as `ttft_p95<800ms,stalled<1%,failed<0.5%`: parsing, checking and verdicts.

An objective is `<column>_<p50|p95|p99|max><op><value><unit>` over the completed trials of each provider x strategy
cell. `icl` pools the inter-chunk latencies of all trials. `failed` (not completed) and `stalled` (at least one stall)
are shares of all trials. An objective without measured values is not met.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.metrics.cadence import percentile
from evaluation.scenario import display_name
from evaluation.schema import TRIAL_COLUMNS, TRIAL_UNITS
from streaming.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.tables import Run

_PERCENTILE_BY_STAT = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
_SHARE_COLUMNS = ("failed", "stalled")
_GAP_COLUMN = "icl"
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_OBJECTIVE_PATTERN = re.compile(r"([a-z_0-9]+)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*([a-z%$/]*)")
_UNITS: dict[str, dict[str, float]] = {
    "s": {"ms": 0.001, "s": 1.0},
    "share": {"%": 0.01, "": 1.0},
    "USD": {"usd": 1.0, "$": 1.0},
    "1/s": {"": 1.0, "/s": 1.0, "tps": 1.0},
    "0-1": {"": 1.0, "%": 0.01},
    "ratio": {"": 1.0},
    "count": {"": 1.0},
}


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective of an SLO; `limit` is in the column's unit (seconds, USD, share of 1), `text` is the input."""

    text: str
    column: str
    stat: str
    op: str
    limit: float
    unit: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of an objective in one cell of `n` values; with `value` None it was not measured, so it is not met."""

    objective: Objective
    provider: str
    strategy: str
    n: int
    value: float | None

    @property
    def met(self) -> bool:
        return self.value is not None and _OPERATORS[self.objective.op](self.value, self.objective.limit)

    def __str__(self) -> str:
        objective, where = self.objective, f"{display_name(self.provider)} × {self.strategy}"
        if self.value is None:
            return f"{objective.text}: missed, not measured ({where})"
        measurement = f"{_format_value(self.value, objective.unit)} ({where}, n = {self.n})"
        if self.met:
            return f"{objective.text}: met, {measurement}"
        over = abs(self.value - objective.limit)
        if objective.unit == "share":
            return f"{objective.text}: missed by {over * 100:.3g} percentage points: {measurement}"
        share = f" ({over / objective.limit * 100:.1f} %)" if objective.limit else ""
        return f"{objective.text}: missed by {_format_value(over, objective.unit)}{share}: {measurement}"


def parse_slo(text: str) -> tuple[Objective, ...]:
    """Parse an SLO. Raises UsageError when an objective is invalid."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError("slo: has no objective (use for example ttft_p95<800ms,failed<1%)")
    return tuple(map(_parse_objective, parts))


def check_objectives(run: "Run", objectives: tuple[Objective, ...]) -> list[Verdict]:
    """Return the verdict on every objective in every cell of a run."""
    # Imported here because SLOs are parsed before a load test, and pandas is needed only after it.
    from evaluation.analysis import statistics, summary

    trials, _ = summary.add_transport_names(run, run.trials)
    gaps = statistics.chunk_gaps(run.events) if any(o.column == _GAP_COLUMN for o in objectives) else None
    cells = [((str(n), str(s)), cell) for (n, s), cell in trials.groupby(["name", "strategy"], sort=False)]
    if not cells:
        return [Verdict(objective, "no provider", "no trial", 0, None) for objective in objectives]
    return [
        Verdict(objective, name, strategy, *_measure_objective(objective, cell, gaps))
        for objective in objectives
        for (name, strategy), cell in cells
    ]


def _measure_objective(
    objective: Objective, cell: "pd.DataFrame", gaps: "pd.DataFrame | None"
) -> tuple[int, float | None]:
    if objective.column in _SHARE_COLUMNS:
        failed = cell["outcome"] != "completed"
        result = failed if objective.column == "failed" else (cell["stalls"] > 0).fillna(False)
        return len(cell), float(result.mean())
    done = cell[cell["outcome"] == "completed"]
    if objective.column == _GAP_COLUMN:
        assert gaps is not None
        values = sorted(map(float, gaps.loc[gaps["trial_id"].isin(done["trial_id"]), "gap_s"]))
    else:
        values = sorted(map(float, done[objective.column].dropna()))
    return len(values), percentile(values, _PERCENTILE_BY_STAT[objective.stat]) if values else None


def _parse_objective(part: str) -> Objective:
    match = _OBJECTIVE_PATTERN.fullmatch(part.lower())
    if not match:
        raise UsageError(
            f"slo: {part!r} is not an objective (use <column>_<p50|p95|p99|max><op><value><unit>, e.g. ttft_p95<800ms)"
        )
    name, op, number, unit_text = match.groups()
    column, stat, unit = _parse_target(part, name)
    if unit_text not in _UNITS[unit]:
        units = " or ".join(repr(known) for known in _UNITS[unit])
        raise UsageError(f"slo: {part!r} has no valid unit (use {units})")
    return Objective(part, column, stat, op, float(number) * _UNITS[unit][unit_text], unit)


def _parse_target(part: str, name: str) -> tuple[str, str, str]:
    """Return the column, the statistic and the unit."""
    if name in _SHARE_COLUMNS:
        return name, "share", "share"
    stem, _, stat = name.rpartition("_")
    if stat not in _PERCENTILE_BY_STAT or not stem:
        raise UsageError(
            f"slo: {part!r}: {name!r} is unknown (use failed, stalled, or a column with _p50, _p95, _p99 or _max)"
        )
    if stem == _GAP_COLUMN:
        return _GAP_COLUMN, stat, "s"
    column = _resolve_column(part, stem)
    return column, stat, TRIAL_UNITS[column]


def _resolve_column(part: str, stem: str) -> str:
    known = [name for name in TRIAL_COLUMNS if TRIAL_UNITS.get(name) in _UNITS]
    if stem in known:
        return stem
    columns = [name for name in known if name in (f"{stem}_s", f"{stem}_usd", f"{stem}_tps", f"{stem}_per_s")]
    if len(columns) == 1:
        return columns[0]
    near = columns or list(_close_matches(stem, known))
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise UsageError(f"slo: {part!r}: {'more than one' if columns else 'no'} column {stem!r}{hint}")


def _close_matches(stem: str, known: list[str]) -> Iterator[str]:
    import difflib

    yield from difflib.get_close_matches(stem, known, n=2)


def _format_value(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1000:.4g} ms" if value < 1e6 else f"{value:.4g} s"
    if unit in ("share", "0-1"):
        return f"{value * 100:.3g} %"
    return f"{value:.4g}{' USD' if unit == 'USD' else ''}"
