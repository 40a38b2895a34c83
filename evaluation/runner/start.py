"""The start of a trial's request: when to get it ready, and when to send it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from streaming.clock import Clock


@dataclass(slots=True)
class TrialStart:
    """Counts a trial as begun, with `on_begin`, when its request is due; all times in seconds on `clock`."""

    due_s: float
    clock: Clock
    on_begin: Callable[[], None]
    has_begun: bool = False

    async def wait_lead(self, lead_s: float) -> None:
        """Wait until the request is due in `lead_s`; it begins at once if it is due now."""
        if (wait_s := self.due_s - lead_s - self.clock()) > 0:
            await asyncio.sleep(wait_s)
        if self.due_s <= self.clock():
            self._begin()

    async def wait_due(self) -> None:
        """Wait until the request is due."""
        if (wait_s := self.due_s - self.clock()) > 0:
            await asyncio.sleep(wait_s)
        self._begin()

    def _begin(self) -> None:
        self.has_begun = True
        self.on_begin()
