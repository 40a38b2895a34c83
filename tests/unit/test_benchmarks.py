"""The examples in the docstrings of the benchmarks."""

import doctest

from benchmarks import _relay_metrics, bills


def test_relay_benchmark_docstring_examples_pass() -> None:
    result = doctest.testmod(_relay_metrics)
    assert result.attempted >= 4 and not result.failed


def test_difference_of_list_prices_to_bills_is_shown_by_service() -> None:
    priced = bills.price_bills()
    found = bills.summarize(priced)
    assert len(priced) == 70 and sum(row["bills"] for row in found.values()) == 70
    openrouter = found["openrouter"]
    assert openrouter["listed"] >= 55 and openrouter["within_2_percent"] >= 30
    assert abs(openrouter["median_difference"]) <= 0.02
    assert abs(found["xai"]["median_difference"]) < 0.05, "thinking beside the output is priced"
