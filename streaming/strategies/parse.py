"""The parser for strategy names: `direct`, `batch:100ms`, `debounce:100ms`, `pace:30tps`, `whole`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from streaming.errors import UsageError
from streaming.strategies.base import Strategy
from streaming.strategies.basic import Batch, Debounce, Direct, Whole
from streaming.strategies.pace import Pace

DEFAULT_STRATEGY = "batch:100ms"
EXAMPLES = ("direct", "batch:100ms", "debounce:100ms", "pace:30tps", "whole")


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """A validated strategy kind with its number; `build` returns a new strategy, one for each answer."""

    kind: str
    value: float | None

    def build(self) -> Strategy:
        """Return a new strategy."""
        if self.kind in _UNTIMED:
            return _UNTIMED[self.kind]()
        make, _, _, _ = _TIMED[self.kind]
        assert self.value is not None
        return make(self.value)

    def __str__(self) -> str:
        return self.build().name


_UNTIMED: dict[str, Callable[[], Strategy]] = {"direct": Direct, "whole": Whole}
_TIME_UNITS = {"ms": 0.001, "s": 1.0, "": 0.001}
_TIMED: dict[str, tuple[Callable[[float], Strategy], dict[str, float], float, float]] = {
    "batch": (Batch, _TIME_UNITS, 0.001, 60.0),
    "debounce": (Debounce, _TIME_UNITS, 0.001, 60.0),
    "pace": (Pace, {"tps": 1.0, "": 1.0}, 0.1, 10_000.0),
}
_DEFAULT_VALUES = {"batch": 0.1, "debounce": 0.1, "pace": 30.0}


def parse(text: str) -> StrategySpec:
    """Parse `direct`, `batch:100ms`, `debounce:0.2s`, `pace:30tps` or `whole`.

    A number without a unit is in milliseconds (tokens/s for `pace`). The defaults are 100 ms and 30 tokens/s.
    Raises UsageError when the kind is unknown or the number is invalid or out of range.
    """
    kind, _, rest = text.strip().lower().partition(":")
    if kind in _UNTIMED and not rest:
        return StrategySpec(kind, None)
    if kind not in _TIMED:
        raise UsageError(f"strategy {text!r}: unknown (choose one of {', '.join(EXAMPLES)})")
    _, units, low, high = _TIMED[kind]
    if not rest:
        return StrategySpec(kind, _DEFAULT_VALUES[kind])
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([a-z]{0,3})", rest)
    if not match or match[2] not in units:
        raise UsageError(f"strategy {text!r}: needs a number after the colon (for example {_example_of_kind(kind)})")
    value = float(match[1]) * units[match[2]]
    if not low <= value <= high:
        raise UsageError(
            f"strategy {text!r}: out of range (use {low:g} to {high:g} {'tokens/s' if kind == 'pace' else 's'})"
        )
    return StrategySpec(kind, value)


def _example_of_kind(kind: str) -> str:
    return next(e for e in EXAMPLES if e.startswith(kind))
