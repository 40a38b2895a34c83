"""Interfaces that the page requires of the service. `server.chat_service.ChatService` implements them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from guard import Caller, Guard
from providers.models.source import ProviderSource
from streaming.clock import Clock
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.meter import MeterReading
from streaming.pipeline import Receipt
from streaming.session import Session
from streaming.trace import Probe


class PageAnswer(Protocol):
    """One answer under way. Only one task may call `next_events`; `cancel` may be called from any task."""

    @property
    def ended(self) -> bool: ...

    @property
    def session(self) -> Session: ...

    async def next_events(self, timeout_s: float | None = None) -> list[Event]:
        """Wait for events and return those that are due; return an empty list after `timeout_s` and once `ended`."""

    def meter_reading(self) -> MeterReading: ...

    def receipt(self) -> Receipt:
        """Return the receipt so far; it is final once the answer has ended."""

    async def cancel(self) -> bool:
        """Stop the answer, and wait until the provider's work has ended; return False when it had already ended."""

    async def aclose(self) -> None:
        """Stop the answer if it has not ended, settle its budget, and record its metrics and its log line."""


class AnswerSource(Protocol):
    """The part of the chat service that the page uses: every answer of the page comes from `start_answer`."""

    @property
    def providers(self) -> ProviderSource: ...

    @property
    def guard(self) -> Guard: ...

    @property
    def clock(self) -> Clock: ...

    def is_offered(self, name: str) -> bool:
        """Return whether callers may use the model `provider:model`."""

    def recording_rejections(self) -> AbstractContextManager[None]:
        """Record a request that the body of this context rejects, and raise the rejection again."""

    def record_rejection(self, rule: str) -> None:
        """Record a request that was rejected by that rule before it reached `start_answer`."""

    async def start_answer(
        self,
        caller: Caller,
        names: Sequence[str],
        request: ChatRequest,
        strategy: str,
        *,
        wire: str,
        tab: str | None = None,
        providers: ProviderSource | None = None,
        open_session: Callable[[], Session] | None = None,
        paid_by_caller: bool = False,
        probe: Probe | None = None,
    ) -> PageAnswer:
        """Admit the caller, validate the request, reserve its budget, and start its answer.

        The caller must close the answer. Raises RejectionError or UsageError, which are recorded already.
        """
