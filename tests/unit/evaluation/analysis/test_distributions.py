"""Exact distributions, against published tables."""

import doctest
import math

import pytest

from evaluation.analysis import distributions, paired, statistics


@pytest.mark.parametrize("module", [distributions, paired, statistics])
def test_docstring_examples_pass(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]  # typeshed wants a module, which this is
    assert result.attempted and not result.failed


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 10, 2.22814), (0.95, 23, 1.71387), (0.995, 5, 4.03214)],
)
def test_t_quantile_equals_published_table(p: float, df: int, t: float) -> None:
    assert distributions.t_quantile(p, df) == pytest.approx(t, abs=1e-4)
    assert distributions.t_quantile(1 - p, df) == pytest.approx(-t, abs=1e-4)
    assert distributions.t_tail(t, df) == pytest.approx(1 - p, abs=1e-6)


@pytest.mark.parametrize(("k", "n", "p"), [(6, 24, 0.5), (0, 10, 0.1), (9, 10, 0.9), (58, 59, 0.95), (-1, 5, 0.5)])
def test_binomial_cdf_equals_sum_of_probabilities(k: int, n: int, p: float) -> None:
    exact = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
    assert distributions.binomial_cdf(k, n, p) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 100)])
def test_clopper_pearson_bound_has_its_tail(k: int, n: int) -> None:
    upper, lower = distributions.upper_share_bound(k, n), distributions.lower_share_bound(k, n)
    assert k == n or distributions.binomial_cdf(k, n, upper) == pytest.approx(0.05, abs=1e-9)
    assert k == 0 or 1 - distributions.binomial_cdf(k - 1, n, lower) == pytest.approx(0.05, abs=1e-9)
    assert lower <= k / n <= upper


@pytest.mark.parametrize("table", [(1, 9, 11, 14), (0, 24, 7, 24), (5, 10, 5, 10), (0, 3, 3, 3)])
def test_fisher_exact_equals_enumeration(table: tuple[int, int, int, int]) -> None:
    k_a, n_a, k_b, n_b = table
    k, total = k_a + k_b, math.comb(n_a + n_b, k_a + k_b)
    weights = [math.comb(n_a, x) * math.comb(n_b, k - x) for x in range(k + 1)]
    exact = sum(weight for weight in weights if weight <= weights[k_a]) / total
    assert distributions.fisher_exact(*table) == pytest.approx(exact, rel=1e-6)
