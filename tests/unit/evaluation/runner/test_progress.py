"""Progress display and event loop lag monitors, on virtual time."""

import asyncio
import io
from contextlib import closing

import pytest
from rich.console import Console

from evaluation.backends.interference import LoopLagMonitor
from evaluation.runner.progress import LINE_INTERVAL_S, RunProgress
from evaluation.scenario import plan
from tests.unit.evaluation import factories
from tests.virtual_time import VirtualTimeLoop, run_on_virtual_time

FIRST, SECOND, *_ = plan(factories.make_scenario())


class HandSetClock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_without_terminal_prints_lines_at_intervals() -> None:
    out, clock = io.StringIO(), HandSetClock()
    with RunProgress(16, clock, Console(file=out, width=200)) as progress:
        progress.set_stage("running [sim:bug:]")
        progress.on_finish(factories.make_trial(FIRST, ttft_s=0.2))
        clock.now = LINE_INTERVAL_S
        progress.on_finish(factories.make_trial(SECOND, ttft_s=None, outcome="failed"))
    assert out.getvalue().splitlines() == [
        "running [sim:bug:]: 0/16 trials",
        "running [sim:bug:]: 2/16 trials, 1 not completed, TTFT 200 ms, median 200 ms",
    ]


def test_progress_on_terminal_shows_bar_with_live_metrics() -> None:
    out = io.StringIO()
    with RunProgress(16, HandSetClock(), Console(file=out, width=200, force_terminal=True)) as progress:
        progress.set_stage("running [x]")
        progress.on_finish(factories.make_trial(FIRST, ttft_s=0.25))
    text = out.getvalue()
    assert "1/16" in text and "TTFT 250 ms" in text and "running [x]" in text


def test_progress_says_who_rests_after_a_rate_limit_and_how_long() -> None:
    rests_s = {"sim:limited": 11.2}
    progress = RunProgress(16, HandSetClock(), Console(file=io.StringIO()), rests_s=lambda: rests_s)
    assert progress.is_resting
    assert progress.live_stats() == "sim:limited rests for 12 s (rate limit)"
    rests_s.clear()
    assert not progress.is_resting and progress.live_stats() == ""


def test_lag_monitor_of_idle_loop_reports_zero() -> None:
    async def main() -> float:
        with closing(LoopLagMonitor()) as watch:
            await asyncio.sleep(1)
            return watch.worst_s(0)

    assert run_on_virtual_time(main()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("after_s", [0.0, 0.5])
def test_lag_monitor_reports_blocked_loop_until_read(after_s: float) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with closing(LoopLagMonitor()) as watch:
            await asyncio.sleep(0.1)
            loop.set_time(loop.time() + 0.3)
            await asyncio.sleep(after_s)
            return watch.worst_s(0)

    assert 0.28 <= run_on_virtual_time(main()) <= 0.3


def test_lag_monitor_reports_lag_of_each_trial_interval() -> None:
    async def main() -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        watch = LoopLagMonitor()
        first = watch.mark()
        await asyncio.sleep(0.1)
        loop.set_time(loop.time() + 0.3)
        overdue_s = watch.worst_s(first)
        await asyncio.sleep(0.1)
        second = watch.mark()
        await asyncio.sleep(0.1)
        try:
            return overdue_s, watch.worst_s(first), watch.worst_s(second)
        finally:
            watch.close()

    overdue_s, first_s, second_s = run_on_virtual_time(main())
    assert 0.28 <= overdue_s <= 0.3 and first_s == overdue_s
    assert second_s == pytest.approx(0.0, abs=1e-9)
