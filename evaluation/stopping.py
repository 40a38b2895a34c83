"""Ends a run in order when the process is told to stop: SIGINT or SIGTERM."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any


async def until_stopped(work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` to its end or to the first signal, which a second would not wait for; say whether it was stopped."""
    stop = asyncio.Event()
    with _on_signals(stop):
        running = asyncio.create_task(work)
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    stopped = not running.done()
    if stopped:
        running.cancel()
        await asyncio.wait({running})
    if not running.cancelled():
        running.result()
    return stopped


@contextmanager
def _on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
