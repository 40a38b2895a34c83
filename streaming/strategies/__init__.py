"""Delivery strategies: state machines without I/O that decide when text is released to the reader.

A strategy receives each event with its timestamp (`feed`), reports when it next needs to act (`wake_at`), and is called
at that time (`wake`). Every strategy keeps the text and its order, passes notices and usage on at once, and holds no
text longer than `max_hold_s`. The terminal event leaves last, after all text.
"""

from streaming.strategies.base import Strategy
from streaming.strategies.registry import (
    DEFAULT_STRATEGY,
    EXAMPLES,
    INTERVAL,
    STRATEGIES,
    StrategyKind,
    StrategySpec,
    describe_forms,
    parse,
)

__all__ = [
    "DEFAULT_STRATEGY",
    "EXAMPLES",
    "INTERVAL",
    "STRATEGIES",
    "Strategy",
    "StrategyKind",
    "StrategySpec",
    "describe_forms",
    "parse",
]
