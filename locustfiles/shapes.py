"""The number of users over time, by the name of the `--shape`. Performs no I/O.

steady: all users from the start. ramp: evenly from one user to all, until the end. spike: a quarter of the users, all
of them in the middle fifth of the time, then a quarter again. step: five steps of a fifth each. soak: up during the
first tenth, then all users until the end.
"""

from collections.abc import Sequence

SHAPES = ("steady", "ramp", "spike", "step", "soak")
SHAPE_PHASES = 5
RAMP_SHARE = 0.1


def level_at(levels: Sequence[int], share: float) -> int:
    """Return the level of a sweep when `share` of the duration (0 to 1) has passed: each has an equal part.

    >>> [level_at((1, 2, 4), share) for share in (0, 0.33, 0.34, 0.9, 1)]
    [1, 1, 2, 4, 4]
    """
    return levels[min(int(share * len(levels)), len(levels) - 1)]


def users_at(shape: str, share: float, users: int) -> int:
    """Return the number of users when `share` of the duration (0 to 1) has passed; at least one.

    >>> [users_at("ramp", share, 100) for share in (0, 0.25, 1)], [users_at("step", share, 100) for share in (0, 0.5)]
    ([1, 25, 100], [20, 60])
    """
    if shape == "ramp":
        target = users * share
    elif shape == "step":
        target = users * min(int(share * SHAPE_PHASES) + 1, SHAPE_PHASES) / SHAPE_PHASES
    elif shape == "spike":
        target = users if abs(share - 0.5) <= 0.5 / SHAPE_PHASES else users / 4
    elif shape == "soak":
        target = users * min(share / RAMP_SHARE, 1.0)
    else:
        target = users
    return max(1, round(target))
