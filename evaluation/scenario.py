"""The scenario of a run and the order of its trials: pure, seeded, in blocks, so that drift affects all cells alike."""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

from evaluation import arrivals
from evaluation.metrics.experience import ReaderModel, TokenDeadlines
from evaluation.prompts.prompt_file import Prompt, Turn
from evaluation.transports import BROWSER, IN_PROCESS, TRANSPORTS, BrowserTransport, PageSelectors, transport_kind
from evaluation.workloads.request_trace import RequestTrace
from evaluation.workloads.workload import Workload
from streaming import strategies
from streaming.errors import UsageError
from streaming.messages import EFFORT_PATTERN

CONNECTIONS = ("new", "keep-alive")
"""A new connection for each request over timestamped sockets, or one that an earlier request has left open."""
MAX_TRIALS = 1_000_000
_FREE_PROVIDERS = ("local", "sim")
MAX_TEMPERATURE = 2.0
"""The highest temperature that any known provider takes."""
MAX_RETRIES = 20
MAX_RATE = 1000.0
MAX_CONCURRENCY = 10_000
"""Requests per second. The event loop's timers resolve 1 ms, so that a higher rate could not be held."""


class InvalidScenarioError(UsageError):
    """An option has a value that cannot be run; `key` is the option's name in a scenario file."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(words)
        self.key = key


@dataclass(frozen=True, slots=True)
class Scenario:
    """Every provider x strategy x transport x effort x prompt, `repeats` times, in an order drawn from `seed`.

    Closed loop (no `rate`): `concurrency` answers of each provider run at a time, and the next starts when one ends;
    with a concurrency of 1 the providers take turns, so that none disturbs another. Open loop: requests start at `rate`
    per second, however many are under way, at intervals set by `arrivals` and `burstiness`. Each provider first answers
    `warm_up` unrecorded requests. With `retries` 0 a failed request is not retried; there is never a fallback. A
    `temperature` of None and an empty `effort` leave the setting to the provider; with several efforts each is one more
    cell. Transports other than in-process send to the service at `url`, or, if that is None, to a service started for
    the run; the service retries by its own rules.

    `fresh` puts a nonce before each prompt, so that no cache answers it; None does so only where several cells of a
    provider ask the same prompt, which must not be answered from each other's cache: one nonce a cell. `warm` asks each
    prompt once unrecorded, so that every recorded trial repeats it. `deadlines` and `reader` are those of fluidity and
    QoE. A prompt's own `max_tokens` replaces that of the scenario. `page` is the page that a browser reads on, None for
    this project's own; with `stop_after_s` the browser stops each answer so long after its first text. A sweep runs at
    each of `levels`, or searches for the knee up to `sweep_to` concurrent answers: see `evaluation.levels`. The prompts
    of a `workload` have texts that are generated, by default for each trial another one, so that no cache answers. The
    turns of a conversation follow each other, `think_s` seconds after an answer: a load is then of conversations.
    Raises InvalidScenarioError when a value cannot be run.
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
    burstiness: float | None = None
    warm_up: int = 1
    retries: int = 0
    transport: tuple[str, ...] = (IN_PROCESS,)
    url: str | None = None
    effort: tuple[str, ...] = ()
    fresh: bool | None = None
    warm: bool = False
    connection: Literal["new", "keep-alive"] = "new"
    deadlines: TokenDeadlines = field(default_factory=TokenDeadlines)
    reader: ReaderModel = field(default_factory=ReaderModel)
    page: PageSelectors | None = None
    stop_after_s: float | None = None
    levels: tuple[float, ...] = ()
    sweep_to: int | None = None
    level_answers: int | None = None
    workload: Workload | None = None
    trace: RequestTrace | None = None
    think_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("providers", "strategies", "prompts", "transport"):
            _check_list(name, getattr(self, name))
        self._check_numbers()
        if self.trials > MAX_TRIALS:
            raise InvalidScenarioError(
                "repeats", f"repeats: {self.trials} trials are too many for one run (use at most {MAX_TRIALS})"
            )
        self._check_effort()
        self._check_transport()
        self._check_load()

    def _check_numbers(self) -> None:
        limits = (("repeats", 1), ("max_tokens", 1), ("concurrency", 1), ("warm_up", 0), ("retries", 0), ("seed", 0))
        for name, least in limits:
            if getattr(self, name) < least:
                raise InvalidScenarioError(name, f"{name.replace('_', '-')}: too small (use at least {least})")
        if self.retries > MAX_RETRIES:
            raise InvalidScenarioError("retries", f"retries: too many (use at most {MAX_RETRIES})")
        if self.temperature is not None and not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise InvalidScenarioError("temperature", f"temperature: out of range (use 0 to {MAX_TEMPERATURE:g})")
        if self.warm and self.fresh:
            raise InvalidScenarioError("warm", "warm and fresh exclude each other (a new prompt has no cache)")

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
            if transport_kind(name) == BROWSER:
                self._check_browser(name)
            elif name not in TRANSPORTS:
                raise InvalidScenarioError(
                    "transport", f"transport: {name!r} is unknown (use one or more of {', '.join(TRANSPORTS)})"
                )
        self._check_unused()
        if self.service_transports and self.retries:
            raise InvalidScenarioError(
                "retries",
                "retries: only supported in-process (leave them out: the service retries by its own rules)",
            )
        if self.service_transports and any(name.partition(":")[0] == "replay" for name in self.providers):
            raise InvalidScenarioError("providers", "replay: only supported in-process (use --transport in-process)")

    def _check_unused(self) -> None:
        """Raise InvalidScenarioError for an option that no transport uses."""
        if self.url is not None and not self.service_transports:
            raise InvalidScenarioError(
                "url", "url: not used by any transport (add --transport sse, websocket, openai or browser)"
            )
        for key, value in (("page_url", self.page), ("stop_after", self.stop_after_s)):
            if value is not None and not self.uses_browser:
                words = f"{key.replace('_', '-')}: not used by any transport (add --transport {BROWSER})"
                raise InvalidScenarioError(key, words)

    def _check_browser(self, name: str) -> None:
        try:
            way = BrowserTransport.parse(name)
        except UsageError as error:
            raise InvalidScenarioError("transport", str(error)) from None
        if self.concurrency != 1 or self.rate is not None:
            key = "rate" if self.rate is not None else "concurrency"
            words = f"{key}: a browser reads one answer at a time (leave it out, or use another transport)"
            raise InvalidScenarioError(key, words)
        if (way.page == "custom") != (self.page is not None):
            words = "transport: browser:custom and --page-url need each other (set both, or neither)"
            raise InvalidScenarioError("transport", words)
        if self.page is not None and len(self.providers) * len(self.strategies) > 1:
            words = "providers: the page of --page-url decides who answers (name one provider and one strategy)"
            raise InvalidScenarioError("providers", words)
        paid = [provider for provider in self.providers if provider.partition(":")[0] not in _FREE_PROVIDERS]
        if way.columns > 1 and paid:
            words = f"transport: columns ask more often than the rows say, so not of {paid[0]} (use local or sim)"
            raise InvalidScenarioError("transport", words)

    def _check_load(self) -> None:
        if self.connection not in CONNECTIONS:
            raise InvalidScenarioError(
                "connection", f"connection: {self.connection!r} is unknown (use {' or '.join(CONNECTIONS)})"
            )
        if (problem := arrivals.find_problem(self.arrivals, self.burstiness, self.rate)) is not None:
            raise InvalidScenarioError(*problem)
        if self.trace is not None and max(self.trials / len(self.prompts), len(self.levels) + 1) > 1:
            words = "trace: is sent once, as it was (name one provider, strategy, transport and effort, and no repeats)"
            raise InvalidScenarioError("trace", words)
        self._check_levels()
        if self.concurrency > MAX_CONCURRENCY:
            raise InvalidScenarioError("concurrency", f"concurrency: too many (use at most {MAX_CONCURRENCY})")
        if self.rate is None:
            return
        if not 0 < max([self.rate, *self.levels]) <= MAX_RATE:
            raise InvalidScenarioError(
                "rate", f"rate: out of range (use more than 0, at most {MAX_RATE:g} requests per second)"
            )
        if self.concurrency != 1:
            raise InvalidScenarioError(
                "rate", "rate and concurrency: both are set (set one; an open loop does not limit concurrency)"
            )

    def _check_levels(self) -> None:
        if self.level_answers is not None and not self.is_sweep:
            raise InvalidScenarioError("level_answers", "level-answers: only used by a sweep (name several levels)")
        if len(set(self.levels)) < len(self.levels):
            raise InvalidScenarioError(
                "concurrency" if self.rate is None else "rate", "levels: one is repeated (list each once)"
            )
        if self.rate is None and max([self.sweep_to or 1, *self.levels]) > MAX_CONCURRENCY:
            raise InvalidScenarioError("concurrency", f"concurrency: too many (use at most {MAX_CONCURRENCY})")

    @property
    def trials(self) -> int:
        """The number of trials, without warm-up."""
        turns = sum(1 + len(prompt.turns) for prompt in self.prompts)
        return len(self.providers) * self.cells_per_provider * turns * self.repeats

    @property
    def cells_per_provider(self) -> int:
        """The number of strategies x transports x efforts."""
        return len(self.strategies) * len(self.transport) * max(len(self.effort), 1)

    @property
    def nonce(self) -> Literal["trial", "cell"] | None:
        """What has a nonce of its own before its prompts: each trial, each cell, or None if prompts are sent as is."""
        if self.fresh or ((self.is_sweep or self.workload or self.trace) and self.fresh is None and not self.warm):
            return "trial"
        return "cell" if self.fresh is None and self.cells_per_provider > 1 else None

    @property
    def is_sweep(self) -> bool:
        """Whether the run has several levels of load."""
        return bool(self.levels) or self.sweep_to is not None

    @property
    def keeps_alive(self) -> bool:
        """Whether requests over timestamped sockets use open connections again."""
        return self.connection == "keep-alive"

    @property
    def streams(self) -> int:
        """The number of answers that a closed loop has under way at a time."""
        if self.is_sweep:
            return int(max(self.levels, default=self.sweep_to or 1)) * len(self.providers)
        return self.concurrency * (len(self.providers) if self.concurrency > 1 else 1)

    @property
    def level(self) -> float:
        """The load: requests per second of an open loop, else the number of concurrent answers."""
        return float(self.concurrency if self.rate is None else self.rate)

    def max_tokens_of(self, prompt: Prompt) -> int:
        """Return the limit of answers to a prompt: its own, or the scenario's."""
        return self.max_tokens if prompt.max_tokens is None else prompt.max_tokens

    def think_time_s(self, turn: Turn) -> float:
        """Return the seconds between an answer and the next turn: the turn's own, or the scenario's."""
        return self.think_s if turn.think_s is None else turn.think_s

    def trial_name(self, name: str, effort: str | None) -> str:
        """Return a provider's full name for the tables, with the effort if the run varies it."""
        return at_effort(name, effort) if len(self.effort) > 1 else name

    @property
    def uses_browser(self) -> bool:
        """Whether a browser reads any of the answers."""
        return any(transport_kind(name) == BROWSER for name in self.transport)

    @property
    def service_transports(self) -> tuple[str, ...]:
        """The transports that send to the service: all but in-process, and a browser on a page of its own."""
        return tuple(name for name in self.transport if name != IN_PROCESS and self.page is None)


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """One planned trial; `number` counts from 1 in the order of the run, and so do `repeat` and `block`.

    `level` is the load of a sweep, None for other runs. `turn` is that of a conversation, from 1. `nonce` names the
    nonce before the prompt: trials with equal ones have equal prompts; empty is none. `fresh`: the provider has not
    been asked this prompt, or one with this opening, before in the run, so that no cache can answer.
    """

    number: int
    block: int
    repeat: int
    prompt: Prompt
    provider: str
    strategy: str
    transport: str = IN_PROCESS
    effort: str | None = None
    level: float | None = None
    turn: int = 1
    nonce: str = ""
    fresh: bool = True


def plan(scenario: Scenario, earlier: Sequence[PlannedTrial] = ()) -> tuple[PlannedTrial, ...]:
    """Return the trials of a run in order: blocks in random order, each with its cells in random order.

    A block is one prompt in one repeat. Its cells run next to each other, within seconds, so that two of them can be
    compared as a pair whatever drifts during the run. Every second block reverses the order of the block before it, so
    that of any two cells each comes first equally often: a provider that caches prompts favors the second. Equal
    scenarios return equal orders. `earlier` are the trials of the same run when it was planned with fewer repeats or
    prompts: they keep their place, and the blocks that are new follow them. Each turn of a conversation is a block.
    """
    known = {(trial.repeat, trial.prompt.id) for trial in earlier}
    rng = random.Random(f"order {scenario.seed} {len(earlier)}" if earlier else f"order {scenario.seed}")
    efforts = scenario.effort or (None,)
    cells = list(product(scenario.providers, scenario.strategies, scenario.transport, efforts))
    planned = list(earlier)
    block, place = max((trial.block for trial in earlier), default=0), len(known)
    for repeat in range(1, scenario.repeats + 1):
        for prompt in _order_prompts(scenario, rng):
            if (repeat, prompt.id) in known:
                continue
            place += 1
            cells = cells[::-1] if place % 2 == 0 else rng.sample(cells, len(cells))
            for cell, turn in product(cells, range(1, 2 + len(prompt.turns))):
                planned.append(PlannedTrial(len(planned) + 1, block + turn, repeat, prompt, *cell, turn=turn))
            block += 1 + len(prompt.turns)
    return tuple(_mark_fresh(planned, scenario))


def _order_prompts(scenario: Scenario, rng: random.Random) -> Sequence[Prompt]:
    """Return the prompts in random order, those of a trace as they came."""
    return scenario.prompts if scenario.trace else _group_by_prefix(rng.sample(scenario.prompts, len(scenario.prompts)))


def _group_by_prefix(prompts: list[Prompt]) -> list[Prompt]:
    """Return prompts with the same shared prefix after each other, so that no other one displaces it from the cache."""
    return sorted(prompts, key=lambda prompt: prompt.body.shape if prompt.body and prompt.body.shared_tokens else "")


def _mark_fresh(planned: Iterable[PlannedTrial], scenario: Scenario) -> Iterable[PlannedTrial]:
    """Yield the trials with their nonces, and whether a cache of the provider can answer them."""
    requests: set[tuple[str, str, str]] = set()
    for trial in planned:
        cell = f"{trial.strategy} {trial.transport} {trial.effort or ''}".rstrip()
        nonce = {None: "", "cell": cell, "trial": str(trial.number)}[scenario.nonce]
        is_shared = trial.prompt.body is not None and trial.prompt.body.opening is not None
        opening = trial.provider, "" if is_shared else nonce, trial.prompt.opening
        yield replace(trial, nonce=nonce, fresh=opening not in requests and not scenario.warm and trial.turn == 1)
        requests.add(opening)


def warm_trials(scenario: Scenario, planned: Sequence[PlannedTrial]) -> tuple[PlannedTrial, ...]:
    """Return the first trial of each different request, to be asked once unrecorded if caches are to be filled."""
    if not scenario.warm:
        return ()
    first: dict[tuple[object, ...], PlannedTrial] = {}
    for trial in planned:
        first.setdefault((trial.provider, trial.strategy, trial.transport, trial.effort, trial.prompt.id), trial)
    return tuple(first.values())


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


def at_load(name: str, level: float, *, is_open: bool) -> str:
    """Return a provider's name with the load of a sweep."""
    return f"{name} at {level:g}{'/s' if is_open else ''}"


def display_name(name: str) -> str:
    """Return a provider's name, marked if its answers are simulated or come from a recording."""
    remarks = {"sim": " (simulated)", "replay": " (a recording)"}
    return name + remarks.get(name.partition(":")[0], "")


def _check_list(name: str, values: Sequence[object]) -> None:
    if not values:
        raise InvalidScenarioError(name, f"{name}: none is named (name at least one)")
    if len(set(values)) < len(values):
        raise InvalidScenarioError(name, f"{name}: one is repeated (list each once)")
