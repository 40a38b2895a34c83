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


def test_shapes_are_distinct() -> None:
    assert len({tuple(shapes.users_at(name, share, 100) for share in SHARES) for name in shapes.SHAPES}) == 5
