"""An event loop on virtual time, which jumps to the next timer."""

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time starts at `start_s` and moves only when nothing is ready, straight to the earliest timer."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        super().__init__(_JumpingSelector(self))
        self.set_time(start_s)

    def set_time(self, to_s: float) -> None:
        """Move the clock, as if a callback had blocked the loop until then."""
        self._now_s = to_s
        # The loop runs timers within its clock's resolution together; here time is exact.
        self._clock_resolution = math.ulp(to_s)

    def time(self) -> float:
        return self._now_s

    def jump_to_next_timer(self) -> None:
        """Move to the earliest timer. Raises RuntimeError when there is none: the test waits for ever."""
        timers = [handle.when() for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined] # no public list
        if not timers:
            raise RuntimeError("nothing is scheduled: this would wait for ever")
        self.set_time(max(self._now_s, min(timers)))


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        result = super().select(0)
        if not result and (timeout is None or timeout > 0):
            self._loop.jump_to_next_timer()
        return result


def run_on_virtual_time(main: Coroutine[Any, Any, T], *, start_s: float = 0.0) -> T:
    """Run a coroutine on virtual time; `asyncio.get_running_loop().time` is its clock."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start_s)) as runner:
        return runner.run(main)


def loop_clock() -> Callable[[], float]:
    """Return the running loop's clock, for the code under test."""
    return asyncio.get_running_loop().time


async def count_loop_turns(work: Awaitable[object]) -> int:
    """Do the work, and return how often the event loop ran another task meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await work
    counting.cancel()
    return turns
