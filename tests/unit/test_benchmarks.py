"""What the benchmarks say of themselves."""

import doctest

from benchmarks import _relay_figures


def test_the_relay_benchmark_says_what_set_its_limit() -> None:
    found = doctest.testmod(_relay_figures)
    assert found.attempted >= 4 and not found.failed
