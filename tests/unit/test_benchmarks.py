"""The examples in the docstrings of the benchmarks."""

import doctest

from benchmarks import _relay_metrics


def test_relay_benchmark_docstring_examples_pass() -> None:
    found = doctest.testmod(_relay_metrics)
    assert found.attempted >= 4 and not found.failed
