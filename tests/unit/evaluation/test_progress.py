"""Progress and the loop-lag watch, on virtual time."""

import asyncio
import io

import pytest
from rich.console import Console

from evaluation.lag import LagWatch, SharedLag
from evaluation.progress import LINE_S, RunProgress
from evaluation.scenario import plan
from tests.unit.evaluation import made
from tests.virtual_time import VirtualTimeLoop, run_virtual

FIRST, SECOND, *_ = plan(made.scenario())


class Hand:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    out, clock = io.StringIO(), Hand()
    with RunProgress(16, clock, Console(file=out, width=200)) as progress:
        progress.say("running [sim:bug:]")
        progress.finished(made.trial(FIRST, ttft_s=0.2))
        clock.now = LINE_S
        progress.finished(made.trial(SECOND, ttft_s=None, outcome="failed"))
    assert out.getvalue().splitlines() == [
        "running [sim:bug:]: 0/16 trials",
        "running [sim:bug:]: 2/16 trials, 1 not completed, TTFT 200 ms, median 200 ms",
    ]


def test_a_terminal_gets_a_bar_with_live_figures() -> None:
    out = io.StringIO()
    with RunProgress(16, Hand(), Console(file=out, width=200, force_terminal=True)) as progress:
        progress.say("running [x]")
        progress.finished(made.trial(FIRST, ttft_s=0.25))
    text = out.getvalue()
    assert "1/16" in text and "TTFT 250 ms" in text and "running [x]" in text


def test_an_idle_loop_has_no_lag() -> None:
    async def main() -> float:
        watch = LagWatch()
        await asyncio.sleep(1)
        return watch.stop()

    assert run_virtual(main()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("after_s", [0.0, 0.5])
def test_a_blocked_loop_is_seen_also_at_the_very_end(after_s: float) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        watch = LagWatch()
        await asyncio.sleep(0.1)
        loop._move(loop.time() + 0.3)
        await asyncio.sleep(after_s)
        return watch.stop()

    assert 0.28 <= run_virtual(main()) <= 0.3


def test_each_trial_sees_the_lag_of_its_own_time_on_a_shared_watch() -> None:
    async def main() -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        watch = SharedLag()
        first = watch.mark()
        await asyncio.sleep(0.1)
        loop._move(loop.time() + 0.3)
        overdue_s = watch.worst_s(first)
        await asyncio.sleep(0.1)
        second = watch.mark()
        await asyncio.sleep(0.1)
        try:
            return overdue_s, watch.worst_s(first), watch.worst_s(second)
        finally:
            watch.close()

    overdue_s, first_s, second_s = run_virtual(main())
    assert 0.28 <= overdue_s <= 0.3 and first_s == overdue_s
    assert second_s == pytest.approx(0.0, abs=1e-9)
