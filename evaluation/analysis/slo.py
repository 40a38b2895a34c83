"""Service-level objectives (SLOs) such as `ttft_p95<800ms,stalled<1%,failed<0.5%`: what they say, and parsing.

An objective is `<column>_p<number><op><value><unit>`, or with `max` in place of the percentile, for each provider x
strategy cell. `icl` pools the inter-chunk latencies of all completed trials. `failed` and `stalled` (with at least one
stall) are shares of the trials. A metric of the load, as in `throughput>5` or `goodput>2/s`, is that of a provider at a
level, whatever the strategy.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.metrics.load import LOAD_METRIC_BY_NAME
from evaluation.schema import TRIAL_COLUMNS, TRIAL_UNITS
from streaming.errors import UsageError

if TYPE_CHECKING:
    pass

_SHARE_COLUMNS = ("failed", "stalled")
GAP_COLUMN = "icl"
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_OBJECTIVE_PATTERN = re.compile(r"([a-z_0-9.]+?)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*([a-z%$/]*)")
_STAT_PATTERN = re.compile(r"max|p(\d+(?:\.\d+)?)")
_UNITS: dict[str, dict[str, float]] = {
    "s": {"ms": 0.001, "s": 1.0},
    "share": {"%": 0.01, "": 1.0},
    "USD": {"usd": 1.0, "$": 1.0},
    "1/s": {"": 1.0, "/s": 1.0, "tps": 1.0},
    "0-1": {"": 1.0, "%": 0.01},
    "ratio": {"": 1.0},
    "count": {"": 1.0},
}


_SHARE_UNITS = ("share", "0-1")
_IMPOSSIBLE_SHARES = (("<", 0.0), (">", 1.0), (">=", 0.0), ("<=", 1.0))
"""Limits of a share that no run, or every run, is on the right side of."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective of an SLO; `limit` is in the column's unit (seconds, USD, share of 1), `text` is the input."""

    text: str
    column: str
    stat: str
    op: str
    limit: float
    unit: str

    @property
    def percent(self) -> float:
        """The percentile; 100 for the maximum."""
        return 100.0 if self.stat == "max" else float(self.stat.removeprefix("p"))

    @property
    def required_share(self) -> float:
        """The share of the trials that must be on the right side of the limit."""
        if self.stat == "share":
            return 1 - self.limit if self.op in ("<", "<=") else self.limit
        return self.percent / 100 if self.op in ("<", "<=") else 1 - self.percent / 100

    def accepts(self, value: float) -> bool:
        """Return whether a value is on the right side of the limit."""
        return _OPERATORS[self.op](value, self.limit)


def parse_slo(text: str) -> tuple[Objective, ...]:
    """Parse an SLO. Raises UsageError when an objective is invalid."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError("slo: has no objective (use for example ttft_p95<800ms,failed<1%)")
    return tuple(map(_parse_objective, parts))


def _parse_objective(part: str) -> Objective:
    match = _OBJECTIVE_PATTERN.fullmatch(part.lower())
    if not match:
        raise UsageError(
            f"slo: {part!r} is not an objective (use <column>_p<number> or <column>_max, then <op><value><unit>, "
            "e.g. ttft_p95<800ms)"
        )
    name, op, number, unit_text = match.groups()
    column, stat, unit = _parse_target(part, name)
    if unit_text not in _UNITS[unit]:
        units = " or ".join(repr(known) for known in _UNITS[unit])
        raise UsageError(f"slo: {part!r} has no valid unit (use {units})")
    limit = float(number) * _UNITS[unit][unit_text]
    if unit in _SHARE_UNITS and (limit > 1 or (op, limit) in _IMPOSSIBLE_SHARES):
        raise UsageError(f"slo: {part!r} cannot be met or missed (use a share between 0% and 100%)")
    return Objective(part, column, stat, op, limit, unit)


def _parse_target(part: str, name: str) -> tuple[str, str, str]:
    """Return the column, the statistic and the unit."""
    if name in _SHARE_COLUMNS:
        return name, "share", "share"
    if name in LOAD_METRIC_BY_NAME:
        return name, "load", LOAD_METRIC_BY_NAME[name].unit
    stem, _, stat = name.rpartition("_")
    match = _STAT_PATTERN.fullmatch(stat)
    if not match or not stem or (match[1] and not 0 < float(match[1]) < 100):
        raise UsageError(
            f"slo: {part!r}: {name!r} is unknown (use failed, stalled, or a column with "
            "_max, _p95, _p99.9, …, or throughput, goodput)"
        )
    if stem == GAP_COLUMN:
        return GAP_COLUMN, stat, "s"
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


def format_value(value: float, unit: str) -> str:
    """Return a value in the unit of its objective, for people."""
    if math.isinf(value):
        return "never (failed trials)"
    if unit == "s":
        return f"{value * 1000:.4g} ms" if value < 1e6 else f"{value:.4g} s"
    if unit in ("share", "0-1"):
        return f"{value * 100:.3g} %"
    return f"{value:.4g}{' USD' if unit == 'USD' else ''}"
