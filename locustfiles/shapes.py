"""How many users there are at which moment, by the name given with `--shape`: pure.

steady: all of them from the start. ramp: from one to all, evenly, until the end. spike: a quarter, in the middle fifth
all of them, then a quarter again. step: five steps of a fifth. soak: up over the first tenth, then all, until the end.
"""

SHAPES = ("steady", "ramp", "spike", "step", "soak")
SHAPE_PHASES = 5
RAMP_SHARE = 0.1


def users_at(shape: str, share: float, users: int) -> int:
    """Give the number of users when `share` of the duration (0 to 1) has passed; there is always one.

    >>> [users_at("ramp", share, 100) for share in (0, 0.25, 1)], [users_at("step", share, 100) for share in (0, 0.5)]
    ([1, 25, 100], [20, 60])
    """
    if shape == "ramp":
        found = users * share
    elif shape == "step":
        found = users * min(int(share * SHAPE_PHASES) + 1, SHAPE_PHASES) / SHAPE_PHASES
    elif shape == "spike":
        found = users if abs(share - 0.5) <= 0.5 / SHAPE_PHASES else users / 4
    elif shape == "soak":
        found = users * min(share / RAMP_SHARE, 1.0)
    else:
        found = users
    return max(1, round(found))
