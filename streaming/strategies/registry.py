"""The registry of strategies: pickers, help, schemas, error texts and the guide's table follow from `STRATEGIES`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from streaming.errors import UsageError
from streaming.strategies.base import Strategy
from streaming.strategies.basic import Batch, Debounce, Direct, Whole
from streaming.strategies.pace import Pace


@dataclass(frozen=True, slots=True)
class StrategyArgument:
    """The number that follows a strategy's name after a colon.

    `letter` stands for it in help texts. `units` are the accepted units with their factor to the first one's base, the
    empty one included; `low` and `high` are the bounds in `base`.
    """

    letter: str
    units: dict[str, float]
    base: str
    low: float
    high: float


INTERVAL = StrategyArgument("W", {"ms": 0.001, "s": 1.0, "": 0.001}, "s", 0.001, 60.0)
"""A time, in seconds for the strategy, in milliseconds where a name gives no unit."""
SPEED = StrategyArgument("R", {"tps": 1.0, "": 1.0}, "tokens/s", 0.1, 10_000.0)


@dataclass(frozen=True, slots=True)
class StrategyKind:
    """One strategy. `example` is its full name with the default argument; `help` is one sentence without a full stop.

    `make` returns a new strategy, from the argument if there is one. `title` is the heading of its diagram.
    """

    example: str
    title: str
    help: str
    make: Callable[..., Strategy]
    argument: StrategyArgument | None = None

    @property
    def name(self) -> str:
        """The name before the colon."""
        return self.example.partition(":")[0]

    @property
    def form(self) -> str:
        """The name as help texts write it: `batch:W`."""
        return self.name if self.argument is None else f"{self.name}:{self.argument.letter}"


STRATEGIES: dict[str, StrategyKind] = {
    kind.name: kind
    for kind in (
        StrategyKind("direct", "Without buffering", "every delta at once", Direct),
        StrategyKind(
            "batch:100ms", "Batching", "the first text at once, then one update every 100 ms", Batch, INTERVAL
        ),
        StrategyKind(
            "debounce:100ms",
            "Debouncing",
            "text after 100 ms without new text; no text is held longer than ten times that",
            Debounce,
            INTERVAL,
        ),
        StrategyKind("pace:30tps", "Pacing", "words at an even 30 tokens/s, faster when a backlog grows", Pace, SPEED),
        StrategyKind("whole", "Not streaming", "everything at the end, like a response without streaming", Whole),
    )
}
DEFAULT_STRATEGY = STRATEGIES["batch"].example
EXAMPLES = tuple(kind.example for kind in STRATEGIES.values())


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """A validated strategy kind with its number; `build` returns a new strategy, one for each answer."""

    kind: str
    value: float | None

    def build(self) -> Strategy:
        """Return a new strategy."""
        make = STRATEGIES[self.kind].make
        return make() if self.value is None else make(self.value)

    def __str__(self) -> str:
        return self.build().name


def parse(text: str) -> StrategySpec:
    """Parse a name such as `direct`, `batch:100ms`, `batch:0.2s` or `pace`, which has its kind's default argument.

    Raises UsageError when the kind is unknown or the number is invalid or out of range.
    """
    name, _, rest = text.strip().lower().partition(":")
    kind = STRATEGIES.get(name)
    if kind is None or (rest and kind.argument is None):
        raise UsageError(f"strategy {text!r}: unknown (choose one of {', '.join(EXAMPLES)})")
    if kind.argument is None:
        return StrategySpec(name, None)
    argument, number = kind.argument, rest or kind.example.partition(":")[2]
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([a-z]{0,3})", number)
    if not match or match[2] not in argument.units:
        raise UsageError(f"strategy {text!r}: needs a number after the colon (for example {kind.example})")
    value = float(match[1]) * argument.units[match[2]]
    if not argument.low <= value <= argument.high:
        raise UsageError(f"strategy {text!r}: out of range (use {argument.low:g} to {argument.high:g} {argument.base})")
    return StrategySpec(name, value)


def describe_forms() -> str:
    """Return all strategies as help texts list them: `direct, batch:W, … or whole`."""
    *others, last = (kind.form for kind in STRATEGIES.values())
    return f"{', '.join(others)} or {last}"


def render_table() -> str:
    """Return the strategies as the Markdown table of the guide."""
    lines = ["| name | releases |", "|---|---|"]
    for kind in STRATEGIES.values():
        default = " (the default)" if kind.example == DEFAULT_STRATEGY else ""
        lines.append(f"| `{kind.example}` | {kind.help}{default} |")
    return "\n".join(lines)
