"""The end of background tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any

_REPEAT_S = 0.1


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until all have ended.

    One cancellation is not always enough: the Redis client takes one that arrives together with a timeout of its own
    for that timeout, and the task goes on. Only for tasks whose cleanup may be interrupted.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_REPEAT_S)
