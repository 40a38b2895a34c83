"""The lengths that a workload asked for against those that were reported, by provider and shape."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from evaluation.analysis import summary
from evaluation.tables import Run

MAX_DEVIATION = 0.10
"""A median length that is off by more is a warning."""


@dataclass(frozen=True, slots=True)
class ShapeLengths:
    """The medians over the completed trials of one provider and shape; None is unknown.

    Deviations are shares of what was asked; those of the input leave out the chat template. `cached_share` is of the
    whole prompt. `ttft_s` in seconds.
    """

    name: str
    shape: str
    population: str
    trials: int
    asked_input: float
    input: float | None
    template: float | None
    input_deviation: float | None
    asked_output: float
    output: float | None
    output_deviation: float | None
    cached_share: float | None
    ttft_s: float | None

    @property
    def is_off(self) -> bool:
        """Whether one of the lengths is off by more than is tolerated."""
        return any(abs(share or 0.0) > MAX_DEVIATION for share in (self.input_deviation, self.output_deviation))


def shape_lengths(run: Run) -> list[ShapeLengths]:
    """Return the lengths of a workload's run, one entry for each provider, shape and population of prompts."""
    if "asked_input_tokens" not in run.trials or not run.trials["asked_input_tokens"].notna().any():
        return []
    trials, names = summary.named_trials(run)
    done = trials[(trials["outcome"] == "completed") & trials["asked_input_tokens"].notna()]
    shapes = done["prompt_id"].astype("string").str.rpartition("#")[0]
    return sorted(_iter_lengths(done.assign(shape=shapes)), key=lambda own: (names.index(own.name), own.asked_input))


def _iter_lengths(done: pd.DataFrame) -> Iterator[ShapeLengths]:
    for (name, shape, population), own in done.groupby(["name", "shape", "population"], sort=False, observed=True):
        reported = own[own["token_source"] == "reported"]
        template = reported["template_tokens"]
        asked_input, asked_output = reported["asked_input_tokens"], reported["asked_output_tokens"]
        yield ShapeLengths(
            name=str(name),
            shape=str(shape),
            population=str(population),
            trials=len(own),
            asked_input=float(own["asked_input_tokens"].median()),
            input=_median(reported["input_tokens"]),
            template=_median(template),
            input_deviation=_median((reported["input_tokens"] - template - asked_input) / asked_input),
            asked_output=float(own["asked_output_tokens"].median()),
            output=_median(reported["output_tokens"]),
            output_deviation=_median((reported["output_tokens"] - asked_output) / asked_output),
            cached_share=_median(reported["cached_tokens"] / reported["input_tokens"]),
            ttft_s=_median(own["ttft_s"]),
        )


def _median(column: "pd.Series[float]") -> float | None:
    known = column.dropna()
    return float(known.median()) if len(known) else None
