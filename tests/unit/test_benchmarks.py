"""The examples in the docstrings of the benchmarks."""

import doctest

from benchmarks import _relay_metrics


def test_relay_benchmark_docstring_examples_pass() -> None:
    result = doctest.testmod(_relay_metrics)
    assert result.attempted >= 4 and not result.failed
