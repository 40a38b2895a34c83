"""Runs with a known truth, made from arrays in memory, for simulations of the statistics and for their tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.schema import EVENT_COLUMNS
from evaluation.tables import EVENT_DTYPES, TRIAL_DTYPES, Run

Floats = npt.NDArray[np.float64]
HEAVY_SHARE = 0.1
HEAVY_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Noise:
    """What stands between the truth and a measured latency; every part is a standard deviation of its logarithm.

    `sigma` is of trials, `prompt` of prompts (the same for every provider), `interaction` of a provider with a prompt,
    `drift` of a step of the random walk that all trials of a block share. With `heavy` one trial in ten takes 3 times
    as long.
    """

    sigma: float = 0.3
    prompt: float = 0.5
    interaction: float = 0.0
    drift: float = 0.03
    heavy: bool = False


@dataclass(frozen=True, slots=True)
class Design:
    """The size of a run: prompts, and how often each is asked."""

    prompts: int
    repeats: int = 1

    @property
    def blocks(self) -> int:
        return self.prompts * self.repeats

    @property
    def prompt_of_block(self) -> npt.NDArray[np.int64]:
        """The prompt of each block; a repeat asks all prompts before the next one begins."""
        return np.tile(np.arange(self.prompts), self.repeats)

    def __str__(self) -> str:
        return f"{self.prompts} × {self.repeats}"


def draw_latencies(rng: np.random.Generator, design: Design, medians_s: Sequence[float], noise: Noise) -> list[Floats]:
    """Return the latency of each block for each provider, in seconds."""
    prompts = design.prompt_of_block
    shared = rng.normal(0, noise.prompt, design.prompts)[prompts]
    walk = np.cumsum(rng.normal(0, noise.drift, design.blocks))
    shared = shared + walk - walk.mean()
    result = []
    for median_s in medians_s:
        own = rng.normal(0, noise.sigma, design.blocks) + rng.normal(0, noise.interaction, design.prompts)[prompts]
        if noise.heavy:
            own = own + np.log(HEAVY_FACTOR) * (rng.random(design.blocks) < HEAVY_SHARE)
        result.append(median_s * np.exp(shared + own))
    return result


def make_run(
    design: Design, latencies_s: Mapping[str, Floats], *, fresh: bool | None = True, **columns: Mapping[str, Any]
) -> Run:
    """Return a run of providers with the given times to answer text; an infinite one failed.

    `columns` are further columns, each by provider. `fresh` None leaves the column empty.
    """
    prompts = design.prompt_of_block
    frames = []
    for number, (name, latency_s) in enumerate(latencies_s.items()):
        provider, _, model = name.partition(":")
        failed = np.isinf(latency_s)
        known = np.where(failed, np.nan, latency_s)
        place = np.arange(design.blocks)
        own: dict[str, Any] = {
            "run_id": "truth",
            "trial_id": [f"truth-{block * len(latencies_s) + number:06d}" for block in place],
            "prompt_id": [f"prompt-{prompt}" for prompt in prompts],
            "name": name,
            "provider": provider,
            "model": model or None,
            "strategy": "direct",
            "transport": "in-process",
            "repeat": place // design.prompts + 1,
            "block": place + 1,
            "fresh": None if fresh is None else place < design.prompts if design.repeats > 1 else fresh,
            "outcome": np.where(failed, "failed", "completed"),
            "started_at": "2026-01-01T00:00:00.000+00:00",
            "ttft_s": known,
            "ttfot_s": known,
        }
        frames.append(pd.DataFrame(own | {column: values[name] for column, values in columns.items()}))
    trials = pd.concat(frames, ignore_index=True).reindex(columns=list(TRIAL_DTYPES)).astype(TRIAL_DTYPES)
    events = pd.DataFrame(columns=list(EVENT_COLUMNS)).astype(EVENT_DTYPES)
    scenario = {"providers": list(latencies_s), "strategies": ["direct"], "prompts": [], "repeats": design.repeats}
    return Run(trials, events, {"run_id": "truth", "complete": True, "scenario": scenario})
