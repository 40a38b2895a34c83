"""Finished trials on disk: whole, one after the other, whoever is cancelled meanwhile."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.keep import STEP_EVENTS, SYNC_S, Keeper, MakeRows
from evaluation.record import EventRow, Journal, read_events, read_trials
from evaluation.rows import Stamps
from evaluation.scenario import plan
from evaluation.trial import Asked
from streaming.events import Finish, TextDelta, Timed, Usage
from streaming.trace import loads
from tests.unit.evaluation import made
from tests.virtual_time import run_virtual

FIRST, SECOND, *_ = plan(made.scenario())
SOURCE = [Timed(5.0 + 0.1 * n, TextDelta("höh\n")) for n in range(40)] + [Timed(9.0, Finish("stop"))]
ASKED = Asked("", {}, "completed", Usage(), Stamps(4.5, SOURCE, ()), {})
GAPS = [0.01] * 3 * STEP_EVENTS


def events(number: int) -> list[EventRow]:
    return made.gaps((FIRST, SECOND)[number], *GAPS)


def rows(number: int) -> MakeRows:
    return lambda: (made.trial((FIRST, SECOND)[number]), events(number))


def test_the_events_of_trials_that_end_together_are_not_mixed(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal(tmp_path) as journal:
            keeper = Keeper(tmp_path, journal)
            both = (keeper.keep(rows(n), ASKED) for n in (0, 1))
            await asyncio.gather(*both)

    asyncio.run(main())
    ids = [event.trial_id for event in read_events(tmp_path)]
    assert ids == ["run-00001"] * len(events(0)) + ["run-00002"] * len(events(1))
    assert len(read_trials(tmp_path)) == 2 and not (tmp_path / "traces").exists()


def test_the_loop_turns_while_a_trial_is_written(tmp_path: Path) -> None:
    async def main() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        with Journal(tmp_path) as journal:
            await Keeper(tmp_path, journal).keep(rows(0), ASKED)
        counting.cancel()
        return turns

    assert asyncio.run(main()) >= len(GAPS) // STEP_EVENTS


def test_what_was_finished_is_written_though_the_run_is_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal(tmp_path) as journal:
            keeper = Keeper(tmp_path, journal, traces=True)
            task = asyncio.create_task(keeper.keep(rows(0), ASKED))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await keeper.drain()

    asyncio.run(main())
    (trial,) = read_trials(tmp_path)
    assert trial.trial_id == "run-00001" and len(list(read_events(tmp_path))) == len(events(0))


def test_a_trace_has_the_stream_from_sent_on_and_where_it_came_from(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal(tmp_path) as journal:
            keeper = Keeper(tmp_path, journal, traces=True)
            trial = made.trial(FIRST, output_tokens=9, token_source="counted")
            await keeper.keep(lambda: (trial, []), ASKED)

    asyncio.run(main())
    found = loads((tmp_path / "traces" / "run-00001.jsonl").read_text(encoding="utf-8"))
    assert [timed.event for timed in found.events] == [timed.event for timed in SOURCE]
    assert found.events[0].at_s == pytest.approx(0.5) and found.events[-1].at_s == pytest.approx(4.5)
    assert found.header["prompt_id"] == FIRST.prompt.id and found.header["usage"]["output_tokens"] == 9


def test_the_disk_is_waited_for_now_and_then_and_at_the_end_but_never_by_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[float, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def slowly(work: Callable[[], None]) -> None:
            synced.append((loop.time(), len(read_trials(tmp_path))))
            await asyncio.sleep(0.5)
            work()

        monkeypatch.setattr(asyncio, "to_thread", slowly)
        with Journal(tmp_path) as journal:
            keeper = Keeper(tmp_path, journal)
            for number in (0, 1):
                begun_s = loop.time()
                await keeper.keep(rows(number), ASKED)
                assert loop.time() == pytest.approx(begun_s, abs=1e-3)
                await asyncio.sleep(SYNC_S)
            await keeper.drain()

    run_virtual(main())
    first_s, last_s = synced[0][0], synced[-1][0]
    assert [count for _, count in synced] == [1, 2] and last_s - first_s == pytest.approx(SYNC_S, abs=0.51)


@pytest.mark.parametrize("trials", [1, 2])
def test_a_disk_that_fails_is_told_to_the_next_or_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    kept: list[int] = []

    async def fails(_: Callable[[], None]) -> None:
        raise OSError("no space")

    async def main() -> None:
        monkeypatch.setattr(asyncio, "to_thread", fails)
        with Journal(tmp_path) as journal:
            keeper = Keeper(tmp_path, journal)
            for number in range(trials):
                await keeper.keep(rows(number), ASKED)
                kept.append(number)
                await asyncio.sleep(SYNC_S + 1)
            await keeper.drain()

    with pytest.raises(OSError, match="no space"):
        run_virtual(main())
    assert kept == [0]
