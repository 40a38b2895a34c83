"""Runs a scenario: warm-up, then trials in a closed or open loop, each written to the journal when it ends."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evaluation import manifest
from evaluation.backends.base import ProviderAccess, RunResources, ServiceTarget, TimedResponse
from evaluation.backends.registry import RunBackends
from evaluation.levels import at_level, group_by_level, plan_level
from evaluation.prompts.conversation import Conversation
from evaluation.runner import resume
from evaluation.runner.budget import CostCeiling, CostEstimate, estimate_trial_cost, estimate_warm_up_cost
from evaluation.runner.conversations import begin_conversation, group_turns, prepare_next_turn
from evaluation.runner.load import LoadMonitor, arrival_offsets_s, trace_offsets_s
from evaluation.runner.progress import RunProgress
from evaluation.runner.resume import RunState
from evaluation.runner.signals import run_until_signal
from evaluation.runner.start import TrialStart
from evaluation.runner.sweep import find_next_levels
from evaluation.runner.trial import (
    ProviderEndedError,
    TrialContext,
    TrialSender,
    describe_outcome,
    prepare,
    prepare_trial,
    trial_request,
    trial_rows,
    warm_up,
)
from evaluation.runner.writer import DEFAULT_DISK_ACCESS, DiskAccess, TrialWriter, open_writer
from evaluation.scenario import PlannedTrial, Scenario, transport_name, warm_trials
from evaluation.schema import Trial
from evaluation.workloads.bodies import BodyBuilder, TokenizerFinder, find_no_tokenizer
from streaming.clock import Clock, monotonic, utc_now
from streaming.errors import UsageError
from streaming.os_limits import raise_fd_limit
from streaming.retry import RetryPolicy

TICK_INTERVAL_S = 5.0
REST_INTERVAL_S = 1.0
"""Seconds between two updates of the progress while a provider rests."""


@dataclass(slots=True)
class RunSummary:
    """The result of a run: finished trials by outcome, including those finished before it was resumed.

    `interrupted`: a signal stopped the run. `out_of_budget`: the cost ceiling stopped it. `shortfall`: in words, how
    the measured load fell short of the requested load; None if it did not. `ended_providers`: the providers whose part
    ended early, with the reason.
    """

    run_id: str
    planned: int
    outcomes: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False
    out_of_budget: bool = False
    shortfall: str | None = None
    ended_providers: dict[str, str] = field(default_factory=dict)

    @property
    def trials(self) -> int:
        return self.outcomes.total()


def new_run_id() -> str:
    """Return a unique run id that sorts by time."""
    return f"{utc_now()[:19].replace('-', '').replace(':', '')}-{secrets.token_hex(3)}"


async def run(
    scenario: Scenario,
    access: ProviderAccess,
    folder: Path,
    *,
    start: RunState | None = None,
    traces: bool = False,
    budget: CostCeiling | None = None,
    clock: Clock = monotonic,
    mask: Callable[[str], str] = str,
    models: Mapping[str, str] = MappingProxyType({}),
    service: ServiceTarget | None = None,
    tokenizers: TokenizerFinder = find_no_tokenizer,
    disk: DiskAccess = DEFAULT_DISK_ACCESS,
) -> RunSummary:
    """Run the trials that are left and write them to `folder`, created earlier by `manifest.create_run_folder`.

    `start` is the state of a resumed run, None for a new one. `traces` records each stream with its text. `budget` ends
    the run before its cost ceiling is exceeded. `service` serves all transports but in-process. `tokenizers` measures
    the texts of a workload. SIGINT and SIGTERM stop the run; trials under way leave no row. Raises UsageError for an
    unwritable folder.
    """
    raise_fd_limit(scenario.streams if scenario.rate is None else None)
    resources = RunResources(access, clock, scenario, service=service, mask=mask)
    start = start or resume.new_run(new_run_id(), scenario)
    facts, summary = start.facts, _begin_summary(start)
    try:
        resume.prepare_folder(folder, start)
        async with aclosing(RunBackends(resources)) as backends:
            sender = TrialSender(backends.send, clock, RetryPolicy(max_retries=scenario.retries))
            with open_writer(folder, disk, traces=traces) as writer, _open_progress(start, sender) as progress:
                bodies = BodyBuilder(start.run_id, tokenizers)
                shared = (start.run_id, scenario, access, clock, backends, sender, bodies)
                context = TrialContext(*shared, models=models, resume_count=start.resume_count)
                work = _TrialRunner(context, folder, writer, progress, summary, facts, budget, LoadMonitor(clock))
                summary.interrupted = await run_until_signal(work.run_all(start.left))
        _finish_manifest(work)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error}); the trials finished so far are kept") from None
    return summary


def _open_progress(start: RunState, sender: TrialSender) -> RunProgress:
    planned = int(start.facts["trials_planned"])
    return RunProgress(planned, sender.clock, done=start.finished, rests_s=lambda: sender.rests_s)


def _begin_summary(start: RunState) -> RunSummary:
    outcomes = Counter[str](trial.outcome for trial in start.finished)
    return RunSummary(start.run_id, int(start.facts["trials_planned"]), outcomes)


def _finish_manifest(work: "_TrialRunner") -> None:
    facts, summary = work.facts, work.summary
    summary.ended_providers = work.context.sender.ended
    if summary.trials and not work.context.scenario.is_sweep:
        load = work.load.summary(work.context.scenario)
        summary.shortfall = load["shortfall"]
        facts["loads"] = [*facts.get("loads", []), load]
    complete = not summary.interrupted and not summary.out_of_budget and not summary.ended_providers
    facts |= {"complete": complete, "interrupted": summary.interrupted, "out_of_budget": summary.out_of_budget}
    facts |= {"finished_at": utc_now(), "trials_finished": summary.trials, "ended_providers": summary.ended_providers}
    if work.budget is not None:
        facts |= {"max_cost_usd": str(work.budget.ceiling_usd), "charged_usd": str(work.budget.charged_usd)}
    manifest.write(work.folder, facts)


@dataclass(frozen=True, slots=True)
class _TrialRunner:
    """The trials of one run, with all that they write to and report to."""

    context: TrialContext
    folder: Path
    writer: TrialWriter
    progress: RunProgress
    summary: RunSummary
    facts: dict[str, Any]
    budget: CostCeiling | None
    load: LoadMonitor

    async def run_all(self, planned: tuple[PlannedTrial, ...]) -> None:
        ticking = asyncio.create_task(self._run_ticks())
        try:
            self.progress.set_stage("preparing the requests")
            instruments = self.facts["instrument"] = [
                *self.facts.get("instrument", []),
                await prepare(self.context, planned),
            ]
            self.facts["real_time_priority"] = all(instrument["real_time_priority"] for instrument in instruments)
            await self._run_warm_up(planned)
            self.facts["workload_texts"] = self.context.bodies.facts
            await self._fill_caches(warm_trials(self.context.scenario, planned))
            if self.summary.out_of_budget:
                return
            if self.context.scenario.is_sweep:
                await self._run_sweep(planned)
            else:
                self.progress.set_stage("running")
                await self.run_load(planned)
        except BaseExceptionGroup as group:
            raise _first_error(group) from None
        finally:
            ticking.cancel()
            await self.writer.drain()

    async def run_load(self, planned: tuple[PlannedTrial, ...]) -> None:
        """Run trials in the open or closed loop of the scenario."""
        async with asyncio.TaskGroup() as trials:
            if self.context.scenario.rate is not None:
                await self._run_open_loop(planned, trials)
            else:
                self._start_closed_loop(planned, trials)

    async def _run_sweep(self, planned: tuple[PlannedTrial, ...]) -> None:
        """Run each level, and those that the search finds next, until the knee is found or the cost ceiling reached."""
        while planned or (planned := await self._plan_next_levels()):
            for level, trials in group_by_level(planned).items():
                assert level is not None  # of a sweep each trial has one
                await self._run_level(level, trials)
                if self.summary.out_of_budget:
                    return
            planned = ()

    async def _run_level(self, level: float, planned: tuple[PlannedTrial, ...]) -> None:
        scenario = at_level(self.context.scenario, level)
        unit = "at a time" if scenario.rate is None else "starts/s"
        self.progress.set_stage(f"load of {level:g} {unit}")
        load = LoadMonitor(self.context.clock)
        await replace(self, context=replace(self.context, scenario=scenario), load=load).run_load(planned)
        result = {"level": level} | load.summary(scenario)
        self.facts["loads"] = [*self.facts.get("loads", []), result]
        self.summary.shortfall = self.summary.shortfall or result["shortfall"]

    async def _plan_next_levels(self) -> tuple[PlannedTrial, ...]:
        """Return the trials of the levels that the search tries next, and note them in the manifest."""
        scenario = self.context.scenario
        if scenario.sweep_to is None:
            return ()
        earlier = resume.planned_earlier(self.facts, scenario)
        planned: tuple[PlannedTrial, ...] = ()
        for provider, level in find_next_levels(self.folder, scenario, self.context.sender.ended).items():
            planned += plan_level(scenario, level, (*earlier, *planned), [provider])
        for trial in planned:
            await prepare_trial(self.context, trial)
        self.facts.update(manifest.plan_facts(scenario, (*earlier, *planned)))
        self.summary.planned += len(planned)
        self.progress.set_total(self.summary.planned)
        manifest.write(self.folder, self.facts)
        return planned

    async def _run_warm_up(self, planned: tuple[PlannedTrial, ...]) -> None:
        scenario, access = self.context.scenario, self.context.access
        combinations = {(trial.provider, trial.transport) for trial in planned}
        pairs = [
            pair
            for pair in product(scenario.providers, scenario.transport)
            if scenario.warm_up and pair in combinations
        ]
        for provider, transport in pairs:
            name, outcomes = transport_name(provider, transport), []
            self.progress.set_stage(f"warming up {name}")
            for number in range(scenario.warm_up):
                what = f"warm-up {name} {self.context.resume_count}.{number}"
                quoted = estimate_warm_up_cost(access.cost_model(provider), scenario, transport)
                if not await self._reserve(what, quoted, provider):
                    return
                response = await self._send(what, warm_up(self.context, provider, transport))
                outcomes.append(describe_outcome(response) if response else self.context.sender.ended[provider])
            self.facts["warm_up"][name] = outcomes
        manifest.write(self.folder, self.facts)

    async def _fill_caches(self, planned: tuple[PlannedTrial, ...]) -> None:
        """Ask each of these once, unrecorded, as many at a time as the trials will be."""

        async def ask(left: Iterator[tuple[PlannedTrial, ...]]) -> None:
            while not self.summary.out_of_budget and (turns := next(left, None)) is not None:
                trial = turns[0]
                what = f"warm {self.context.trial_id(trial)}"
                quoted = estimate_trial_cost(
                    self.context.access.cost_model(trial.provider), self.context.scenario, trial
                )
                if await self._reserve(what, quoted, trial.provider):
                    await self._send(what, self.context.sender.send(trial_request(self.context, trial)))

        if planned:
            self.progress.set_stage("filling the caches")
        async with asyncio.TaskGroup() as warming:
            for left in self._share_out(planned):
                warming.create_task(ask(left))

    def _start_closed_loop(self, planned: tuple[PlannedTrial, ...], trials: asyncio.TaskGroup) -> None:
        for left in self._share_out(planned):
            trials.create_task(self._run_worker(left, trials))

    def _share_out(self, planned: tuple[PlannedTrial, ...]) -> Iterator[Iterator[tuple[PlannedTrial, ...]]]:
        """Yield a source of conversations for each worker: `concurrency` workers share those of a provider, in order.

        One worker alone has those of all providers, which take turns and so do not disturb each other.
        """
        concurrency, conversations = self.context.scenario.concurrency, group_turns(planned)
        if concurrency == 1:
            yield iter(conversations)
            return
        for provider in self.context.scenario.providers:
            own = [turns for turns in conversations if turns[0].provider == provider]
            yield from [iter(own)] * min(concurrency, len(own))

    async def _run_worker(self, left: Iterator[tuple[PlannedTrial, ...]], trials: asyncio.TaskGroup) -> None:
        while not self.summary.out_of_budget and (turns := next(left, None)) is not None:
            if await self._reserve_trial(turns[0]):
                await self._run_turns(turns, self.context.clock(), trials)

    async def _run_open_loop(self, planned: tuple[PlannedTrial, ...], trials: asyncio.TaskGroup) -> None:
        """Start each conversation when it is due, however many are under way; a late start is recorded in `queue_s`."""
        first_s, conversations = self.context.clock() + self.context.backends.lead_s, group_turns(planned)
        scenario, firsts = self.context.scenario, [turns[0] for turns in conversations]
        offsets_s = trace_offsets_s(firsts) if scenario.trace else arrival_offsets_s(scenario, len(firsts))
        for offset_s, turns in zip(offsets_s, conversations, strict=True):
            due_s = first_s + offset_s
            await asyncio.sleep(max(due_s - self.context.backends.lead_s - self.context.clock(), 0.0))
            if not await self._reserve_trial(turns[0]):
                return
            trials.create_task(self._run_turns(turns, due_s, trials))

    async def _run_turns(self, turns: tuple[PlannedTrial, ...], intended_s: float, trials: asyncio.TaskGroup) -> None:
        """Run the turns of a conversation one after another until one is not completed; the first is reserved."""
        first, *later = turns
        conversation = begin_conversation(self.context, first)
        response = await self._run_one(first, intended_s, conversation, trials)
        for place, planned in enumerate(later):
            assert conversation is not None  # it has other turns
            due_s = await prepare_next_turn(self.context, planned, conversation, response)
            if due_s is None:
                for _ in later[place:]:
                    self.progress.on_skip()
                return
            if not await self._reserve_trial(planned):
                return
            response = await self._run_one(planned, due_s, conversation, trials)

    async def _run_one(
        self, planned: PlannedTrial, intended_s: float, conversation: Conversation | None, trials: asyncio.TaskGroup
    ) -> TimedResponse | None:
        """Send a trial's request when it is due, and return the response; writing it delays no other request."""

        def on_begin() -> None:
            self.load.on_start(intended_s, planned.provider)
            self.progress.on_start()

        start = TrialStart(intended_s, self.context.clock, on_begin)
        call = trial_request(self.context, planned, conversation)
        await start.wait_lead(self.context.backends.lead_s)
        try:
            sending = self.context.sender.send(call, None if start.has_begun else start.wait_due)
            response = await self._send(self.context.trial_id(planned), sending)
        finally:
            if start.has_begun:
                self.load.on_end(planned.provider)
        if response is None:
            self.progress.on_skip()
            return None
        self.summary.outcomes[response.outcome] += 1
        turn = copy(conversation)  # the conversation itself goes on
        rows = partial(trial_rows, self.context, planned, response, intended_s, turn)
        trials.create_task(self._record(self.writer.write(rows, response)))
        return response

    async def _record(self, writing: asyncio.Task[Trial]) -> None:
        trial = await asyncio.shield(writing)  # a finished trial is kept, also when the run is stopped
        self.load.count_chunks(trial.chunks or 0)
        self.progress.on_finish(trial)

    async def _reserve_trial(self, planned: PlannedTrial) -> bool:
        if self.budget is None:
            return True
        cost_model = self.context.access.cost_model(planned.provider)
        quoted = estimate_trial_cost(cost_model, self.context.scenario, planned)
        return await self._reserve(self.context.trial_id(planned), quoted, planned.provider)

    async def _reserve(self, what: str, quoted: CostEstimate, provider: str) -> bool:
        """Reserve the highest cost of a request; return False, and end the run, if it does not fit the ceiling."""
        if self.budget is None:
            return True
        most_usd = quoted.at_most_usd
        if most_usd is not None and await self.budget.reserve(what, most_usd, provider, quoted.visible_usd):
            return True
        self.summary.out_of_budget = True
        return False

    async def _send(self, what: str, sending: Awaitable[TimedResponse]) -> TimedResponse | None:
        """Send a reserved request and settle its cost; return None if its provider's part of the run has ended."""
        try:
            response = await sending
        except ProviderEndedError:
            if self.budget is not None:
                self.budget.settle(what, Decimal(0))  # what was refused costs nothing
            return None
        if self.budget is not None:
            paid = (response.ending.get("attempts") or 1) - (response.ending.get("refused_starts") or 0)
            self.budget.settle(what, response.ending.get("cost_usd"), paid)
        return response

    async def _run_ticks(self) -> None:
        ticked_s = self.context.clock()
        while True:
            await asyncio.sleep(REST_INTERVAL_S)
            if self.progress.is_resting or self.context.clock() - ticked_s >= TICK_INTERVAL_S:
                self.progress.tick()
                ticked_s = self.context.clock()


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
