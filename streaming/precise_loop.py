"""An event loop whose timers are due to the microsecond: epoll alone rounds each wait up to the next millisecond."""

import asyncio
import select
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

if hasattr(selectors, "EpollSelector"):

    class PreciseSelector(selectors.EpollSelector):
        """epoll, with select(2) on its own descriptor for the wait, whose timeout has a resolution of a microsecond."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Return what is ready, after at most `timeout` seconds."""
            if timeout is not None and timeout > 0:
                select.select([self], (), (), timeout)
                timeout = 0
            return super().select(timeout)


def run_on_precise_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop with precise timers; where there is no epoll, on the system's own loop."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)


def _new_loop() -> asyncio.AbstractEventLoop:
    if hasattr(selectors, "EpollSelector"):
        return asyncio.SelectorEventLoop(PreciseSelector())
    return asyncio.new_event_loop()
