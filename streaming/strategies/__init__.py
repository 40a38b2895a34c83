"""Delivery strategies: pure machines that decide when text that has arrived goes on to the reader.

A machine is fed events with the time (`feed`), says when it next wants to act (`wake_at`) and is woken then (`wake`).
All of them keep the text and its order, never release before arrival, let notices and usage pass at once, and hold
nothing longer than `max_hold_s`. The terminal event leaves last, after all text.
"""

from streaming.strategies.base import Strategy
from streaming.strategies.parse import DEFAULT_STRATEGY, EXAMPLES, StrategySpec, parse

__all__ = ["DEFAULT_STRATEGY", "EXAMPLES", "Strategy", "StrategySpec", "parse"]
