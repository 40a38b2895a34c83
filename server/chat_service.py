"""The way of a question from any wire into the pipeline: what the guard lets in becomes a stream."""

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
from server.streams.buffer import StreamGoneError, StreamStore, StreamStoreFullError
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
    """No such provider, or model, can be asked here."""


class ChatService:
    """All that the wires share. Belongs to one event loop, from `start` to `aclose`."""

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
        """Begin what works in the background."""
        self.providers.preload_local_model()
        if self._replication is not None:
            self._replication.start(self._store)

    async def aclose(self) -> None:
        """Stop what is under way and give everything back."""
        await self.streams.aclose()
        await self._store.aclose()
        if self._replication is not None:
            await self._replication.aclose()
        await self.guard.aclose()
        await self.providers.aclose()

    async def start_answer(
        self, body: ChatRequestBody, caller: str, wire: str, request_id: str | None = None
    ) -> ActiveAnswer:
        """Let a question in. Raises Refusal, or UsageError for names that mean nothing.

        `request_id` is the caller's own for the provider's log; whoever knows a stream's id may be let into it, so the
        provider is never told that.
        """
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        strategy = strategies.parse(body.strategy).build()
        names = body.provider_list()
        session = self._open_session(names)
        self.providers.check_effort(names[0], body.effort)
        messages = self.guard.validate_messages(body.all_messages())
        routes = {route.name: self.providers.cost_model(route.name) for route in session.routes}
        reserved = await self.guard.reserve(caller, body.to_chat_request(messages, request_id), routes)
        try:
            asked = stream_answer(
                reserved.request,
                session,
                strategy,
                clock=self.clock,
                cost_model=self.providers.cost_model,
                filter=self.guard.output_filter(),
                before_retry=reserved.renew,
            )
        except BaseException:
            await reserved.settle(None)
            raise
        about = {
            "request_id": request_id,
            "provider": names[0],
            "strategy": strategy.name,
            "caller": _stream_owner(caller),
        }
        return self.streams.add(asked, _stream_owner(caller), self.observer(wire, about), reserved)

    def _open_session(self, names: list[str]) -> Session:
        """Open a session with those that are asked. Raise Refusal for a model not offered, NoProvider for no model."""
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
        """Return the full names that are offered and can be asked now."""
        ready = [info for info in self.providers.list_providers() if info.ready]
        providers = {_provider_of(info) for info in ready}
        named = [name for name in self.offer.named if name.partition(":")[0] in providers]
        return list(dict.fromkeys([*(info.name for info in ready), *named]))

    def observer(self, wire: str, about: Mapping[str, str | None]) -> AnswerMetrics:
        """Open the account of an answer; whoever reads it says what passes and how it ended."""
        return AnswerMetrics(self.metrics, self.clock, wire=wire, about=about)

    async def first_reader(self, stream: ActiveAnswer, resume: bool) -> EventReader:
        """Give the stream's first reader. Raises Full, and the stream is closed."""
        entries = WireEventEncoder(stream, self.clock)
        if not resume:
            return entries
        try:
            return self._store.add(stream, entries)
        except StreamStoreFullError:
            await entries.aclose()
            raise

    async def resume_reader(self, stream_id: str, caller: str, after: int) -> EventReader:
        """Give a reader of a kept stream of that caller, here or at another replica. Raises Gone."""
        owner = _stream_owner(caller)
        reader: EventReader | None = self._store.reader(stream_id, owner, after)
        if reader is None and self._replication is not None:
            reader = await self._replication.reader(stream_id, owner, after)
        if reader is None:
            raise StreamGoneError(
                "there is no such stream: it has expired, the service was restarted, or it never was this caller's"
            )
        return reader

    async def cancel(self, stream_id: str, caller: str) -> dict[str, Any]:
        """Stop a stream of that caller, here or at another replica; gives the receipt. Raises Gone."""
        owner = _stream_owner(caller)
        stream = self.streams.get(stream_id, owner)
        if stream is not None and await stream.cancel():
            return {"stream_id": stream_id, **cancelled_fields(stream.receipt())}
        found = None
        if stream is None and self._replication is not None:
            found = await self._replication.cancel(stream_id, owner)
        if found is None:
            raise StreamGoneError("no such stream is under way: it has ended, never was, or is another caller's")
        return found


def _provider_of(info: ProviderInfo) -> str:
    return info.name.partition(":")[0]


def _stream_owner(caller: str) -> str | None:
    """Say whose a stream is: a key's; where keys are off, whoever knows the stream's id may have it."""
    return caller if caller.startswith("key:") else None


def _reject_replay(names: list[str]) -> None:
    """Refuse what opens a file of this machine for whoever can reach the service. Raises UsageError."""
    if any(name.startswith("replay") for name in names):
        raise UsageError("replay plays files of the service's own machine: it is not offered over the network")
