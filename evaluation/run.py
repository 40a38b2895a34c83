"""Runs a scenario: warm-up, trials in a closed loop, the journal after each, and an orderly end when it is stopped."""

import asyncio
import secrets
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.progress import RunProgress
from evaluation.record import Journal
from evaluation.scenario import Planned, Scenario, plan
from evaluation.trial import Access, Bench, run_trial, warm_up
from streaming.clock import Clock, monotonic, utc_now
from streaming.errors import UsageError

TICK_S = 5.0


@dataclass(slots=True)
class Summary:
    """What a run came to: finished trials by outcome; `interrupted` when it was stopped before its end."""

    run_id: str
    planned: int
    outcomes: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False

    @property
    def trials(self) -> int:
        return self.outcomes.total()


async def run(
    scenario: Scenario,
    access: Access,
    folder: Path,
    *,
    clock: Clock = monotonic,
    mask: Callable[[str], str] = str,
) -> Summary:
    """Run all trials into `folder`, which `manifest.claim` has made; SIGINT and SIGTERM end it early, in order.

    A trial that was under way when the run was stopped leaves no row. Raises UsageError when the disk takes no more.
    """
    run_id = f"{utc_now()[:19].replace('-', '').replace(':', '')}-{secrets.token_hex(3)}"
    planned = plan(scenario)
    summary = Summary(run_id, len(planned))
    facts = manifest.begin(run_id, scenario, planned)
    try:
        manifest.write(folder, facts)
        with Journal(folder) as journal, RunProgress(len(planned), clock) as progress:
            work = _Work(Bench(run_id, scenario, access, clock, mask), folder, journal, progress, summary, facts)
            await _until_stopped(work.all(planned), summary)
        facts |= {"complete": not summary.interrupted, "interrupted": summary.interrupted}
        facts |= {"finished_at": utc_now(), "trials_finished": summary.trials}
        manifest.write(folder, facts)
    except OSError as error:
        raise UsageError(f"{folder} takes no more ({error}); what was finished before is kept") from None
    return summary


@dataclass(frozen=True, slots=True)
class _Work:
    bench: Bench
    folder: Path
    journal: Journal
    progress: RunProgress
    summary: Summary
    facts: dict[str, Any]

    async def all(self, planned: tuple[Planned, ...]) -> None:
        tasks = [asyncio.create_task(self._tick())]
        try:
            await self._warm_up()
            self.progress.say("running")
            left = iter(planned)
            count = min(self.bench.scenario.concurrency, len(planned))
            workers = [asyncio.create_task(self._worker(left)) for _ in range(count)]
            tasks += workers
            await asyncio.gather(*workers)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _warm_up(self) -> None:
        scenario = self.bench.scenario
        for provider in scenario.providers if scenario.warm_up else ():
            self.progress.say(f"warming up {provider}")
            self.facts["warm_up"][provider] = [await warm_up(self.bench, provider) for _ in range(scenario.warm_up)]
        manifest.write(self.folder, self.facts)

    async def _worker(self, left: Iterator[Planned]) -> None:
        for planned in left:
            trial, events = await run_trial(self.bench, planned)
            self.journal.add(trial, events)
            self.summary.outcomes[trial.outcome] += 1
            self.progress.finished(trial)
            await asyncio.to_thread(self.journal.sync)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.progress.tick()


async def _until_stopped(work: Coroutine[Any, Any, None], summary: Summary) -> None:
    """Run `work` to its end or to the first signal; a second signal then acts as it does by default."""
    stop = asyncio.Event()
    with _on_signals(stop):
        running = asyncio.create_task(work)
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    if not running.done():
        summary.interrupted = True
        running.cancel()
        await asyncio.wait({running})
    if not running.cancelled():
        running.result()


@contextmanager
def _on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
