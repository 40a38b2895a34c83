"""The answers that are under way: how each is stopped, and what is told of it when it has ended."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol

from streaming.clock import Clock
from streaming.deliver import Taker
from streaming.events import TERMINAL, Event, Failed
from streaming.pipeline import Account, Answer, Charge, Receipt

DEFECT = Failed("internal", "a defect in this program: the answer is cut")
SHUTTING_DOWN = Failed("shutting_down", "the service is stopping: ask again in a moment")

_log = logging.getLogger(__name__)


class Reserved(Protocol):
    """What was set aside for an answer, and goes back when it has ended."""

    async def settle(self, charge: Charge | None) -> None: ...


class Stream:
    """One answer under way. `id` cannot be guessed; `owner` is the key's name that asked, None where keys are off.

    It is read in one place, with `events`; `cancel` and `stop` may come from any task.
    """

    def __init__(self, answer: Answer, owner: str | None, account: Account, reserved: Reserved, all: "Streams") -> None:
        self.id = secrets.token_urlsafe(16)
        self.answer = answer
        self.owner = owner
        self._account = account
        self._reserved = reserved
        self._all = all
        self._broken: Failed | None = None
        self._closed = False

    @property
    def ended(self) -> bool:
        return self.answer.ended

    async def events(self, timeout_s: float | None = None, taker: Taker | None = None) -> list[Event]:
        """Give the events that are due, waiting for the first; empty after `timeout_s` and once `ended`.

        What comes while this waits goes to the `taker`, if there is one; see `streaming.deliver`.
        """
        try:
            events = await self.answer.ready(timeout_s, taker and self._passing_to(taker))
        except Exception:
            _log.exception("a defect in the pipeline")
            await self.break_off()
            return []
        if events:
            self._account.passed(events, self._all.clock())
            if isinstance(events[-1], TERMINAL):
                # Before its reader knows: what was reserved is free for the reader's next question.
                await self._close()
        return events

    def _passing_to(self, taker: Taker) -> Taker:
        def taken(events: list[Event]) -> Awaitable[None]:
            self._account.passed(events, self._all.clock())
            return taker(events)

        return taken

    async def cancel(self) -> bool:
        """Stop it because its reader said so; False when it had ended already."""
        if self.ended:
            return False
        await self.answer.aclose()
        return True

    async def stop(self, reason: Failed) -> None:
        """Stop it for a reason that its reader is told as an error."""
        if not self.ended:
            self._broken = reason
            await self.answer.aclose()

    async def break_off(self) -> None:
        """End it because of a defect, which its reader is told, even where nothing more would come."""
        self._broken = DEFECT
        await self.answer.aclose()

    def receipt(self) -> Receipt:
        """What it came to, as it stands."""
        receipt = self.answer.receipt()
        if self._broken is None:
            return receipt
        return replace(receipt, outcome="truncated" if receipt.delivered_chars else "failed", error=self._broken)

    async def aclose(self) -> None:
        """Stop it if it has not ended; the provider's work has ended when this returns. Told of once."""
        try:
            await self.answer.aclose()
        finally:
            await self._close()

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._all.closed(self)
        receipt = self.receipt()
        self._account.ended(receipt)
        await self._reserved.settle(self.answer.charge())


class Streams:
    """All answers under way in this process."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.draining = asyncio.Event()
        self._open: dict[str, Stream] = {}
        self._drain: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, answer: Answer, owner: str | None, account: Account, reserved: Reserved) -> Stream:
        """Take an answer in."""
        stream = Stream(answer, owner, account, reserved, self)
        self._open[stream.id] = stream
        return stream

    def closed(self, stream: Stream) -> None:
        """Forget an answer that has ended."""
        self._open.pop(stream.id, None)

    def get(self, stream_id: str, owner: str | None) -> Stream | None:
        """Give an answer under way to whom it belongs."""
        stream = self._open.get(stream_id)
        return stream if stream is not None and stream.owner == owner else None

    def drain(self, grace_s: float) -> None:
        """Let the answers under way end; those that have not after `grace_s` are stopped, and say why."""
        if self._drain is None:
            self.draining.set()
            self._drain = asyncio.create_task(self._stop_later(grace_s))

    async def aclose(self) -> None:
        """Stop what is under way; each reader is told."""
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.wait([self._drain])
        await self._stop_all()

    async def _stop_later(self, grace_s: float) -> None:
        await asyncio.sleep(grace_s)
        await self._stop_all()

    async def _stop_all(self) -> None:
        await asyncio.gather(*(stream.stop(SHUTTING_DOWN) for stream in list(self._open.values())))
