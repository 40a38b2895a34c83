"""The arrival processes of an open loop: when its requests start. Pure, drawn from a seed."""

import random
from itertools import accumulate

ARRIVALS = ("constant", "poisson", "gamma")
TRACE = "trace"
"""The arrivals of a request trace, which its prompts have."""
MIN_BURSTINESS, MAX_BURSTINESS = 0.001, 1000.0


def find_problem(arrivals: str, burstiness: float | None, rate: float | None) -> tuple[str, str] | None:
    """Return the option that is wrong and why, in words; None if the arrivals can be run."""
    if arrivals not in (*ARRIVALS, TRACE):
        return "arrivals", f"arrivals: {arrivals!r} is unknown (use {', '.join(ARRIVALS[:-1])} or {ARRIVALS[-1]})"
    if rate is None and arrivals != "constant":
        return "arrivals", f"arrivals: {arrivals} needs an open loop (add a rate of requests per second)"
    if arrivals == "gamma" and burstiness is None:
        return "arrivals", "arrivals: gamma needs a burstiness (1 is poisson, less has more bursts)"
    if arrivals != "gamma" and burstiness is not None:
        return "burstiness", f"burstiness: belongs to gamma arrivals, not to {arrivals} (add --arrivals gamma)"
    if burstiness is not None and not MIN_BURSTINESS <= burstiness <= MAX_BURSTINESS:
        return "burstiness", f"burstiness: out of range (use {MIN_BURSTINESS:g} to {MAX_BURSTINESS:g}; 1 is poisson)"
    return None


def draw_offsets_s(arrivals: str, rate: float, burstiness: float | None, seed: int, count: int) -> list[float]:
    """Return the start times of `count` requests, in seconds after the first; equal for equal seeds.

    Poisson arrivals, those of independent callers, have exponential intervals with a mean of 1 / rate. Gamma arrivals
    have intervals of the same mean with a gamma distribution whose shape is the burstiness: 1 is poisson, less has more
    bursts, more is more even. The coefficient of variation is 1 / sqrt(burstiness), as in vLLM's benchmark.
    """
    mean_s = 1.0 / rate
    if arrivals == "constant":
        return [place * mean_s for place in range(count)]
    rng = random.Random(f"arrivals {seed}")
    if burstiness is None:
        gaps_s = [rng.expovariate(rate) for _ in range(count - 1)]
    else:
        gaps_s = [rng.gammavariate(burstiness, mean_s / burstiness) for _ in range(count - 1)]
    return [0.0, *accumulate(gaps_s)][:count]
