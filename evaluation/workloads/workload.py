"""The lengths of a workload: `1000/300` is a mean of 1000 input and 300 output tokens. Pure, drawn from a seed."""

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from evaluation.prompts.prompt_file import MAX_TOKENS, BodySpec, BodyStyle, Prompt
from streaming.errors import UsageError

Spread = Literal["normal", "lognormal"]
SPREADS: tuple[Spread, ...] = ("normal", "lognormal")
PROMPTS_PER_SHAPE = 24
WORKLOAD_FORM = "MEAN[±SD]/MEAN[±SD]"
_LENGTH = r"(\d+)(?:(?:±|\+-)(\d+))?"
_MAX_SD: Mapping[Spread, int] = MappingProxyType({"normal": 1, "lognormal": 3})
"""The largest standard deviation, in means: with a larger one the lengths drawn would have another mean."""


@dataclass(frozen=True, slots=True)
class TokenLength:
    """A length in tokens: its mean and its standard deviation."""

    mean: int
    sd: int = 0

    def __str__(self) -> str:
        return f"{self.mean}±{self.sd}" if self.sd else str(self.mean)

    def draw(self, rng: random.Random, spread: Spread) -> int:
        """Return a length from 1 to `MAX_TOKENS`."""
        if not self.sd:
            return self.mean
        if spread == "normal":
            return min(max(1, round(rng.gauss(self.mean, self.sd))), MAX_TOKENS)
        variance = math.log(1 + (self.sd / self.mean) ** 2)
        drawn = round(rng.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance)))
        return min(max(1, drawn), MAX_TOKENS)


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of request: the lengths of its text and of its answer, by their spread, in a style."""

    name: str
    input: TokenLength
    output: TokenLength
    spread: Spread = "normal"
    style: BodyStyle = "prose"


PRESETS: Mapping[str, Shape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            Shape("chat", TokenLength(250, 200), TokenLength(250, 150), "lognormal"),
            Shape("rag", TokenLength(3000, 1000), TokenLength(250, 100), "lognormal"),
            Shape("long", TokenLength(16000, 4000), TokenLength(500, 150), "lognormal"),
            Shape("code", TokenLength(2000, 1500), TokenLength(400, 250), "lognormal", "code"),
        )
    }
)
"""Shapes by name: short questions, a question with passages, a long document, and code."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The shapes of a run's requests; the first `shared_prefix` of each text, a share, is that of its whole shape."""

    shapes: tuple[Shape, ...]
    shared_prefix: float = 0.0


def parse_workload(text: str, spread: Spread | None = None) -> tuple[Shape, ...]:
    """Parse shapes such as `1000±200/300±50,rag`; `spread` replaces that of each. Raises UsageError."""
    shapes = tuple(_parse_shape(part.strip()) for part in text.split(","))
    if len({shape.name for shape in shapes}) < len(shapes):
        raise UsageError(f"workload: {text[:40]!r} has a shape twice (list each once)")
    shapes = shapes if spread is None else tuple(replace(shape, spread=spread) for shape in shapes)
    for shape in shapes:
        most = _MAX_SD[shape.spread]
        if any(length.sd > most * length.mean for length in (shape.input, shape.output)):
            words = f"a standard deviation of at most {most} x the mean, or --spread lognormal for up to 3 x"
            raise UsageError(f"workload: {shape.name[:40]!r} is spread too wide (use {words})")
    return shapes


def _parse_shape(text: str) -> Shape:
    if text in PRESETS:
        return PRESETS[text]
    match = re.fullmatch(f"{_LENGTH}/{_LENGTH}", text)
    numbers = [int(number or 0) for number in match.groups()] if match else []
    if not numbers or not all(1 <= mean <= MAX_TOKENS for mean in numbers[::2]) or max(numbers) > MAX_TOKENS:
        choice = ", ".join(PRESETS)
        raise UsageError(
            f"workload: {text[:40]!r} is no shape (write {WORKLOAD_FORM} in tokens, as in 1000±200/300±50, or one of "
            f"{choice})"
        )
    lengths = TokenLength(*numbers[:2]), TokenLength(*numbers[2:])
    return Shape("/".join(map(str, lengths)), *lengths)


def make_prompts(workload: Workload, count: int, seed: int) -> tuple[Prompt, ...]:
    """Return `count` prompts of each shape, with the lengths that their texts and answers are to have.

    The first prompts of a larger count are those of a smaller one.
    """
    return tuple(prompt for shape in workload.shapes for prompt in _shape_prompts(shape, workload, count, seed))


def _shape_prompts(shape: Shape, workload: Workload, count: int, seed: int) -> list[Prompt]:
    rng, result = random.Random(f"lengths {seed} {shape.name}"), []
    for number in range(1, count + 1):
        tokens, answer_tokens = shape.input.draw(rng, shape.spread), shape.output.draw(rng, shape.spread)
        body = BodySpec(shape.name, tokens, round(tokens * workload.shared_prefix), shape.style)
        result.append(Prompt(f"{shape.name}#{number}", "", answer_tokens, max_tokens=answer_tokens, body=body))
    return result
