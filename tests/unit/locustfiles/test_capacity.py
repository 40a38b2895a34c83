"""The search for the most streams that meet an SLO, against services whose limit is known."""

import random
from collections.abc import Callable

import pytest

from evaluation.levels import GROWTH
from evaluation.load_test.capacity import CapacitySearch, KneeSearch
from streaming.errors import UsageError


def search_capacity(meets: Callable[[int], bool], first: int = 8, most: int = 4096) -> tuple[int | None, list[int]]:
    search, steps = CapacitySearch(first, most), []
    while (streams := search.next_streams) is not None:
        steps.append(streams)
        assert len(steps) < 100, "the search ends"
        assert search.capacity is None, "there is no result before the end"
        search.report_result(meets(streams))
    return search.capacity, steps


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9, 50, 333, 1000, 4095])
def test_search_finds_sharp_limit_from_below_within_tolerance(limit: int) -> None:
    result, _ = search_capacity(lambda streams: streams <= limit)
    assert result is not None
    assert result <= limit
    assert limit - result <= max(1, limit * GROWTH + 1)


def test_search_doubles_first_and_confirms_result() -> None:
    result, steps = search_capacity(lambda streams: streams <= 40)
    assert steps[:4] == [8, 16, 32, 64]
    assert result is not None
    assert steps.count(result) >= 2, "one success may be chance"


def test_search_without_any_success_finds_none() -> None:
    assert search_capacity(lambda _: False)[0] is None


def test_search_can_return_the_maximum() -> None:
    assert search_capacity(lambda _: True, most=100)[0] == 100


def test_search_tolerates_single_failures() -> None:
    requests: list[int] = []

    def meets(streams: int) -> bool:
        requests.append(streams)
        return streams <= 100 and len(requests) not in (2, 9)

    result, _ = search_capacity(meets)
    assert result is not None
    assert 94 <= result <= 100


def test_searches_with_fuzzy_limit_agree_within_ten_percent() -> None:
    def fuzzy_limit(seed: int) -> Callable[[int], bool]:
        draw = random.Random(seed)
        return lambda streams: draw.random() < (309 - streams) / 18  # 291: always met, 309: never

    result = [search_capacity(fuzzy_limit(seed))[0] or 0 for seed in range(60)]
    assert max(result) <= 1.1 * min(result)


@pytest.mark.parametrize(("first", "most"), [(0, 10), (11, 10)])
def test_invalid_search_range_is_rejected(first: int, most: int) -> None:
    with pytest.raises(UsageError, match="--users"):
        CapacitySearch(first, most)


def search_knee(delivered_per_s: Callable[[int], float], most: int = 4096) -> tuple[int | None, list[int]]:
    search, steps = KneeSearch(most), []
    while (streams := search.next_streams) is not None:
        steps.append(streams)
        assert len(steps) < 100, "the search ends"
        search.report_result(True, delivered_per_s(streams))
    return search.capacity, steps


@pytest.mark.parametrize("limit", [1, 3, 8, 40, 333])
def test_knee_is_where_the_service_delivers_no_more(limit: int) -> None:
    knee, steps = search_knee(lambda streams: 2.0 * min(streams, limit))
    assert knee is not None and knee == pytest.approx(limit, abs=max(1, 2 * GROWTH * limit))
    assert steps[0] == 1 and max(steps) <= 4 * limit, "it stops when the service is saturated"


def test_knee_of_a_service_that_delivers_nothing_is_none_after_one_step() -> None:
    assert search_knee(lambda _: 0.0) == (None, [1])


def test_sweep_to_less_than_one_stream_is_rejected() -> None:
    with pytest.raises(UsageError, match="--most"):
        KneeSearch(0)
