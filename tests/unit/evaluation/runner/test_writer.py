"""Writing of finished trials: complete and one at a time, even when callers are cancelled."""

import asyncio
import gc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from evaluation.backends.base import Instrument, TimedResponse
from evaluation.metrics.trial_metrics import TimedEvents
from evaluation.runner.writer import STEP_EVENTS, SYNC_INTERVAL_S, DiskAccess, RowFactory, TrialWriter
from evaluation.scenario import plan
from evaluation.schema import EventRow, Journal, Trial, read_events, read_trials
from streaming.events import Finish, TextDelta, TimedEvent, Usage
from streaming.trace import loads
from tests.unit.evaluation import factories
from tests.virtual_time import count_loop_turns, run_on_virtual_time

FIRST, SECOND, *_ = plan(factories.make_scenario())
SOURCE = [TimedEvent(5.0 + 0.1 * n, TextDelta("höh\n")) for n in range(40)] + [TimedEvent(9.0, Finish("stop"))]
RESPONSE = TimedResponse(TimedEvents(4.5, SOURCE, ()), "completed", Usage(), {}, Instrument())
GAPS = [0.01] * 3 * STEP_EVENTS


def make_events(number: int) -> list[EventRow]:
    return factories.make_gap_events((FIRST, SECOND)[number], *GAPS)


def row_factory(number: int) -> RowFactory:
    return make_rows(factories.make_trial((FIRST, SECOND)[number]), make_events(number))


def make_rows(trial: Trial, events: Iterable[EventRow] = ()) -> RowFactory:
    async def make() -> tuple[Trial, Iterable[EventRow]]:
        return trial, events

    return make


async def write_shielded(writer: TrialWriter, number: int) -> Trial:
    return await asyncio.shield(writer.write(row_factory(number), RESPONSE))


def test_concurrent_trials_are_written_without_mixing_events(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal(tmp_path) as journal:
            writer = TrialWriter(tmp_path, journal)
            both = (writer.write(row_factory(n), RESPONSE) for n in (0, 1))
            await asyncio.gather(*both)

    asyncio.run(main())
    ids = [event.trial_id for event in read_events(tmp_path)]
    assert ids == ["run-00001"] * len(make_events(0)) + ["run-00002"] * len(make_events(1))
    assert len(read_trials(tmp_path)) == 2 and not (tmp_path / "traces").exists()


def test_writing_a_trial_yields_to_event_loop(tmp_path: Path) -> None:
    async def main() -> int:
        with Journal(tmp_path) as journal:
            return await count_loop_turns(TrialWriter(tmp_path, journal).write(row_factory(0), RESPONSE))

    assert asyncio.run(main()) >= len(GAPS) // STEP_EVENTS


def test_finished_trial_is_written_when_run_is_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal(tmp_path) as journal:
            writer = TrialWriter(tmp_path, journal, traces=True)
            task = asyncio.create_task(write_shielded(writer, 0))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await writer.drain()

    asyncio.run(main())
    (trial,) = read_trials(tmp_path)
    assert trial.trial_id == "run-00001" and len(list(read_events(tmp_path))) == len(make_events(0))


def test_trace_has_events_relative_to_send_and_provenance(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal(tmp_path) as journal:
            writer = TrialWriter(tmp_path, journal, traces=True)
            trial = factories.make_trial(FIRST, output_tokens=9, token_source="counted")
            await writer.write(make_rows(trial), RESPONSE)

    asyncio.run(main())
    data = loads((tmp_path / "traces" / "run-00001.jsonl").read_text(encoding="utf-8"))
    assert [timed.event for timed in data.events] == [timed.event for timed in SOURCE]
    assert data.events[0].at_s == pytest.approx(0.5) and data.events[-1].at_s == pytest.approx(4.5)
    assert data.header["prompt_id"] == FIRST.prompt.id and data.header["usage"]["output_tokens"] == 9


def test_disk_sync_runs_at_intervals_and_at_end_and_nothing_is_written_meanwhile(tmp_path: Path) -> None:
    synced: list[tuple[float, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def run_slowly(work: Callable[[], None]) -> None:
            count = len(read_trials(tmp_path))
            synced.append((loop.time(), count))
            await asyncio.sleep(0.5)
            assert len(read_trials(tmp_path)) == count, "a write meanwhile would block the event loop"
            work()

        with Journal(tmp_path) as journal:
            writer = TrialWriter(tmp_path, journal, disk=DiskAccess(run_in_thread=run_slowly))
            for number in (0, 1):
                begun_s = loop.time()
                await writer.write(row_factory(number), RESPONSE)
                assert loop.time() - begun_s <= 0.501, "it waits for an fsync under way, not for its own"
                await asyncio.sleep(SYNC_INTERVAL_S)
            await writer.drain()

    run_on_virtual_time(main())
    first_s, last_s = synced[0][0], synced[-1][0]
    assert [count for _, count in synced] == [1, 2] and last_s - first_s == pytest.approx(SYNC_INTERVAL_S, abs=0.51)


@pytest.mark.parametrize("trials", [1, 2])
def test_disk_failure_is_raised_by_next_write_or_drain(tmp_path: Path, trials: int) -> None:
    kept: list[int] = []

    async def fails(_: Callable[[], None]) -> None:
        raise OSError("no space")

    async def main() -> None:
        with Journal(tmp_path) as journal:
            writer = TrialWriter(tmp_path, journal, disk=DiskAccess(run_in_thread=fails))
            for number in range(trials):
                await writer.write(row_factory(number), RESPONSE)
                kept.append(number)
                await asyncio.sleep(SYNC_INTERVAL_S + 1)
            await writer.drain()

    with pytest.raises(OSError, match="no space"):
        run_on_virtual_time(main())
    assert kept == [0]


class FullJournal(Journal):
    """The journal of a disk that is full after one trial."""

    def add(self, trial: Trial, events: Iterable[EventRow] = ()) -> None:
        if trial.trial_id != "run-00001":
            raise OSError("no space for a trial")
        super().add(trial, events)


@pytest.mark.parametrize("failed_before_drain", [True, False])
def test_failed_sync_and_write_end_in_one_error_and_leave_event_loop_nothing_to_report(
    tmp_path: Path, failed_before_drain: bool
) -> None:
    reported: list[object] = []

    async def fails(_: Callable[[], None]) -> None:
        raise OSError("no space at fsync")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        with FullJournal(tmp_path) as journal:
            writer = TrialWriter(tmp_path, journal, disk=DiskAccess(run_in_thread=fails))
            await writer.write(row_factory(0), RESPONSE)
            callers = [asyncio.create_task(write_shielded(writer, 1)) for _ in range(3)]
            await asyncio.sleep(0)
            for caller in callers:
                caller.cancel()
            await asyncio.sleep(1 if failed_before_drain else 0)
            with pytest.raises(OSError, match="no space for a trial"):
                await writer.drain()
        await asyncio.sleep(2 * SYNC_INTERVAL_S)

    run_on_virtual_time(main())
    gc.collect()
    assert reported == []
