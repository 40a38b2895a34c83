"""Keeps finished trials on disk in small steps, so that the streams still under way are hardly held up."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from evaluation.runner.trial import TrialResponse
from evaluation.schema import EventRow, Journal, Trial
from streaming import trace
from streaming.events import TimedEvent

TRACES = "traces"
RowFactory = Callable[[], tuple[Trial, Sequence[EventRow]]]
STEP_EVENTS = 64
"""Events written between two turns of the loop: some 0.1 ms."""
SYNC_INTERVAL_S = 5.0
"""Seconds between two times that a thread waits for the disk: up to half a second, in which whoever writes to the file
may be held up as well. A power cut costs the trials since; a kill costs none."""


class TrialWriter:
    """Writes each trial as a whole, one after the other; with `traces` its source stream too, text and all.

    What came over a service's wire has no source, and leaves no trace: a strategy has shaped it already.
    """

    def __init__(self, folder: Path, journal: Journal, *, traces: bool = False) -> None:
        self._journal = journal
        self._turn = asyncio.Lock()
        self._traces = folder / TRACES if traces else None
        self._written = self._synced = 0
        self._syncing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._busy: set[asyncio.Task[Trial]] = set()
        if self._traces is not None:
            self._traces.mkdir(exist_ok=True)

    async def write(self, make: RowFactory, asked: TrialResponse) -> Trial:
        """Make a finished trial's rows when it is their turn, write them and give the trial.

        It is written to its end even when the caller is cancelled. The disk is not waited for: that would hold up the
        next answer. Raises OSError.
        """
        task = asyncio.create_task(self._write_trial(make, asked))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait until all that was given is on disk. Raises OSError when it did not get there."""
        await asyncio.gather(*self._busy)
        self._ending.set()
        if self._syncing is not None:
            await self._syncing

    async def _write_trial(self, make: RowFactory, asked: TrialResponse) -> Trial:
        async with self._turn:
            trial, events = make()
            await asyncio.sleep(0)
            if self._traces is not None and asked.stamps.source is not None:
                await self._write_trace(self._traces / f"{trial.trial_id}.jsonl", trial, asked)
            for start in range(0, len(events), STEP_EVENTS):
                self._journal.add_events(events[start : start + STEP_EVENTS])
                await asyncio.sleep(0)
            self._journal.add(trial)
            self._written += 1
        if self._syncing is not None and self._syncing.done():
            self._syncing.result()  # what did not get there is told to the next
            self._syncing = None
        self._syncing = self._syncing or asyncio.create_task(self._run_sync())
        return trial

    async def _run_sync(self) -> None:
        """Bring to the disk what is written, now and then and at the end."""
        while self._synced < self._written:
            with suppress(TimeoutError):
                async with asyncio.timeout(SYNC_INTERVAL_S):
                    await self._ending.wait()
            written = self._written
            await asyncio.to_thread(self._journal.sync)
            self._synced = written

    async def _write_trace(self, path: Path, trial: Trial, asked: TrialResponse) -> None:
        with path.open("w", encoding="utf-8") as file:
            for part in _iter_trace_parts(trial, asked):
                file.write(part)
                await asyncio.sleep(0)


def _iter_trace_parts(trial: Trial, asked: TrialResponse) -> Iterator[str]:
    """Give a trace's text, its header first, in pieces of a few events."""
    sent_s = asked.stamps.sent_s
    timed = [TimedEvent(max(found.at_s - sent_s, 0.0), found.event) for found in asked.stamps.source or ()]
    header, _, _ = trace.dumps(_trace_header(trial), ()).rpartition("\n")
    yield header + "\n"
    for start in range(0, len(timed), STEP_EVENTS):
        _, _, lines = trace.dumps({}, timed[start : start + STEP_EVENTS]).partition("\n")
        yield lines


def _trace_header(trial: Trial) -> dict[str, Any]:
    """Tell where the stream came from, and the tokens as they were known, which the events may not say."""
    names = ("run_id", "trial_id", "provider", "model", "prompt_id", "repeat", "block", "started_at", "outcome")
    tokens = ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens")
    header = {name: getattr(trial, name) for name in names}
    if trial.token_source is not None:
        header["usage"] = {name: getattr(trial, name) for name in tokens} | {"source": trial.token_source}
    return header
