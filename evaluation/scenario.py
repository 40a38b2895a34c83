"""What is to be run, and in which order: pure, seeded, blocked so that drift hits all alike."""

import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from streaming import strategies
from streaming.errors import UsageError
from streaming.messages import EFFORT_PATTERN

DEFAULT_PROMPTS = Path(__file__).parent / "prompts" / "default.jsonl"
DEFAULT_PROMPT_COUNT = 3
"""Of the prompts that ship: a short, a middling and a long answer, so that a first look takes minutes."""
IN_PROCESS = "in-process"
TRANSPORTS = (IN_PROCESS, "sse", "websocket", "openai")
"""How an answer is asked for: by this process, or of the service over one of its wires."""
ARRIVALS = ("constant", "poisson")
MAX_TRIALS = 1_000_000
MAX_RATE = 1000.0
"""Answers a second; timers of the loop have a millisecond's resolution."""


class InvalidScenarioError(UsageError):
    """What an option asks for cannot be run; `key` is the option's name in a scenario file."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(words)
        self.key = key


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question and its name in the tables; `expected_tokens`, the answer's likely length, serves estimates only."""

    id: str
    text: str
    expected_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """Every provider x strategy x transport x prompt, `repeats` times, in an order that `seed` draws.

    `concurrency` answers run at a time, each next one when one has ended (closed loop); with a `rate` they start at
    that many a second, however many are under way (open loop), evenly or as `arrivals` says. `warm_up` answers a
    provider come first and are not recorded. With `retries` 0 a failure is a failure; there is no fallback in any
    case. `temperature` None leaves it to the provider, as no `effort` does; each effort is asked for. Over a wire it is
    the service at `url` that is asked, None: one that is started for the run; it retries by its own rules. Raises
    UsageError on what cannot be run.
    """

    providers: tuple[str, ...]
    strategies: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    repeats: int = 1
    seed: int = 0
    max_tokens: int = 128
    temperature: float | None = None
    concurrency: int = 1
    rate: float | None = None
    arrivals: str = "constant"
    warm_up: int = 1
    retries: int = 0
    transport: tuple[str, ...] = (IN_PROCESS,)
    url: str | None = None
    effort: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("providers", "strategies", "prompts", "transport"):
            _check_list(name, getattr(self, name))
        for name, least in (("repeats", 1), ("max_tokens", 1), ("concurrency", 1), ("warm_up", 0), ("retries", 0)):
            if getattr(self, name) < least:
                raise InvalidScenarioError(name, f"{name.replace('_', '-')} must be at least {least}")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InvalidScenarioError("temperature", "temperature must be a number from 0 on")
        if self.trials > MAX_TRIALS:
            raise InvalidScenarioError(
                "repeats", f"{self.trials} answers are more than a run holds: ask for at most {MAX_TRIALS}"
            )
        self._check_effort()
        self._check_transport()
        self._check_load()

    def _check_effort(self) -> None:
        if len(set(self.effort)) < len(self.effort):
            raise InvalidScenarioError("effort", "effort: one is there twice")
        for name in self.effort:
            if not re.fullmatch(EFFORT_PATTERN, name):
                raise InvalidScenarioError("effort", f"effort {name[:40]!r} is no word (write for example low,high)")

    def _check_transport(self) -> None:
        for name in self.transport:
            if name not in TRANSPORTS:
                raise InvalidScenarioError(
                    "transport", f"transport {name!r} is not there: use one or more of {', '.join(TRANSPORTS)}"
                )
        if not self.service_transports:
            if self.url is not None:
                raise InvalidScenarioError("url", "url is of a service: ask it by --transport sse, websocket or openai")
            return
        if self.retries:
            raise InvalidScenarioError(
                "retries", "retries are for in-process alone: over a wire the service retries by its own rules"
            )
        if any(name.partition(":")[0] == "replay" for name in self.providers):
            raise InvalidScenarioError(
                "providers", "replay plays a file in this process, no service does: use --transport in-process alone"
            )

    def _check_load(self) -> None:
        if self.arrivals not in ARRIVALS:
            raise InvalidScenarioError(
                "arrivals", f"arrivals {self.arrivals!r} is not there: use {' or '.join(ARRIVALS)}"
            )
        if self.rate is None:
            return
        if not 0 < self.rate <= MAX_RATE:
            raise InvalidScenarioError("rate", f"rate must be more than 0 and at most {MAX_RATE:g} answers a second")
        if self.concurrency != 1:
            raise InvalidScenarioError(
                "rate", "rate and concurrency exclude each other: an open loop limits no concurrency"
            )

    @property
    def trials(self) -> int:
        """How many answers are asked for, warm-up left out."""
        cells = len(self.providers) * len(self.strategies) * len(self.transport) * max(len(self.effort), 1)
        return cells * len(self.prompts) * self.repeats

    @property
    def service_transports(self) -> tuple[str, ...]:
        """The transports over which a service is asked."""
        return tuple(name for name in self.transport if name != IN_PROCESS)


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """One trial to come; `number` counts from 1 in the order of the run, `repeat` and `block` too."""

    number: int
    block: int
    repeat: int
    prompt: Prompt
    provider: str
    strategy: str
    transport: str = IN_PROCESS
    effort: str | None = None


def plan(scenario: Scenario) -> tuple[PlannedTrial, ...]:
    """Lay out the run: a block is one prompt in one repeat, its cells are neighbours, all in shuffled order.

    Two cells of a block are thus asked within seconds of each other and may be compared as a pair, whatever drifts
    over the run. Every second block runs in the reverse order of the one before: of any two cells each comes first as
    often as the other (a provider that keeps a prompt in its cache favours the second). The same scenario gives the
    same order.
    """
    rng = random.Random(f"order {scenario.seed}")
    efforts = scenario.effort or (None,)
    cells = list(product(scenario.providers, scenario.strategies, scenario.transport, efforts))
    planned: list[PlannedTrial] = []
    block = 0
    for repeat in range(1, scenario.repeats + 1):
        for prompt in rng.sample(scenario.prompts, len(scenario.prompts)):
            block += 1
            cells = cells[::-1] if block % 2 == 0 else rng.sample(cells, len(cells))
            for cell in cells:
                planned.append(PlannedTrial(len(planned) + 1, block, repeat, prompt, *cell))
    return tuple(planned)


def strategy_names(text: str) -> tuple[str, ...]:
    """Read `direct,batch:100ms` into names as the tables show them. Raises UsageError."""
    return tuple(str(strategies.parse(name)) for name in split_names(text))


def split_names(text: str) -> tuple[str, ...]:
    """Split a list at its commas, without surrounding white space; empty parts are left out."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def full_name(provider: str, model: str | None) -> str:
    """Give the name by which a trial's provider was asked: `local` is asked by its own, whatever model it is."""
    return f"{provider}:{model}" if model and provider != "local" else provider


def transport_name(name: str, transport: str) -> str:
    """Name a provider with the wire that it is asked over."""
    return name if transport == IN_PROCESS else f"{name} over {transport}"


def at_effort(name: str, effort: str | None) -> str:
    """Return a provider's name with the effort that it was asked with."""
    return name if effort is None else f"{name} effort {effort}"


def effort_names(text: str) -> tuple[str, ...]:
    """Read `low,high`. Raises UsageError where there is none."""
    found = tuple(name.lower() for name in split_names(text))
    if not found:
        raise UsageError("effort: at least one is needed (for example low,high)")
    return found


def display_name(name: str) -> str:
    """Give a provider's name with what it must never hide: that it is simulated, or a recording."""
    remarks = {"sim": " (simulated)", "replay": " (a recording)"}
    return name + remarks.get(name.partition(":")[0], "")


def read_prompts(path: Path, count: int | None = None) -> tuple[Prompt, ...]:
    """Read prompts, one a line, or JSONL with `id` and `prompt`; the first `count` if given.

    Plain lines are called `line-1`, `line-2`… after their place in the file; blank lines are left out. Raises
    UsageError naming the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"prompts file {path}: {reason}") from None
    filled = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise UsageError(f"prompts file {path}: there is no prompt in it")
    as_json = path.suffix == ".jsonl" or filled[0][1].startswith('{"')
    prompts = [
        _prompt_from_json(line, f"{path}, line {number}") if as_json else Prompt(f"line-{number}", line)
        for number, line in filled
    ]
    for place, prompt in enumerate(prompts):
        if prompt.id in (other.id for other in prompts[:place]):
            raise UsageError(f"{path}, line {filled[place][0]}: the id {prompt.id!r} is there already")
    if count is not None and not 1 <= count <= len(prompts):
        raise UsageError(f"prompt-count must be from 1 to {len(prompts)}, as many as {path} has")
    return tuple(prompts[:count])


def _prompt_from_json(line: str, where: str) -> Prompt:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(found, dict) or not all(_is_filled(found.get(key)) for key in ("id", "prompt")):
        raise UsageError(f'{where}: needs {{"id": "…", "prompt": "…"}}, both filled')
    expected = found.get("expected_tokens")
    if expected is not None and not (isinstance(expected, int) and expected > 0 and expected is not True):
        raise UsageError(f"{where}: expected_tokens must be a whole number from 1 on")
    return Prompt(found["id"], found["prompt"], expected)


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _check_list(name: str, values: Sequence[object]) -> None:
    if not values:
        raise InvalidScenarioError(name, f"{name}: at least one is needed")
    if len(set(values)) < len(values):
        raise InvalidScenarioError(name, f"{name}: one is there twice")
