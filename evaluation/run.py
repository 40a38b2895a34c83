"""Runs a scenario: warm-up, trials in a closed or an open loop, the journal after each, an orderly end when stopped."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evaluation import manifest, resume
from evaluation.keep import Keeper
from evaluation.loads import LoadWatch, offsets_s
from evaluation.progress import RunProgress
from evaluation.record import Journal
from evaluation.resume import Start
from evaluation.scenario import Planned, Scenario, over
from evaluation.spending import Budget, quote_trial, quote_warm_up
from evaluation.stopping import until_stopped
from evaluation.trial import Access, Asked, Bench, ask_trial, in_words, prepare, rows_of, warm_up
from evaluation.wire import Wire
from streaming.clock import Clock, monotonic, utc_now
from streaming.errors import UsageError
from streaming.priority import allow_connections

if TYPE_CHECKING:
    from evaluation.service_wires import ServiceWires

TICK_S = 5.0


@dataclass(slots=True)
class Summary:
    """What a run came to: finished trials by outcome, those of earlier sittings included.

    `interrupted` when it was stopped before its end, `out_of_budget` when its ceiling stopped it, `shortfall` says in
    words that the load that was asked for was not reached.
    """

    run_id: str
    planned: int
    outcomes: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False
    out_of_budget: bool = False
    shortfall: str | None = None

    @property
    def trials(self) -> int:
        return self.outcomes.total()


def new_run_id() -> str:
    """Give a name that sorts by time and is met once."""
    return f"{utc_now()[:19].replace('-', '').replace(':', '')}-{secrets.token_hex(3)}"


async def run(
    scenario: Scenario,
    access: Access,
    folder: Path,
    *,
    start: Start | None = None,
    traces: bool = False,
    budget: Budget | None = None,
    clock: Clock = monotonic,
    mask: Callable[[str], str] = str,
    models: Mapping[str, str] = MappingProxyType({}),
    service: "ServiceWires | None" = None,
) -> Summary:
    """Run all that is left into `folder`, which `manifest.claim` has made; SIGINT and SIGTERM end it early, in order.

    `start` tells what is left of a resumed run, `traces` keeps each stream with its text, `budget` ends the run before
    its ceiling is passed, `service` is asked where the scenario has wires. A trial under way when the run was stopped
    leaves no row. Raises UsageError when the disk takes no more, or the system not so many connections.
    """
    allow_connections(scenario.concurrency if scenario.rate is None else None)
    start = start or resume.begin(new_run_id(), scenario)
    facts = start.facts
    summary = Summary(start.run_id, int(facts["trials_planned"]), Counter(trial.outcome for trial in start.finished))
    try:
        resume.repair(folder, start)
        manifest.write(folder, facts)
        with (
            closing(Wire(access, clock, service)) as wire,
            Journal(folder) as journal,
            RunProgress(summary.planned, clock, done=start.finished) as progress,
        ):
            bench = Bench(start.run_id, scenario, access, clock, mask, models=models, sitting=start.sitting)
            bench = replace(bench, wire=None if scenario.retries else wire)
            keeper = Keeper(folder, journal, traces=traces)
            work = _Work(bench, folder, keeper, progress, summary, facts, budget, LoadWatch(clock))
            summary.interrupted = await until_stopped(work.all(start.left))
        _finish(folder, facts, summary, work.load.reached(scenario), budget)
    except OSError as error:
        raise UsageError(f"{folder} takes no more ({error}); what was finished before is kept") from None
    return summary


def _finish(folder: Path, facts: dict[str, Any], summary: Summary, load: dict[str, Any], budget: Budget | None) -> None:
    if summary.trials:
        summary.shortfall = load["shortfall"]
        facts["loads"] = [*facts.get("loads", []), load]
    complete = not summary.interrupted and not summary.out_of_budget
    facts |= {"complete": complete, "interrupted": summary.interrupted, "out_of_budget": summary.out_of_budget}
    facts |= {"finished_at": utc_now(), "trials_finished": summary.trials}
    if budget is not None:
        facts |= {"max_cost_usd": str(budget.ceiling_usd), "charged_usd": str(budget.charged_usd)}
    manifest.write(folder, facts)


@dataclass(frozen=True, slots=True)
class _Work:
    bench: Bench
    folder: Path
    keeper: Keeper
    progress: RunProgress
    summary: Summary
    facts: dict[str, Any]
    budget: Budget | None
    load: LoadWatch

    async def all(self, planned: tuple[Planned, ...]) -> None:
        ticking = asyncio.create_task(self._tick())
        try:
            self.progress.say("preparing the requests")
            sittings = self.facts["instrument"] = [
                *self.facts.get("instrument", []),
                await prepare(self.bench, planned),
            ]
            self.facts["real_time_priority"] = all(sitting["real_time_priority"] for sitting in sittings)
            await self._warm_up(planned)
            if self.summary.out_of_budget:
                return
            self.progress.say("running")
            async with asyncio.TaskGroup() as trials:
                if self.bench.scenario.rate is not None:
                    await self._open_loop(planned, trials)
                else:
                    self._closed_loop(planned, trials)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            ticking.cancel()
            await self.keeper.drain()

    async def _warm_up(self, planned: tuple[Planned, ...]) -> None:
        scenario, access = self.bench.scenario, self.bench.access
        asked_for = {(trial.provider, trial.transport) for trial in planned}
        ways = [way for way in product(scenario.providers, scenario.transport) if scenario.warm_up and way in asked_for]
        for provider, transport in ways:
            name, said = over(provider, transport), []
            self.progress.say(f"warming up {name}")
            for number in range(scenario.warm_up):
                what = f"warm-up {name} {self.bench.sitting}.{number}"
                quoted = quote_warm_up(access.rates(provider), scenario, transport)
                if not await self._afford(what, quoted.at_most_usd, provider):
                    return
                asked = await warm_up(self.bench, provider, transport)
                self._settle(what, asked)
                said.append(in_words(asked))
            self.facts["warm_up"][name] = said
        manifest.write(self.folder, self.facts)

    def _closed_loop(self, planned: tuple[Planned, ...], trials: asyncio.TaskGroup) -> None:
        left = iter(planned)
        for _ in range(min(self.bench.scenario.concurrency, len(planned))):
            trials.create_task(self._worker(left))

    async def _worker(self, left: Iterator[Planned]) -> None:
        while not self.summary.out_of_budget and (planned := next(left, None)) is not None:
            if await self._afford_trial(planned):
                await self._one(planned, self.bench.clock())

    async def _open_loop(self, planned: tuple[Planned, ...], trials: asyncio.TaskGroup) -> None:
        """Start each trial when it is due, whatever is still under way; one that starts late says so in `queue_s`."""
        first_s = self.bench.clock()
        for offset_s, trial in zip(offsets_s(self.bench.scenario, len(planned)), planned, strict=True):
            await asyncio.sleep(max(first_s + offset_s - self.bench.clock(), 0.0))
            if not await self._afford_trial(trial):
                return
            trials.create_task(self._one(trial, first_s + offset_s))

    async def _one(self, planned: Planned, intended_s: float) -> None:
        self.load.started(intended_s)
        self.progress.started()
        try:
            asked = await ask_trial(self.bench, planned)
        finally:
            self.load.ended()
        self._settle(self.bench.trial_id(planned), asked)
        self.summary.outcomes[asked.outcome] += 1
        trial = await self.keeper.keep(lambda: rows_of(self.bench, planned, asked, intended_s), asked)
        self.load.kept(trial.chunks or 0)
        self.progress.finished(trial)

    async def _afford_trial(self, planned: Planned) -> bool:
        if self.budget is None:
            return True
        rates = self.bench.access.rates(planned.provider)
        quoted = quote_trial(rates, self.bench.scenario, planned)
        return await self._afford(self.bench.trial_id(planned), quoted.at_most_usd, planned.provider)

    async def _afford(self, what: str, at_most_usd: Decimal | None, provider: str) -> bool:
        """Reserve what it may cost; False ends the run: the ceiling would be passed, or might be."""
        if self.budget is None:
            return True
        if at_most_usd is not None and await self.budget.reserve(what, at_most_usd, provider):
            return True
        self.summary.out_of_budget = True
        return False

    def _settle(self, what: str, asked: Asked) -> None:
        if self.budget is not None:
            self.budget.settle(what, asked.ending.get("cost_usd"), asked.ending.get("attempts") or 1)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.progress.tick()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
