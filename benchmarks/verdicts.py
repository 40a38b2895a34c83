"""What reports claim, on runs with a known truth: coverage, false alarms, power, traps and objectives.

Run as `python -m benchmarks.verdicts`; it takes about ten minutes. Every number comes from the report's own functions,
with fixed seeds. The exit code is 1 if a promise of docs/guide/measuring.md is not kept.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks._known_truth import Design, Floats, Noise, draw_latencies, make_run
from evaluation.analysis import compare, paired, slo, slo_checks, statistics, verdicts
from evaluation.analysis.paired import LEVEL

DESIGNS = (Design(24), Design(3, 3), Design(6), Design(10, 3), Design(30))
SIGMAS = (0.1, 0.3, 0.6)
REPETITIONS = 400
RUNS = 300
LIMIT_S = 0.8
SLACK = 2.33
"""Standard errors by which a simulated share may miss its bound by chance (1 in 100)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise: a share that must be at least `low` and at most `high`, up to the error of the simulation."""

    name: str
    share: float
    n: int
    low: float = 0.0
    high: float = 1.0
    width: float | None = None

    @property
    def kept(self) -> bool:
        slack = SLACK * math.sqrt(max(self.share * (1 - self.share), 1 / self.n) / self.n)
        return self.low - slack <= self.share <= self.high + slack

    def __str__(self) -> str:
        bound = f">= {self.low:.0%}" if self.low else f"<= {self.high:.0%}"
        width = "" if self.width is None else f", median width {self.width:.0%}"
        return f"{'ok  ' if self.kept else 'MISS'} {self.name}: {self.share:.1%} ({bound}, n = {self.n}{width})"


def check_coverage(rng: np.random.Generator, design: Design, noise: Noise) -> Iterator[Finding]:
    """Yield how often the intervals of medians and of paired ratios hold the truth, where they are finite."""
    prompts, truth = design.prompt_of_block.tolist(), 1.25
    medians: list[tuple[bool, float]] = []
    ratios: list[tuple[bool, float]] = []
    center = _true_median(noise)
    for _ in range(REPETITIONS):
        a, b = draw_latencies(rng, design, (0.3, 0.3 * truth), noise)
        middle = statistics.median(a, prompts)
        if middle.low is not None and middle.high is not None:
            medians.append((middle.low <= 0.3 * center <= middle.high, middle.high / middle.low - 1))
        ratio = paired.compare_pairs(a, b, prompts)
        if ratio.low is not None and ratio.high is not None:
            ratios.append((ratio.low <= truth <= ratio.high, ratio.high / ratio.low - 1))
    label = f"{design}, sigma {noise.sigma:g}{', heavy tails' if noise.heavy else ''}"
    for what, found in (("median", medians), ("ratio", ratios)):
        width = float(np.median([size for _, size in found]))
        share = sum(holds for holds, _ in found) / len(found)
        yield Finding(f"interval of the {what}, {label}", share, len(found), 0.9 if noise.heavy else 0.93, width=width)


def _true_median(noise: Noise) -> float:
    """Return the median of one latency over that without noise: above 1 with heavy tails."""
    if not noise.heavy:
        return 1.0
    rng = np.random.default_rng(0)
    design = Design(200_000)
    (drawn,) = draw_latencies(rng, design, (1.0,), replace(noise, drift=0.0))
    return float(np.median(drawn))


def check_gap_coverage(rng: np.random.Generator) -> Iterator[Finding]:
    """Yield how often the intervals of pooled gaps, which draw whole trials, hold the truth."""
    for trials in (9, 24, 60):
        codes = np.repeat(np.arange(trials), 60)
        truth = np.percentile(np.exp(rng.normal(0, 0.3, 10**6)) * rng.exponential(0.02, 10**6), [50, 95])
        held: list[bool] = []
        for _ in range(REPETITIONS // 4):
            gaps = np.exp(rng.normal(0, 0.3, trials))[codes] * rng.exponential(0.02, len(codes))
            found = statistics.pooled_quantiles(gaps, codes, [50.0, 95.0])
            held += [
                one.low <= exact <= one.high
                for one, exact in zip(found, truth, strict=True)
                if one.low is not None and one.high is not None
            ]
        yield Finding(f"interval of pooled gaps p50 and p95, {trials} trials", sum(held) / len(held), len(held), 0.93)


def check_power(rng: np.random.Generator) -> Iterator[Finding]:
    """Yield how often a difference is found, and the wrong way round."""
    for prompts, ratio in ((24, 1.35), (60, 1.20)):
        design = Design(prompts)
        drawn = (draw_latencies(rng, design, (0.3, 0.3 * ratio), Noise()) for _ in range(4 * REPETITIONS))
        found = [paired.compare_pairs(a, b, design.prompt_of_block.tolist()) for a, b in drawn]
        claims = [one for one in found if one.p_value <= LEVEL]
        wrong = sum((one.ratio or 1) < 1 for one in claims)
        yield Finding(
            f"a difference of {ratio - 1:.0%} is found at {design}", len(claims) / len(found), len(found), 0.8
        )
        yield Finding(f"... the wrong way round at {design}", wrong / len(found), len(found), high=0.01)


def check_false_alarms(rng: np.random.Generator) -> Iterator[Finding]:
    """Yield how often reports on equal providers and comparisons of equal runs claim anything."""
    for design, noise in (
        (Design(24), Noise()),
        (Design(10, 3), Noise(interaction=0.2)),
        (Design(24), Noise(heavy=True)),
    ):
        label = f"{design}{', interaction' if noise.interaction else ''}{', heavy tails' if noise.heavy else ''}"
        alarms = {"three equal providers": 0, "two equal runs of three providers": 0}
        for _ in range(RUNS):
            runs = [
                make_run(design, dict(zip("abc", draw_latencies(rng, design, (0.3,) * 3, noise), strict=True)))
                for _ in range(2)
            ]
            claims = verdicts.compare_providers(runs[0])
            alarms["three equal providers"] += any(one.verdict in ("better", "worse") for one in claims)
            changes = compare.compare(runs[0], runs[1]).changes
            alarms["two equal runs of three providers"] += any(one.verdict in ("better", "worse") for one in changes)
        for what, count in alarms.items():
            yield Finding(f"any claim about {what}, {label}", count / RUNS, RUNS, high=0.05)


def check_traps(rng: np.random.Generator) -> Iterator[Finding]:
    """Yield the verdicts on a provider with a cache, and on one that fails on its slowest third."""
    design, cache, failing = Design(24), 0, 0
    for _ in range(RUNS):
        a: Floats = 0.8 * np.exp(rng.normal(0, 0.3, 24))
        b: Floats = 0.3 * np.exp(rng.normal(0, 0.3, 24))
        cache += verdicts.compare_providers(make_run(design, {"a": a, "b": b}))[0].verdict == "better"
        a, b = draw_latencies(rng, design, (0.1, 0.3), Noise(sigma=0.6))
        a = np.where(a > np.quantile(a, 0.69), np.inf, a)
        failing += verdicts.compare_providers(make_run(design, {"a": a, "b": b}))[0].verdict == "worse"
    yield Finding("cache trap, default design: B better", cache / RUNS, RUNS, 0.95)
    yield Finding("failure trap: A better", failing / RUNS, RUNS, high=0.0)


def check_hostile_noise(rng: np.random.Generator) -> Iterator[Finding]:
    """Yield how often equal providers are told apart under noise that no model of the comparison has."""
    prompts = list(range(24))
    kinds: dict[str, tuple[Callable[[int], Floats], float]] = {
        "Pareto tails (1.5)": (lambda n: 0.3 * (1 + rng.pareto(1.5, n)), 0.05),
        "exponential": (lambda n: rng.exponential(0.3, n), 0.05),
        "two modes": (lambda n: np.where(rng.random(n) < 0.5, 0.2, 0.8) * np.exp(rng.normal(0, 0.05, n)), 0.05),
        "cold starts, 10 % × 10": (
            lambda n: np.where(rng.random(n) < 0.1, 2, 0.2) * np.exp(rng.normal(0, 0.05, n)),
            0.05,
        ),
        "ticks of 50 ms": (lambda n: np.round(0.3 * np.exp(rng.normal(0, 0.2, n)) / 0.05) * 0.05, 0.05),
        "0.5 ms ± 0.2": (lambda n: np.abs(rng.normal(0.0005, 0.0002, n)), 0.05),
        "20 % failures each": (lambda n: np.where(rng.random(n) < 0.2, np.inf, np.exp(rng.normal(0, 0.3, n))), 0.05),
        "40 % missing": (lambda n: np.where(rng.random(n) < 0.4, np.nan, np.exp(rng.normal(0, 0.3, n))), 0.05),
        "drift, correlation 0.3": (lambda n: _draw_drift(rng, n, 0.3), 0.10),
        "drift, correlation 0.6": (lambda n: _draw_drift(rng, n, 0.6), 0.10),
    }
    for kind, (draw, most) in kinds.items():
        found = [paired.compare_pairs(draw(24), draw(24), prompts) for _ in range(4 * REPETITIONS)]
        alarms = sum(one.p_value <= LEVEL for one in found)
        yield Finding(f"claim about equal providers, 24 × 1, {kind}", alarms / len(found), len(found), high=most)
    for n in (3, 4, 5, 6):
        drawn = (np.exp(rng.normal(0, 0.3, (2, n))) for _ in range(4 * REPETITIONS))
        found = [paired.compare_pairs(a, b, range(n)) for a, b in drawn]
        alarms = sum(one.p_value <= LEVEL for one in found)
        yield Finding(f"claim about equal providers, {n} × 1", alarms / len(found), len(found), high=0.05)


def _draw_drift(rng: np.random.Generator, n: int, correlation: float) -> Floats:
    """Return latencies of a provider that is slower for some minutes at a time: an autoregressive process."""
    logs = [rng.normal(0, 0.3)]
    while len(logs) < n:
        logs.append(correlation * logs[-1] + rng.normal(0, 0.3 * math.sqrt(1 - correlation**2)))
    result: Floats = 0.3 * np.exp(np.asarray(logs))
    return result


def check_objectives(rng: np.random.Generator) -> Iterator[Finding]:
    """Yield how often `ttft_p95<800ms` is met at a true p95 above and below the limit."""
    objectives = slo.parse_slo("ttft_p95<800ms")
    for n in (59, 100, 300):
        for factor, low, high in ((1.1, 0.0, 0.05), (0.7, 0.8, 1.0)):
            if n < 100 and low:
                continue
            met = 0
            for _ in range(RUNS):
                latency_s = LIMIT_S * factor * np.exp(rng.normal(0, 0.3, n) - 1.645 * 0.3)
                met += slo_checks.check_objectives(make_run(Design(n), {"a": latency_s}), objectives)[0].met
            yield Finding(f"met at a true p95 of {factor:.0%} of the limit, n = {n}", met / RUNS, RUNS, low, high)


def main() -> int:
    """Print a line for each promise and a JSON object as the last line; return 1 if one is not kept."""
    rng, began_s = np.random.default_rng(16), time.perf_counter()
    checks: list[Callable[[], Iterator[Finding]]] = [
        (lambda design=design, noise=noise: check_coverage(rng, design, noise))  # type: ignore[misc] # bound defaults
        for design in DESIGNS
        for noise in (*(Noise(sigma=sigma) for sigma in SIGMAS), Noise(heavy=True))
    ]
    checks += [lambda: check_gap_coverage(rng), lambda: check_power(rng), lambda: check_false_alarms(rng)]
    checks += [lambda: check_hostile_noise(rng), lambda: check_traps(rng), lambda: check_objectives(rng)]
    findings = []
    for check in checks:
        for finding in check():
            print(finding, flush=True)
            findings.append(finding)
    missed = [finding.name for finding in findings if not finding.kept]
    facts = {"benchmark": "verdicts", "promises": len(findings), "missed": missed}
    print(json.dumps(facts | {"seconds": round(time.perf_counter() - began_s, 1)}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
