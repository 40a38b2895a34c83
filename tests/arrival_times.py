"""Arrivals compared with the sends of a simulated provider by their order: a busy machine delays, but changes no order.

The simulator logs a token directly before it is sent, and the kernel stamps it in the same system call: so it arrives
after its own entry in the log, and before that of the next token.
"""

from collections.abc import Sequence
from math import inf

from streaming.http.timed_exchange import MERGE_WINDOW_S

CLOCK_ERROR_S = 0.001
"""What the conversion of the kernel's clock may be off by."""


def assert_arrived_after_sends(at_s: Sequence[float], sent_s: Sequence[float]) -> None:
    """Assert that no token arrived before it was sent; both in seconds on CLOCK_MONOTONIC."""
    assert len(at_s) == len(sent_s)
    early = [(place, at, sent) for place, (at, sent) in enumerate(zip(at_s, sent_s, strict=True)) if at < sent]
    assert all(sent - at <= CLOCK_ERROR_S for _, at, sent in early), early


def assert_arrived_between_sends(at_s: Sequence[float], sent_s: Sequence[float]) -> None:
    """Assert also that each arrived before the next was sent. For kernel timestamps of reads that are not `merged`.

    Tokens that were sent together have the same time in the log.
    """
    assert_arrived_after_sends(at_s, sent_s)
    following = [next((later for later in sent_s if later > own), inf) for own in sent_s]
    late = [pair for pair in zip(at_s, following, strict=True) if pair[0] > pair[1] + MERGE_WINDOW_S + CLOCK_ERROR_S]
    assert late == []
