"""The number of users over time for each load shape."""

import importlib

import pytest

shapes = importlib.import_module("shapes")

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("shape", "users"),
    [
        ("steady", [100, 100, 100, 100, 100, 100]),
        ("ramp", [1, 5, 25, 50, 75, 100]),
        ("spike", [25, 25, 25, 100, 25, 25]),
        ("step", [20, 20, 40, 60, 80, 100]),
        ("soak", [1, 50, 100, 100, 100, 100]),
    ],
)
def test_users_at_follows_each_shape(shape: str, users: list[int]) -> None:
    assert [shapes.users_at(shape, share, 100) for share in SHARES] == users


def test_levels_of_a_sweep_have_equal_parts_of_the_time() -> None:
    assert [shapes.level_at((1, 2, 4, 8), share) for share in (0.0, 0.24, 0.26, 0.5, 0.99, 1.0)] == [1, 1, 2, 4, 8, 8]


def test_shapes_are_distinct() -> None:
    assert len({tuple(shapes.users_at(name, share, 100) for share in SHARES) for name in shapes.SHAPES}) == 5
