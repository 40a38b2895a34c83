"""The service behind every transport: it checks a chat request, starts its answer stream, and resumes or cancels it."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from guard import Guard, RejectionError
from providers import ProviderInfo, ProviderRegistry
from providers.services import NotOfferedError, Offer
from server.metrics import AnswerMetrics, Metrics
from server.schemas import ChatRequestBody
from server.streams.active import ActiveAnswer, ActiveAnswers
from server.streams.buffer import StreamNotFoundError, StreamStore, StreamStoreFullError
from server.streams.events import WireEventEncoder, cancelled_fields
from server.streams.reader import EventReader
from server.streams.replication import StreamReplication
from streaming import strategies
from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.pipeline import stream_answer
from streaming.session import Session

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class UnknownProviderError(UsageError):
    """The request names a provider or model that this service does not have."""


class ChatService:
    """The state and operations that all transports share. Used in one event loop, from `start` to `aclose`."""

    def __init__(
        self,
        providers: ProviderRegistry,
        offer: Offer,
        guard: Guard,
        metrics: Metrics,
        clock: Clock,
        redis_url: str | None = None,
    ) -> None:
        self.providers = providers
        self.offer = offer
        self.guard = guard
        self.metrics = metrics
        self.streams = ActiveAnswers(clock)
        self.clock = clock
        self._replication = StreamReplication(redis_url, self.streams) if redis_url else None
        self._store = StreamStore(self._replication)

    def start(self) -> None:
        """Start the background work: preload the local model, and replicate streams if Redis is configured."""
        self.providers.preload_local_model()
        if self._replication is not None:
            self._replication.start(self._store)

    async def aclose(self) -> None:
        """Stop all answers under way, and close the store, the replication, the guard and the providers."""
        await self.streams.aclose()
        await self._store.aclose()
        if self._replication is not None:
            await self._replication.aclose()
        await self.guard.aclose()
        await self.providers.aclose()

    async def start_answer(
        self, body: ChatRequestBody, caller: str, wire: str, request_id: str | None = None
    ) -> ActiveAnswer:
        """Start the answer to a chat request.

        `wire` labels the transport in metrics and logs. `request_id` is the caller's id for the provider's log; a new
        one is generated when it is missing or malformed. The stream's id is never sent to a provider, because it grants
        access to the stream. Raises RejectionError when the guard rejects the request, and UsageError when a provider,
        strategy or effort is unknown.
        """
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        strategy = strategies.parse(body.strategy).build()
        names = body.provider_list()
        session = self._open_session(names)
        self.providers.check_effort(names[0], body.effort)
        messages = self.guard.validate_messages(body.all_messages())
        routes = {route.name: self.providers.cost_model(route.name) for route in session.routes}
        reservation = await self.guard.reserve(caller, body.to_chat_request(messages, request_id), routes)
        try:
            answer = stream_answer(
                reservation.request,
                session,
                strategy,
                clock=self.clock,
                cost_model=self.providers.cost_model,
                filter=self.guard.output_filter(),
                before_retry=reservation.renew,
            )
        except BaseException:
            await reservation.settle(None)
            raise
        about = {
            "request_id": request_id,
            "provider": names[0],
            "strategy": strategy.name,
            "caller": _stream_owner(caller),
        }
        return self.streams.add(answer, _stream_owner(caller), self.observer(wire, about), reservation)

    def _open_session(self, names: list[str]) -> Session:
        """Return a session with the named providers.

        Raises RejectionError for a model that is not offered, and UnknownProviderError for a name that is no model.
        """
        try:
            _reject_replay(names)
            for name in names:
                self.offer.check(name)
            return self.providers.new_session(names, clock=self.clock)
        except NotOfferedError as fault:
            raise RejectionError("model.offered", "model_not_found", str(fault)) from None
        except UsageError as fault:
            raise UnknownProviderError(str(fault)) from None

    def list_models(self) -> list[str]:
        """Return the full names of the models that are offered and ready now."""
        ready = [info for info in self.providers.list_providers() if info.ready]
        providers = {_provider_of(info) for info in ready}
        named = [name for name in self.offer.named if name.partition(":")[0] in providers]
        return list(dict.fromkeys([*(info.name for info in ready), *named]))

    def observer(self, wire: str, about: Mapping[str, str | None]) -> AnswerMetrics:
        """Return the metrics recorder of one answer. The reader reports the events to it, and then the end."""
        return AnswerMetrics(self.metrics, self.clock, wire=wire, about=about)

    async def first_reader(self, stream: ActiveAnswer, resume: bool) -> EventReader:
        """Return the first reader of a new stream; with `resume`, its events are buffered.

        Raises StreamStoreFullError when no more streams can be buffered; the stream is then closed.
        """
        entries = WireEventEncoder(stream, self.clock)
        if not resume:
            return entries
        try:
            return self._store.add(stream, entries)
        except StreamStoreFullError:
            await entries.aclose()
            raise

    async def resume_reader(self, stream_id: str, caller: str, after: int) -> EventReader:
        """Return a reader of a caller's buffered stream, of this replica or another, after the event number `after`.

        Raises StreamNotFoundError when the caller has no such stream, or its events are no longer buffered.
        """
        owner = _stream_owner(caller)
        reader: EventReader | None = self._store.reader(stream_id, owner, after)
        if reader is None and self._replication is not None:
            reader = await self._replication.reader(stream_id, owner, after)
        if reader is None:
            raise StreamNotFoundError(
                "stream: not found, because it has expired, was lost in a restart, or is another caller's"
            )
        return reader

    async def cancel(self, stream_id: str, caller: str) -> dict[str, Any]:
        """Stop a caller's stream, of this replica or another, and return the fields of its receipt.

        Raises StreamNotFoundError when the caller has no such stream under way.
        """
        owner = _stream_owner(caller)
        stream = self.streams.get(stream_id, owner)
        if stream is not None and await stream.cancel():
            return {"stream_id": stream_id, **cancelled_fields(stream.receipt())}
        receipt_fields = None
        if stream is None and self._replication is not None:
            receipt_fields = await self._replication.cancel(stream_id, owner)
        if receipt_fields is None:
            raise StreamNotFoundError(
                "stream: not under way, because it has ended, never existed, or is another caller's"
            )
        return receipt_fields


def _provider_of(info: ProviderInfo) -> str:
    return info.name.partition(":")[0]


def _stream_owner(caller: str) -> str | None:
    """Return the API key's id that owns a stream; None without keys, where anyone who knows its id may read it."""
    return caller if caller.startswith("key:") else None


def _reject_replay(names: list[str]) -> None:
    """Raise UsageError for the replay provider: it would open files of this machine for any caller."""
    if any(name.startswith("replay") for name in names):
        raise UsageError(
            "replay: not offered over the network, because it reads the service's own files (choose another provider)"
        )
