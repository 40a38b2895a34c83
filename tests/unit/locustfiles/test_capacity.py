"""The search for the most streams that meet an SLO, against services whose limit is known."""

import random
from collections.abc import Callable

import pytest

from evaluation.load_test.capacity import NEAR, Search
from streaming.errors import UsageError


def searched(meets: Callable[[int], bool], first: int = 8, most: int = 4096) -> tuple[int | None, list[int]]:
    search, steps = Search(first, most), []
    while (streams := search.asked) is not None:
        steps.append(streams)
        assert len(steps) < 100, "it ends"
        assert search.found is None, "nothing is found before the end"
        search.told(meets(streams))
    return search.found, steps


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9, 50, 333, 1000, 4095])
def test_a_sharp_limit_is_found_from_below_and_within_a_twentieth(limit: int) -> None:
    found, _ = searched(lambda streams: streams <= limit)
    assert found is not None
    assert found <= limit
    assert limit - found <= max(1, limit * NEAR + 1)


def test_it_doubles_first_and_confirms_in_the_end() -> None:
    found, steps = searched(lambda streams: streams <= 40)
    assert steps[:4] == [8, 16, 32, 64]
    assert found is not None
    assert steps.count(found) >= 2, "once by chance is not found"


def test_not_even_one() -> None:
    assert searched(lambda _: False)[0] is None


def test_the_most_that_may_be_tried_can_be_the_answer() -> None:
    assert searched(lambda _: True, most=100)[0] == 100


def test_one_bad_moment_decides_nothing() -> None:
    asked: list[int] = []

    def meets(streams: int) -> bool:
        asked.append(streams)
        return streams <= 100 and len(asked) not in (2, 9)

    found, _ = searched(meets)
    assert found is not None
    assert 94 <= found <= 100


def test_two_searches_agree_within_a_tenth_where_the_limit_is_not_sharp() -> None:
    def fuzzy(seed: int) -> Callable[[int], bool]:
        draw = random.Random(seed)
        return lambda streams: draw.random() < (309 - streams) / 18  # 291: always met, 309: never

    found = [searched(fuzzy(seed))[0] or 0 for seed in range(60)]
    assert max(found) <= 1.1 * min(found)


@pytest.mark.parametrize(("first", "most"), [(0, 10), (11, 10)])
def test_what_cannot_be_searched_is_told(first: int, most: int) -> None:
    with pytest.raises(UsageError, match="--users"):
        Search(first, most)
