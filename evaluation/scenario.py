"""The scenario of a run and the order of its trials: pure, seeded, in blocks, so that drift affects all cells alike."""

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
"""The default prompts used without `--prompts`: one with a short, one with a medium and one with a long answer, so that
a first run takes minutes."""
IN_PROCESS = "in-process"
TRANSPORTS = (IN_PROCESS, "sse", "websocket", "openai")
"""How a request is sent: through the pipeline in this process, or to the service over one of its transports."""
ARRIVALS = ("constant", "poisson")
MAX_TRIALS = 1_000_000
MAX_RATE = 1000.0
"""Requests per second. The event loop's timers resolve 1 ms, so that a higher rate could not be held."""


class InvalidScenarioError(UsageError):
    """An option has a value that cannot be run; `key` is the option's name in a scenario file."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(words)
        self.key = key


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its id in the tables.

    `expected_tokens` is the likely length of the answer. It is used for cost estimates only.
    """

    id: str
    text: str
    expected_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """Every provider x strategy x transport x effort x prompt, `repeats` times, in an order drawn from `seed`.

    Closed loop (no `rate`): `concurrency` answers run at a time, and the next starts when one ends. Open loop: requests
    start at `rate` per second, however many are under way, at intervals set by `arrivals`. Each provider first answers
    `warm_up` unrecorded requests. With `retries` 0 a failed request is not retried; there is never a fallback.
    A `temperature` of None and an empty `effort` leave the setting to the provider; with several efforts each is one
    more cell. Transports other than in-process send to the service at `url`, or, if that is None, to a service started
    for the run; the service retries by its own rules. Raises InvalidScenarioError when a value cannot be run.
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
                raise InvalidScenarioError(name, f"{name.replace('_', '-')}: too small (use at least {least})")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InvalidScenarioError("temperature", "temperature: not a temperature (use a number of at least 0)")
        if self.trials > MAX_TRIALS:
            raise InvalidScenarioError(
                "repeats", f"repeats: {self.trials} trials are too many for one run (use at most {MAX_TRIALS})"
            )
        self._check_effort()
        self._check_transport()
        self._check_load()

    def _check_effort(self) -> None:
        if len(set(self.effort)) < len(self.effort):
            raise InvalidScenarioError("effort", "effort: one is repeated (list each once)")
        for name in self.effort:
            if not re.fullmatch(EFFORT_PATTERN, name):
                raise InvalidScenarioError(
                    "effort", f"effort: {name[:40]!r} is not a valid name (for example low,high)"
                )

    def _check_transport(self) -> None:
        for name in self.transport:
            if name not in TRANSPORTS:
                raise InvalidScenarioError(
                    "transport", f"transport: {name!r} is unknown (use one or more of {', '.join(TRANSPORTS)})"
                )
        if not self.service_transports:
            if self.url is not None:
                raise InvalidScenarioError(
                    "url", "url: not used by any transport (add --transport sse, websocket or openai)"
                )
            return
        if self.retries:
            raise InvalidScenarioError(
                "retries",
                "retries: only supported in-process (leave them out: the service retries by its own rules)",
            )
        if any(name.partition(":")[0] == "replay" for name in self.providers):
            raise InvalidScenarioError("providers", "replay: only supported in-process (use --transport in-process)")

    def _check_load(self) -> None:
        if self.arrivals not in ARRIVALS:
            raise InvalidScenarioError(
                "arrivals", f"arrivals: {self.arrivals!r} is unknown (use {' or '.join(ARRIVALS)})"
            )
        if self.rate is None:
            return
        if not 0 < self.rate <= MAX_RATE:
            raise InvalidScenarioError(
                "rate", f"rate: out of range (use more than 0, at most {MAX_RATE:g} requests per second)"
            )
        if self.concurrency != 1:
            raise InvalidScenarioError(
                "rate", "rate and concurrency: both are set (set one; an open loop does not limit concurrency)"
            )

    @property
    def trials(self) -> int:
        """The number of trials, without warm-up."""
        cells = len(self.providers) * len(self.strategies) * len(self.transport) * max(len(self.effort), 1)
        return cells * len(self.prompts) * self.repeats

    @property
    def level(self) -> float:
        """The load: requests per second of an open loop, else the number of concurrent answers."""
        return float(self.concurrency if self.rate is None else self.rate)

    def trial_name(self, name: str, effort: str | None) -> str:
        """Return a provider's full name for the tables, with the effort if the run varies it."""
        return at_effort(name, effort) if len(self.effort) > 1 else name

    @property
    def service_transports(self) -> tuple[str, ...]:
        """The transports that send to the service: all but in-process."""
        return tuple(name for name in self.transport if name != IN_PROCESS)


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """One planned trial; `number` counts from 1 in the order of the run, and so do `repeat` and `block`.

    `fresh`: the provider has not been asked this prompt before in the run, so that none of its caches can answer it.
    """

    number: int
    block: int
    repeat: int
    prompt: Prompt
    provider: str
    strategy: str
    transport: str = IN_PROCESS
    effort: str | None = None
    fresh: bool = True


def plan(scenario: Scenario) -> tuple[PlannedTrial, ...]:
    """Return the trials of a run in order: blocks in random order, each with its cells in random order.

    A block is one prompt in one repeat. Its cells run next to each other, within seconds, so that two of them can be
    compared as a pair whatever drifts during the run. Every second block reverses the order of the block before it, so
    that of any two cells each comes first equally often: a provider that caches prompts favors the second. Equal
    scenarios return equal orders.
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
    """Parse a list such as `direct,batch:100ms`; return the strategies' normalized names.

    Raises UsageError when a strategy is unknown.
    """
    return tuple(str(strategies.parse(name)) for name in split_names(text))


def split_names(text: str) -> tuple[str, ...]:
    """Split a comma-separated list, strip white space and drop empty parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def full_name(provider: str, model: str | None) -> str:
    """Return the provider's full name, `provider:model`; for `local` it is the name alone, whatever model it runs."""
    return f"{provider}:{model}" if model and provider != "local" else provider


def transport_name(name: str, transport: str) -> str:
    """Return a provider's name, with the transport unless it is in-process."""
    return name if transport == IN_PROCESS else f"{name} over {transport}"


def at_effort(name: str, effort: str | None) -> str:
    """Return a provider's name with the effort of the request, if any."""
    return name if effort is None else f"{name} effort {effort}"


def effort_names(text: str) -> tuple[str, ...]:
    """Parse a list such as `low,high`; return lower-case names. Raises UsageError when the list is empty."""
    names = tuple(name.lower() for name in split_names(text))
    if not names:
        raise UsageError("effort: none is named (write for example low,high)")
    return names


def display_name(name: str) -> str:
    """Return a provider's name, marked if its answers are simulated or come from a recording."""
    remarks = {"sim": " (simulated)", "replay": " (a recording)"}
    return name + remarks.get(name.partition(":")[0], "")


def read_prompts(path: Path, count: int | None = None) -> tuple[Prompt, ...]:
    """Read a file of prompts, one per line or JSONL with `id` and `prompt`; return the first `count`, or all for None.

    Prompts on plain lines get the ids `line-1`, `line-2`, … by line number. Blank lines are skipped. Raises UsageError
    with the file and the line when a prompt is invalid.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"prompts file {path}: {reason}") from None
    filled = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise UsageError(f"prompts file {path}: has no prompts (write one per line)")
    as_json = path.suffix == ".jsonl" or filled[0][1].startswith('{"')
    prompts = [
        _prompt_from_json(line, f"{path}, line {number}") if as_json else Prompt(f"line-{number}", line)
        for number, line in filled
    ]
    for place, prompt in enumerate(prompts):
        if prompt.id in (other.id for other in prompts[:place]):
            raise UsageError(f"{path}, line {filled[place][0]}: the id {prompt.id!r} is used already (use unique ids)")
    if count is not None and not 1 <= count <= len(prompts):
        raise UsageError(f"prompt-count: out of range (use 1 to {len(prompts)}, the number of prompts in {path})")
    return tuple(prompts[:count])


def _prompt_from_json(line: str, where: str) -> Prompt:
    try:
        data: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(data, dict) or not all(_is_filled(data.get(key)) for key in ("id", "prompt")):
        raise UsageError(f'{where}: id or prompt is missing or empty (write {{"id": "…", "prompt": "…"}})')
    expected = data.get("expected_tokens")
    if expected is not None and not (isinstance(expected, int) and expected > 0 and expected is not True):
        raise UsageError(f"{where}: expected_tokens is invalid (use a whole number of at least 1)")
    return Prompt(data["id"], data["prompt"], expected)


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _check_list(name: str, values: Sequence[object]) -> None:
    if not values:
        raise InvalidScenarioError(name, f"{name}: none is named (name at least one)")
    if len(set(values)) < len(values):
        raise InvalidScenarioError(name, f"{name}: one is repeated (list each once)")
