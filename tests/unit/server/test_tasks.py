"""The end of background tasks, on virtual time."""

import asyncio
from contextlib import suppress

import pytest

from server.tasks import end_tasks
from tests.virtual_time import run_on_virtual_time


@pytest.mark.parametrize("swallowed", [0, 1, 5])
def test_task_that_swallows_cancellations_is_ended(swallowed: int) -> None:
    async def go_on() -> None:
        for _ in range(swallowed):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def main() -> tuple[list[bool], float]:
        tasks = [asyncio.create_task(go_on()) for _ in range(3)]
        await asyncio.sleep(0)
        await end_tasks(tasks)
        return [task.cancelled() for task in tasks], asyncio.get_running_loop().time()

    ended, took_s = run_on_virtual_time(main())
    assert ended == [True] * 3
    assert took_s == pytest.approx(0.1 * swallowed)


def test_no_task_ends_at_once() -> None:
    run_on_virtual_time(end_tasks([]))
