"""The answers that are under way: how each is stopped, and what is told of it when it has ended."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol

from streaming.clock import Clock
from streaming.delivery import EventSink
from streaming.events import TERMINAL, Event, Failed
from streaming.pipeline import AnswerObserver, AnswerStream, Charge, Receipt

INTERNAL_ERROR = Failed("internal", "a defect in this program: the answer is cut")
SHUTTING_DOWN = Failed("shutting_down", "the service is stopping: ask again in a moment")

_log = logging.getLogger(__name__)


class SettleableReservation(Protocol):
    """What was set aside for an answer, and goes back when it has ended."""

    async def settle(self, charge: Charge | None) -> None: ...


class ActiveAnswer:
    """One answer under way. `id` cannot be guessed; `owner` is the key's name that asked, None where keys are off.

    It is read in one place, with `next_events`; `cancel` and `stop` may come from any task.
    """

    def __init__(
        self,
        answer: AnswerStream,
        owner: str | None,
        observer: AnswerObserver,
        reserved: SettleableReservation,
        all: "ActiveAnswers",
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.answer = answer
        self.owner = owner
        self._observer = observer
        self._reserved = reserved
        self._all = all
        self._broken: Failed | None = None
        self._closed = False

    @property
    def ended(self) -> bool:
        return self.answer.ended

    async def next_events(self, timeout_s: float | None = None, sink: EventSink | None = None) -> list[Event]:
        """Give the events that are due, waiting for the first; empty after `timeout_s` and once `ended`.

        What comes while this waits goes to the `sink`, if there is one; see `streaming.delivery`.
        """
        try:
            events = await self.answer.next_batch(timeout_s, sink and self._make_observing_sink(sink))
        except Exception:
            _log.exception("a defect in the pipeline")
            await self.fail()
            return []
        if events:
            self._observer.on_events(events, self._all.clock())
            if isinstance(events[-1], TERMINAL):
                # Before its reader knows: what was reserved is free for the reader's next question.
                await self._settle_and_remove()
        return events

    def _make_observing_sink(self, sink: EventSink) -> EventSink:
        def observe_then_send(events: list[Event]) -> Awaitable[None]:
            self._observer.on_events(events, self._all.clock())
            return sink(events)

        return observe_then_send

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

    async def fail(self) -> None:
        """End it because of a defect, which its reader is told, even where nothing more would come."""
        self._broken = INTERNAL_ERROR
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
            await self._settle_and_remove()

    async def _settle_and_remove(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._all.remove(self)
        receipt = self.receipt()
        self._observer.on_end(receipt)
        await self._reserved.settle(self.answer.charge())


class ActiveAnswers:
    """All answers under way in this process."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.draining = asyncio.Event()
        self._open: dict[str, ActiveAnswer] = {}
        self._drain: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(
        self, answer: AnswerStream, owner: str | None, observer: AnswerObserver, reserved: SettleableReservation
    ) -> ActiveAnswer:
        """Take an answer in."""
        stream = ActiveAnswer(answer, owner, observer, reserved, self)
        self._open[stream.id] = stream
        return stream

    def remove(self, stream: ActiveAnswer) -> None:
        """Forget an answer that has ended."""
        self._open.pop(stream.id, None)

    def get(self, stream_id: str, owner: str | None) -> ActiveAnswer | None:
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
