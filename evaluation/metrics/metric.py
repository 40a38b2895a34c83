"""The type of a metric: everything that tables, reports, objectives and the documentation say about one column."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from evaluation.metrics.trial_metrics import MeasuredAnswer

if TYPE_CHECKING:
    from streaming.pipeline import Outcome

MetricValue = int | float | Decimal | None
Unit = Literal["s", "count", "1/s", "0-1", "USD", "ratio"]
Direction = Literal["less", "more", "neither"]
"""Whether less or more is better."""
Scope = Literal["arrival", "delivery", "painting", "tokens", "cost", "instrument"]
"""The part of the path that a metric describes. `arrival`: the text as it came from the provider. `delivery`: the text
as the strategy passed it on to the reader. `painting`: the text as a browser painted it. `instrument`: this program and
its machine."""

_ENDED_IN_ORDER: frozenset["Outcome"] = frozenset({"completed", "empty", "refused", "filtered"})
OUTCOMES: dict[str, frozenset["Outcome"]] = {
    "any": _ENDED_IN_ORDER | {"truncated", "failed", "cancelled"},
    "received": _ENDED_IN_ORDER | {"truncated", "cancelled"},
    "ended": _ENDED_IN_ORDER,
    "completed": frozenset({"completed"}),
}
"""The outcomes of the trials that have a metric. `received`: all but failed ones. `ended`: those whose answer the
provider ended normally."""

_VALUE_TYPES: dict[str, type] = {"count": int, "USD": Decimal}


@dataclass(frozen=True, slots=True)
class Metric:
    """One numeric column of the trials.

    `title` names it in reports, `formula` defines it in words, `source` says where the definition comes from, and
    `function` computes it from one answer; None is unknown. `applies_to` is a key of `OUTCOMES`.
    """

    name: str
    title: str
    unit: Unit
    direction: Direction
    scope: Scope
    formula: str
    source: str
    function: Callable[[MeasuredAnswer], MetricValue]
    applies_to: Literal["any", "received", "ended", "completed"] = "received"

    @property
    def value_type(self) -> type:
        """The type of the values: int, float or Decimal."""
        return _VALUE_TYPES.get(self.unit, float)

    def compute(self, answer: MeasuredAnswer) -> MetricValue:
        """Return the metric of one answer; None if it is unknown or the outcome has no such metric."""
        if answer.outcome not in OUTCOMES[self.applies_to]:
            return None
        value = self.function(answer)
        return round(value, 9) if type(value) is float else value


def reported(name: str) -> Callable[[MeasuredAnswer], MetricValue]:
    """Return a metric's function that takes over a value which the backend or the provider reported."""
    return lambda answer: answer.reported.get(name)
