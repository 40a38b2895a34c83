"""Closed and open loops: when answers start, what waiting is the instrument's, and a load that was not reached."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import manifest, record
from evaluation.loads import LoadWatch, offsets_s
from evaluation.run import Summary, run
from evaluation.scenario import Scenario
from streaming.errors import UsageError
from tests.unit.evaluation import made
from tests.unit.evaluation.asking import Priced
from tests.virtual_time import clock, run_virtual


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write to the disk here and now: a thread takes real time, and virtual time would run ahead of it."""

    async def now(work: Callable[[], None]) -> None:
        work()

    monkeypatch.setattr(asyncio, "to_thread", now)


def measured(folder: Path, wanted: Scenario, adapter: Priced) -> Summary:
    async def main() -> Summary:
        return await run(wanted, adapter, folder, clock=clock())

    return run_virtual(main(), start_s=100.0)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert offsets_s(made.scenario(rate=4.0), 4) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_are_the_seeds_and_have_the_rate_in_the_mean() -> None:
    wanted = made.scenario(rate=5.0, arrivals="poisson")
    found = offsets_s(wanted, 20_000)
    gaps_s = np.diff(found)
    other = made.scenario(rate=5.0, arrivals="poisson", seed=4)
    assert found == offsets_s(wanted, 20_000) != offsets_s(other, 20_000)
    assert gaps_s.mean() == pytest.approx(0.2, rel=0.03) and gaps_s.std() == pytest.approx(0.2, rel=0.05)


def test_an_open_loop_starts_answers_when_they_are_due_whatever_is_under_way(tmp_path: Path) -> None:
    adapter = Priced(takes_s=10.0)
    wanted = made.scenario(("m",), rate=2.0, warm_up=0)
    summary = measured(tmp_path, wanted, adapter)
    trials = sorted(record.read_trials(tmp_path), key=lambda trial: trial.trial_id)
    starts_s = [trial.intended_start_s or 0.0 for trial in trials]
    assert np.diff(starts_s) == pytest.approx([0.5] * 7) and adapter.most == 8
    assert all(t.queue_s == pytest.approx(0, abs=1e-6) and t.ttft_s == pytest.approx(10, abs=1e-6) for t in trials)
    assert all(t.ttft_total_s == pytest.approx(10, abs=1e-6) for t in trials) and summary.shortfall is None
    (load,) = manifest.read(tmp_path)["loads"]
    assert load["starts_per_s"] == load["drawn_rate_per_s"] == 2.0 and load["concurrency_max"] == 8


def test_a_closed_loop_that_reaches_its_concurrency_says_nothing(tmp_path: Path) -> None:
    summary = measured(tmp_path, made.scenario(("m",), concurrency=4, warm_up=0), Priced(takes_s=1.0))
    assert summary.shortfall is None and manifest.read(tmp_path)["loads"][0]["concurrency_mean"] == pytest.approx(4)
    assert all(trial.queue_s == 0 for trial in record.read_trials(tmp_path))


def test_a_concurrency_that_was_never_reached_is_told(tmp_path: Path) -> None:
    summary = measured(tmp_path, made.scenario(("m",), concurrency=50, warm_up=0), Priced(takes_s=1.0))
    assert summary.shortfall == "asked for 50 answers at a time, never more than 8 ran"


async def filled_at_last() -> dict[str, object]:
    """Start four answers one after the other that all run on together."""
    watch = LoadWatch(clock())
    for _ in range(4):
        watch.started(0.0)
        await asyncio.sleep(0.001)
    return watch.reached(made.scenario(concurrency=4))


def test_a_closed_loop_is_not_blamed_for_the_time_in_which_it_filled() -> None:
    found = run_virtual(filled_at_last())
    assert (found["concurrency_max"], found["concurrency_mean"], found["shortfall"]) == (4, None, None)


async def late() -> dict[str, object]:
    """Start ten answers that were due 0.1 s apart 0.2 s apart."""
    watch = LoadWatch(clock())
    for number in range(10):
        watch.started(number * 0.1)
        watch.ended()
        await asyncio.sleep(0.2)
    return watch.reached(made.scenario(rate=10.0))


def test_a_rate_that_the_instrument_could_not_keep_is_told() -> None:
    found = run_virtual(late())
    assert found["shortfall"] == "asked for 10 answers a second (10 were due), 5 were started"
    assert found["latest_start_s"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 0.0}, "rate must be more than 0"),
        ({"rate": 5000.0}, "at most 1000"),
        ({"rate": 1.0, "concurrency": 2}, "exclude each other"),
        ({"arrivals": "sometimes"}, "arrivals 'sometimes'"),
    ],
)
def test_what_is_no_load_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made.scenario(**changes)


def test_a_load_says_what_the_instrument_itself_used() -> None:
    used_s = iter([10.0, 12.0])
    watch = LoadWatch(lambda: 0.0, cpu=lambda: next(used_s))
    watch.started(0.0)
    watch.started(0.0)
    watch.kept(300)
    watch.kept(200)
    found = watch.reached(made.scenario(concurrency=2))
    assert (found["cpu_s"], found["cpu_s_per_1000_chunks"]) == (2.0, 4.0) and found["peak_memory_bytes"] > 5_000_000


def test_a_load_that_never_began_used_nothing_that_is_known() -> None:
    found = LoadWatch(lambda: 0.0).reached(made.scenario())
    assert found["cpu_s"] is None and found["cpu_s_per_1000_chunks"] is None
