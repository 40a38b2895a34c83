"""Writes finished trials to disk in small steps, so that streams still under way are hardly delayed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from evaluation.backends.base import TimedResponse
from evaluation.schema import EventRow, Journal, Trial
from streaming import trace
from streaming.events import TimedEvent

TRACES = "traces"
RowFactory = Callable[[], Awaitable[tuple[Trial, Iterable[EventRow]]]]
STEP_EVENTS = 64
"""Events built and written before control returns to the event loop: about 0.2 ms of work."""
SYNC_INTERVAL_S = 5.0
"""Seconds between two calls of fsync, in a thread. One takes up to 0.5 s, in which writes to the file would block too.
A power cut loses the trials since the last call; a kill of the process loses none."""


@dataclass(frozen=True, slots=True)
class DiskAccess:
    """How a run reaches its disk: what opens the journal, and what runs its slow calls beside the event loop."""

    open_journal: Callable[[Path], Journal] = Journal
    run_in_thread: Callable[[Callable[[], None]], Awaitable[None]] = asyncio.to_thread


DEFAULT_DISK_ACCESS = DiskAccess()


class TrialWriter:
    """Writes trials one at a time and, with `traces`, the source stream of each, including its text.

    An answer from a service that was not started for the run leaves no trace: the service's strategy has changed its
    timing, and its source stream is not known.
    """

    def __init__(
        self, folder: Path, journal: Journal, *, traces: bool = False, disk: DiskAccess = DEFAULT_DISK_ACCESS
    ) -> None:
        self._journal = journal
        self._disk = disk
        self._turn = asyncio.Lock()
        self._traces = folder / TRACES if traces else None
        self._written = self._synced = 0
        self._syncing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._busy: set[asyncio.Task[Trial]] = set()
        self._failure: BaseException | None = None
        if self._traces is not None:
            self._traces.mkdir(exist_ok=True)

    def write(self, make: RowFactory, response: TimedResponse) -> asyncio.Task[Trial]:
        """Begin to write a finished trial, whose rows `make` builds; trials are written one at a time.

        Wait for the task with `asyncio.shield`, so that writing goes on if the caller is cancelled, or for all with
        `drain`. It waits while fsync runs, but not for its own. It raises OSError when writing, or an earlier fsync,
        has failed.
        """
        task = asyncio.create_task(self._write_trial(make, response))
        self._busy.add(task)
        task.add_done_callback(self._on_written)
        return task

    async def drain(self) -> None:
        """Wait until all trials passed to `write` are on disk. Raises OSError when writing or fsync failed."""
        await asyncio.gather(*self._busy, return_exceptions=True)
        self._ending.set()
        if self._syncing is not None:
            await asyncio.gather(self._syncing, return_exceptions=True)
            self._keep_failure(self._syncing)
        if self._failure is not None:
            raise self._failure

    def _on_written(self, task: asyncio.Task[Trial]) -> None:
        self._busy.discard(task)
        self._keep_failure(task)

    def _keep_failure(self, task: asyncio.Task[Any]) -> None:
        """Keep the first failure for `drain`. Every one is retrieved: the event loop would report it as a traceback."""
        failure = None if task.cancelled() else task.exception()
        self._failure = self._failure or failure

    async def _write_trial(self, make: RowFactory, response: TimedResponse) -> Trial:
        async with self._turn:
            trial, events = await make()
            rows = iter(events)
            if self._traces is not None and response.stamps.source is not None:
                await self._write_trace(self._traces / f"{trial.trial_id}.jsonl", trial, response)
            while step := list(islice(rows, STEP_EVENTS)):
                self._journal.add_events(step)
                await asyncio.sleep(0)
            self._journal.add(trial)
            self._written += 1
        if self._syncing is not None and self._syncing.done():
            self._syncing.result()  # a failed fsync raises in the next write
            self._syncing = None
        self._syncing = self._syncing or asyncio.create_task(self._run_sync())
        return trial

    async def _run_sync(self) -> None:
        """Call fsync at intervals, and once more when the writer drains, until all written trials are on disk."""
        while self._synced < self._written:
            with suppress(TimeoutError):
                async with asyncio.timeout(SYNC_INTERVAL_S):
                    await self._ending.wait()
            async with self._turn:  # a write during fsync would block the event loop
                written = self._written
                await self._disk.run_in_thread(self._journal.sync)
                self._synced = written

    async def _write_trace(self, path: Path, trial: Trial, response: TimedResponse) -> None:
        with path.open("w", encoding="utf-8") as file:
            for part in _iter_trace_parts(trial, response):
                file.write(part)
                await asyncio.sleep(0)


@contextmanager
def open_writer(folder: Path, disk: DiskAccess, *, traces: bool = False) -> Iterator[TrialWriter]:
    """Open the journal of a run's folder, yield a writer to it, and close it. Raises OSError."""
    with disk.open_journal(folder) as journal:
        yield TrialWriter(folder, journal, traces=traces, disk=disk)


def _iter_trace_parts(trial: Trial, response: TimedResponse) -> Iterator[str]:
    """Yield a trace's text: the header line, then parts of up to `STEP_EVENTS` events."""
    sent_s = response.stamps.sent_s
    timed = [
        TimedEvent(max(timed_event.at_s - sent_s, 0.0), timed_event.event)
        for timed_event in response.stamps.source or ()
    ]
    header, _, _ = trace.dumps(_trace_header(trial), ()).rpartition("\n")
    yield header + "\n"
    for start in range(0, len(timed), STEP_EVENTS):
        _, _, lines = trace.dumps({}, timed[start : start + STEP_EVENTS]).partition("\n")
        yield lines


def _trace_header(trial: Trial) -> dict[str, Any]:
    """Return the trace's header: the origin of the stream, and its token usage, which the events may not contain."""
    names = ("run_id", "trial_id", "provider", "model", "prompt_id", "repeat", "block", "started_at", "outcome")
    tokens = ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens")
    header = {name: getattr(trial, name) for name in names}
    if trial.token_source is not None:
        header["usage"] = {name: getattr(trial, name) for name in tokens} | {"source": trial.token_source}
    return header
