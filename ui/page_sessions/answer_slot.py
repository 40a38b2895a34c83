"""The slot of one answer on a page: what the page has asked for there, and the answer under way."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from providers.models.source import ProviderSource
from streaming.clock import Clock
from streaming.meter import MeterReading, PriceFunction
from streaming.pipeline import Receipt
from streaming.session import Session
from ui.types import PageAnswer

UPDATE_TIMEOUT_S = 5.0
"""How long a page may take to ask for the next update of an answer."""
EndWaiter = Callable[[], Awaitable[None]]
"""Waits for the end of an answer that outlives its page."""


class AnswerSlot:
    """The slot of one answer on a page: its provider session, reused for one provider, and the answer under way."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._asked: tuple[str, ProviderSource] | None = None
        self._answer: PageAnswer | None = None
        self._stopping = asyncio.Lock()
        self.conversation = 0
        """Number of the current conversation; answers of an earlier, cleared one are no longer shown."""
        self.last_request_conversation = 0
        """Number of the conversation to which the last request belongs."""
        self.resumed: Any = None
        """The answer of a page before this one that the next event of this page goes on with."""
        self.requested: list[Any] = []
        """The conversation up to the question that the page has begun to ask; empty once its answer has begun."""
        self.cleared: list[Any] = []
        """The conversation that was cleared last, which an undo brings back."""
        self._price: PriceFunction | None = None
        self._wait_end: EndWaiter | None = None
        self._is_requested = False
        self._sending: int | None = None
        self._touched_s = float("-inf")

    def session(self, name: str, providers: ProviderSource, *, clock: Clock) -> Session:
        """Return the session with provider `name` of `providers`, a new one when either has changed."""
        if self._session is None or self._asked != (name, providers):
            self._session, self._asked = providers.new_session([name], clock=clock), (name, providers)
        return self._session

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return self._answer is not None and not self._answer.ended

    @property
    def usd(self) -> Decimal:
        """The known cost so far of the answer under way; 0 if unknown or if there is none."""
        is_running = self._answer is not None and self.busy
        cost = self.with_own_price(self._answer.meter_reading()).cost if self._answer and is_running else None
        return cost.total_usd if cost else Decimal(0)

    def with_own_price(self, reading: MeterReading) -> MeterReading:
        """Return a reading with its cost at the user's own price where no price is known."""
        return with_own_price(reading, self._price)

    def next_is_streamed(self, requested: bool) -> bool:
        """Return whether the next request will stream; a fallback turns streaming off for the rest of the session.

        Returns `requested`, the user's setting, while there is no session.
        """
        return requested if self._session is None else self._session.streamed

    def begin_request(self, now: float, messages: Sequence[Any] = (), resumed: Any = None) -> None:
        """Record that the page is about to ask for an answer: a new one to these `messages`, or `resumed`."""
        self._is_requested, self.requested, self.resumed = True, [*messages], resumed
        self.keep_sending(now)

    def take_request(self) -> bool:
        """Return whether the page has begun a request since the last one was taken; a `reset` withdraws it."""
        taken, self._is_requested = self._is_requested, False
        if taken:
            self.last_request_conversation = self.conversation
        return taken

    def keep_sending(self, now: float) -> None:
        """Record that a message of the current conversation is being sent or answered."""
        self._sending, self._touched_s = self.conversation, now

    def finish_sending(self) -> None:
        """Record that the last update of the answer is on its way to the page."""
        self._sending = self.resumed = None

    def is_sending(self, now: float) -> bool:
        """Return whether the next message must wait: for an answer, or for the last update of one.

        A page that no longer asks for updates is waited for no longer than `UPDATE_TIMEOUT_S`.
        """
        return self.busy or (self._sending == self.conversation and now - self._touched_s < UPDATE_TIMEOUT_S)

    async def begin(
        self, answer: PageAnswer, price: PriceFunction | None = None, wait_end: EndWaiter | None = None
    ) -> None:
        """Set the answer under way with the user's own price, and stop the previous one if it still runs.

        An answer with `wait_end` outlives the page.
        """
        before, self._answer, self._price, self._wait_end = self._answer, answer, price, wait_end
        if before is not None and before is not answer:
            await before.cancel()

    async def release(self) -> EndWaiter | None:
        """Let go of the answer of a closed page, and stop it unless it outlives the page; return its waiter then."""
        if self.busy and self._wait_end is not None:
            self._answer = None
            return self._wait_end
        await self.stop()
        return None

    async def stop(self) -> None:
        """Stop the answer under way; on return the provider's work has ended."""
        async with self._stopping:
            if self._answer is not None:
                await self._answer.cancel()

    async def wait_stopped(self) -> None:
        """Wait for a running stop to finish, so that the receipt is complete."""
        async with self._stopping:
            pass

    def end_session(self) -> None:
        """Start a new provider session with the next request; the conversation continues."""
        self._session = None

    async def reset(self) -> None:
        """Stop the answer under way, and start the next conversation with a new provider session."""
        self.conversation += 1
        self._is_requested, self.requested, self.resumed = False, [], None
        await self.stop()
        self._session = None


@dataclass(slots=True)
class SlotAnswer:
    """An answer under way in a slot of a page. Once it is closed, `receipt_id` names its receipt for the export."""

    answer: PageAnswer
    slot: AnswerSlot
    receipt_id: str | None = None

    async def wait_receipt(self) -> Receipt:
        """Wait for a running stop to finish, and return the receipt of the ended answer."""
        await self.slot.wait_stopped()
        return self.read_receipt()

    def read_receipt(self) -> Receipt:
        """Return the receipt so far, with the cost at the user's own price where no other is known."""
        receipt = self.answer.receipt()
        return replace(receipt, reading=self.slot.with_own_price(receipt.reading))


def with_own_price(reading: MeterReading, price: PriceFunction | None) -> MeterReading:
    """Return a reading with its cost at the user's own price, if there is one, where no price is known."""
    if reading.cost is not None or price is None:
        return reading
    return replace(reading, cost=price(reading.usage))
