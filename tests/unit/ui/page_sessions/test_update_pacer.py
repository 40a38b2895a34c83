"""The rate of a page's updates, for all its answers together."""

import random
from itertools import pairwise

from ui.page_sessions.update_pacer import UPDATES_PER_S, UpdatePacer


def test_reserved_updates_are_never_closer_than_the_rate_allows() -> None:
    rng, pacer, now = random.Random(3), UpdatePacer(), 0.0
    due_s = []
    for _ in range(500):
        now += rng.expovariate(100)
        due_s.append(pacer.reserve(now))
        assert due_s[-1] >= now
    assert min(b - a for a, b in pairwise(due_s)) >= 1 / UPDATES_PER_S - 1e-9


def test_update_after_a_pause_is_due_at_once() -> None:
    pacer = UpdatePacer(10)
    assert [pacer.reserve(0.0), pacer.reserve(0.0), pacer.reserve(5.0)] == [0.0, 0.1, 5.0]
