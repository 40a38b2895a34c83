"""A limit that moves: it ends what is waited for when it is due, and nothing else."""

import asyncio

import pytest

from streaming.deadline import Deadline, DeadlinePassed
from tests.virtual_time import run_virtual


async def after(delay_s: float) -> str:
    await asyncio.sleep(delay_s)
    return "came"


def test_what_comes_in_time_is_given_and_what_does_not_is_ended_when_due() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock, clock() + 2)
        assert await deadline.wait(after(1.9)) == "came"
        with pytest.raises(DeadlinePassed):
            await deadline.wait(after(5))
        return clock()

    assert run_virtual(main()) == pytest.approx(2.0)


@pytest.mark.parametrize(("first_s", "then_s"), [(1, 9), (60, 5)])
def test_it_moves_both_ways(first_s: float, then_s: float) -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock, clock() + first_s)
        await deadline.wait(after(0.5))
        deadline.move(clock() + then_s)
        with pytest.raises(DeadlinePassed):
            await deadline.wait(after(100))
        return clock()

    assert run_virtual(main()) == pytest.approx(0.5 + then_s)


def test_nothing_is_ended_between_two_waits_and_the_next_one_ends_at_once() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock, clock() + 1)
        await deadline.wait(after(0.5))
        await asyncio.sleep(3)
        with pytest.raises(DeadlinePassed):
            await deadline.wait(after(5))
        return clock()

    assert run_virtual(main()) == pytest.approx(3.5)


def test_a_cancellation_from_outside_stays_one() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time

        async def waiting() -> None:
            await Deadline(clock, clock() + 60).wait(after(50))

        task = asyncio.create_task(waiting())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main())


def test_both_at_once_is_a_cancellation() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time

        async def waiting() -> None:
            await Deadline(clock, clock() + 1).wait(after(50))

        task = asyncio.create_task(waiting())
        asyncio.get_running_loop().call_later(1, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main())


def test_a_closed_one_leaves_no_timer_behind() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        deadline = Deadline(clock, clock() + 1)
        await deadline.wait(after(0.1))
        deadline.close()
        deadline.close()
        await asyncio.sleep(5)
        return clock()

    assert run_virtual(main()) == pytest.approx(5.1)
