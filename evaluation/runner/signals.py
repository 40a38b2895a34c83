"""Work that SIGINT and SIGTERM stop."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any


async def run_until_signal(work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` until it ends or the first SIGINT or SIGTERM cancels it; return True if it was cancelled.

    A second signal has its default effect and ends the process at once.
    """
    stop = asyncio.Event()
    with _set_on_signals(stop):
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
def _set_on_signals(stop: asyncio.Event) -> Iterator[None]:
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
