"""The answers under way: reading their events, stopping them, and recording their receipts at the end."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol

from streaming.clock import Clock
from streaming.delivery import EventSink
from streaming.events import TERMINAL, Event, Failed
from streaming.meter import MeterReading
from streaming.pipeline import AnswerObserver, AnswerStream, Charge, Receipt
from streaming.session import Session

INTERNAL_ERROR = Failed("internal", "internal error: the answer is incomplete (try again)")
SHUTTING_DOWN = Failed("shutting_down", "service: stopping (retry shortly)")

_log = logging.getLogger(__name__)


class SettleableReservation(Protocol):
    """Rate limits and budget reserved for an answer, and settled when it has ended."""

    async def settle(self, charge: Charge | None) -> None: ...


class ActiveAnswer:
    """One answer under way, with an `id` that cannot be guessed.

    `owner` is the API key that requested it, None when the service has no keys. Only one task may call `next_events`;
    `cancel` and `stop` may be called from any task.
    """

    def __init__(
        self,
        answer: AnswerStream,
        owner: str | None,
        observer: AnswerObserver,
        reservation: SettleableReservation,
        all: "ActiveAnswers",
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.answer = answer
        self.owner = owner
        self._observer = observer
        self._reservation = reservation
        self._all = all
        self._broken: Failed | None = None
        self._closed = False

    @property
    def ended(self) -> bool:
        return self.answer.ended

    @property
    def session(self) -> Session:
        """The attempts of the answer, with their states."""
        return self.answer.session

    def meter_reading(self) -> MeterReading:
        """Return the metrics of the answer now."""
        return self.answer.meter_reading()

    async def next_events(self, timeout_s: float | None = None, sink: EventSink | None = None) -> list[Event]:
        """Wait for events and return those that are due; return an empty list after `timeout_s` and once `ended`.

        Events that arrive while this waits go to the `sink`, if there is one; see `streaming.delivery`.
        """
        try:
            events = await self.answer.next_batch(timeout_s, sink and self._make_observing_sink(sink))
        except Exception:
            _log.exception("internal error in the pipeline")
            await self.fail()
            return []
        if events:
            self._observer.on_events(events, self._all.clock())
            if isinstance(events[-1], TERMINAL):
                # Settle before the reader sees the end, so that its next request can use the released reservation.
                await self._settle_and_remove()
        return events

    def _make_observing_sink(self, sink: EventSink) -> EventSink:
        def observe_then_send(events: list[Event]) -> Awaitable[None]:
            self._observer.on_events(events, self._all.clock())
            return sink(events)

        return observe_then_send

    async def cancel(self) -> bool:
        """Stop the answer at its reader's request; return False when it had already ended."""
        if self.ended:
            return False
        await self.answer.aclose()
        return True

    async def stop(self, reason: Failed) -> None:
        """Stop the answer; its reader receives `reason` as an error."""
        if not self.ended:
            self._broken = reason
            await self.answer.aclose()

    async def fail(self) -> None:
        """End the answer with an internal error, which its reader receives even if the answer had already ended."""
        self._broken = INTERNAL_ERROR
        await self.answer.aclose()

    def receipt(self) -> Receipt:
        """Return the receipt so far; it is final once the answer has ended."""
        receipt = self.answer.receipt()
        if self._broken is None:
            return receipt
        return replace(receipt, outcome="truncated" if receipt.delivered_chars else "failed", error=self._broken)

    async def aclose(self) -> None:
        """Stop the answer if it has not ended, wait until the provider's work has ended, and record its receipt."""
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
        await self._reservation.settle(self.answer.charge())


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
        self, answer: AnswerStream, owner: str | None, observer: AnswerObserver, reservation: SettleableReservation
    ) -> ActiveAnswer:
        """Register an answer, and return it with a new id."""
        stream = ActiveAnswer(answer, owner, observer, reservation, self)
        self._open[stream.id] = stream
        return stream

    def remove(self, stream: ActiveAnswer) -> None:
        """Remove an answer that has ended."""
        self._open.pop(stream.id, None)

    def get(self, stream_id: str, owner: str | None) -> ActiveAnswer | None:
        """Return an answer under way; None when there is none with that id and owner."""
        stream = self._open.get(stream_id)
        return stream if stream is not None and stream.owner == owner else None

    def find(self, stream_id: str) -> ActiveAnswer:
        """Return the answer under way with that id, whoever owns it. Raises KeyError when there is none."""
        return self._open[stream_id]

    def drain(self, grace_s: float) -> None:
        """Let the answers under way end, and stop those that have not ended after `grace_s` with a reason."""
        if self._drain is None:
            self.draining.set()
            self._drain = asyncio.create_task(self._stop_later(grace_s))

    async def aclose(self) -> None:
        """Stop all answers under way; each reader receives the reason."""
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.wait([self._drain])
        await self._stop_all()

    async def _stop_later(self, grace_s: float) -> None:
        await asyncio.sleep(grace_s)
        await self._stop_all()

    async def _stop_all(self) -> None:
        await asyncio.gather(*(stream.stop(SHUTTING_DOWN) for stream in list(self._open.values())))
