"""Exact tail probabilities and quantiles of the beta, Student's t, binomial and hypergeometric distributions.

Only the standard library is used. The regularized incomplete beta function, of which all the others are cases, is
evaluated by its continued fraction with the modified Lentz method (Numerical Recipes, 3rd edition, 6.4); tests compare
it with published tables. Quantiles are found by bisection, to about twelve digits.
"""

import math
from functools import lru_cache
from statistics import NormalDist

_MAX_TERMS = 500
_TINY = 1e-300
"""Stands for a denominator that is 0: each is a sum with 1, and so either 0 or far larger than this."""
_PRECISION = 1e-14
_BISECTIONS = 200


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return P(X <= x) of a beta distribution: the regularized incomplete beta function I_x(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _beta_fraction(x, a, b) / a
    return 1 - math.exp(log_front) * _beta_fraction(1 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or _TINY)
    result = d
    for m in range(1, _MAX_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + term * d or _TINY), 1 + term / c or _TINY
            result *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return result


def beta_quantile(p: float, a: float, b: float) -> float:
    """Return the x with P(X <= x) = p of a beta distribution."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_cdf(middle, a, b) < p else (low, middle)
        if high - low < _PRECISION:
            break
    return (low + high) / 2


def t_tail(t: float, df: float) -> float:
    """Return P(T >= t) of Student's t distribution."""
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    half = beta_cdf(df / (df + t * t), df / 2, 0.5) / 2
    return half if t >= 0 else 1 - half


@lru_cache(maxsize=4096)
def t_quantile(p: float, df: float) -> float:
    """Return the t with P(T <= t) = p of Student's t distribution.

    >>> round(t_quantile(0.975, 23), 3)
    2.069
    """
    if p < 0.5:
        return -t_quantile(1 - p, df)
    x = beta_quantile(2 * (1 - p), df / 2, 0.5)
    return math.sqrt(df * (1 - x) / x) if x > 0 else math.inf


def normal_cdf(z: float) -> float:
    """Return P(Z <= z) of the standard normal distribution."""
    return NormalDist().cdf(z)


@lru_cache(maxsize=65536)
def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(X <= k) for `n` draws with probability `p`."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else 1 - beta_cdf(p, k + 1, n - k)


def upper_share_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson upper bound of a share of which `k` of `n` were observed.

    >>> upper_share_bound(0, 598) < 0.005 < upper_share_bound(0, 597)
    True
    """
    return 1.0 if k >= n else beta_quantile(confidence, k + 1, n - k)


def lower_share_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson lower bound of a share of which `k` of `n` were observed."""
    return 0.0 if k <= 0 else beta_quantile(1 - confidence, k, n - k + 1)


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, for display: decisions use the exact bounds.

    >>> tuple(round(bound, 3) for bound in wilson_interval(7, 24))
    (0.149, 0.492)
    """
    z = NormalDist().inv_cdf(0.975)
    center, half = (k + z * z / 2) / (n + z * z), z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return max(center - half, 0.0), min(center + half, 1.0)


def share_difference_interval(k_a: int, n_a: int, k_b: int, n_b: int) -> tuple[float, float]:
    """Return a 95 % interval of share B - share A, from both Wilson intervals (Newcombe 1998, method 10).

    >>> tuple(round(bound, 4) for bound in share_difference_interval(48, 80, 56, 70))
    (0.0524, 0.3339)
    """
    a, b = k_a / n_a, k_b / n_b
    (low_a, high_a), (low_b, high_b) = wilson_interval(k_a, n_a), wilson_interval(k_b, n_b)
    return b - a - math.hypot(b - low_b, high_a - a), b - a + math.hypot(high_b - b, a - low_a)


def fisher_exact(k_a: int, n_a: int, k_b: int, n_b: int) -> float:
    """Return the two-sided p-value of Fisher's exact test that two shares are equal.

    It is the probability of all tables with the same margins that are no more probable than the observed one.

    >>> round(fisher_exact(1, 12, 9, 12), 5)  # Fisher's own example of diets
    0.00276
    """
    k = k_a + k_b

    def log_probability(x: int) -> float:
        return _log_choose(n_a, x) + _log_choose(n_b, k - x) - _log_choose(n_a + n_b, k)

    observed = log_probability(k_a)
    tables = map(log_probability, range(max(0, k - n_b), min(k, n_a) + 1))
    return min(sum(math.exp(table) for table in tables if table <= observed + 1e-7), 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
