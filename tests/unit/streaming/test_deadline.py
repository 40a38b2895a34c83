"""A deadline that can be rescheduled: it interrupts the current wait when it is due, and nothing else."""

import asyncio

import pytest

from streaming.deadline import Deadline, DeadlineExceededError
from tests.virtual_time import run_on_virtual_time


async def return_after(delay_s: float) -> str:
    await asyncio.sleep(delay_s)
    return "came"


def test_wait_returns_in_time_or_raises_at_deadline() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock, clock() + 2)
        assert await deadline.wait(return_after(1.9)) == "came"
        with pytest.raises(DeadlineExceededError):
            await deadline.wait(return_after(5))
        return clock()

    assert run_on_virtual_time(main()) == pytest.approx(2.0)


@pytest.mark.parametrize(("first_s", "then_s"), [(1, 9), (60, 5)])
def test_reschedule_moves_deadline_both_ways(first_s: float, then_s: float) -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock, clock() + first_s)
        await deadline.wait(return_after(0.5))
        deadline.reschedule(clock() + then_s)
        with pytest.raises(DeadlineExceededError):
            await deadline.wait(return_after(100))
        return clock()

    assert run_on_virtual_time(main()) == pytest.approx(0.5 + then_s)


def test_deadline_between_waits_raises_at_next_wait() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock, clock() + 1)
        await deadline.wait(return_after(0.5))
        await asyncio.sleep(3)
        with pytest.raises(DeadlineExceededError):
            await deadline.wait(return_after(5))
        return clock()

    assert run_on_virtual_time(main()) == pytest.approx(3.5)


def test_external_cancellation_stays_cancelled_error() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time

        async def waiting() -> None:
            await Deadline(clock, clock() + 60).wait(return_after(50))

        task = asyncio.create_task(waiting())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_on_virtual_time(main())


def test_simultaneous_deadline_and_cancellation_is_cancelled() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time

        async def waiting() -> None:
            await Deadline(clock, clock() + 1).wait(return_after(50))

        task = asyncio.create_task(waiting())
        asyncio.get_running_loop().call_later(1, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    run_on_virtual_time(main())


def test_closed_deadline_leaves_no_timer() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock, clock() + 1)
        await deadline.wait(return_after(0.1))
        deadline.close()
        deadline.close()
        await asyncio.sleep(5)
        return clock()

    assert run_on_virtual_time(main()) == pytest.approx(5.1)
