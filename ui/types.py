"""Interfaces that the page requires of the service. `server.chat_service.ChatService` implements them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from guard import Caller, Guard
from providers.models.source import ProviderSource
from streaming.clock import Clock
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.meter import MeterReading
from streaming.pipeline import AnswerObserver, Receipt
from streaming.session import Session
from streaming.trace import Probe


class PageAnswer(Protocol):
    """One answer under way. Only one task may call `next_events`; `cancel` may be called from any task."""

    @property
    def id(self) -> str:
        """The id of its stream, which cannot be guessed and grants access to it."""

    @property
    def owner(self) -> str | None:
        """The id of the API key that requested it; None when the service has no keys."""

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


class FeedbackSink(Protocol):
    """A place for ratings of answers."""

    def add(self, rating: Mapping[str, Any]) -> None:
        """Append a rating. Blocks. Raises OSError."""


class PageReader(Protocol):
    """A reader of an answer's stream. Closing it does not stop a stream that is buffered."""

    ended: bool

    async def next_batch(self, timeout_s: float | None = None) -> Sequence[tuple[int, str, bytes]]:
        """Wait for new events and return them with their numbers; return none after `timeout_s` and once `ended`."""

    async def aclose(self) -> None: ...


class AnswerSource(Protocol):
    """The part of the chat service that the page uses: every answer of the page comes from `start_answer`."""

    @property
    def providers(self) -> ProviderSource: ...

    @property
    def guard(self) -> Guard: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def feedback(self) -> FeedbackSink | None: ...

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
        caller_keys: Collection[str] = (),
        probe: Probe | None = None,
        observer: AnswerObserver | None = None,
    ) -> PageAnswer:
        """Admit the caller, validate the request, reserve its budget, and start its answer.

        The caller must close the answer or buffer it. `caller_keys` are removed from it. `observer` is told of its
        events and of its end. Raises RejectionError or UsageError, which are recorded already.
        """

    async def buffer_answer(self, stream_id: str, orphan_timeout_s: float) -> PageReader:
        """Return the first reader of an answer, which goes on without a reader for that long, and closes itself."""

    async def resume_reader(self, stream_id: str, caller: str, after: int) -> PageReader:
        """Return a reader of a caller's buffered stream after the event number `after`.

        Raises LookupError when the caller has no such stream, or its events are no longer buffered.
        """
