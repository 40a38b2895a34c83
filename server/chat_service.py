"""The one way of an answer, for every transport and every tab of the page, and the streams that can be resumed.

admit → validate → reserve → stream → observe → settle. `start_answer` does the first four; `server.streams.active`
reports to the observer and settles when the answer has ended.
"""

import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guard import Caller, Guard, RejectionError, Reservation
from providers.models.source import ProviderRow, ProviderSource
from server.feedback import FeedbackStore
from server.limits import DEFAULT_SERVICE_LIMITS, ServiceLimits
from server.metrics import AnswerMetrics, Metrics
from server.offer import NotOfferedError, Offer
from server.recordings import AnswerRecorder
from server.streams.active import ActiveAnswer, ActiveAnswers
from server.streams.buffer import StreamNotFoundError, StreamStore, StreamStoreFullError
from server.streams.events import WireEventEncoder, cancelled_fields
from server.streams.reader import EventReader
from settings import DEFAULT_REDIS_TIMEOUT_S
from streaming import strategies
from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from streaming.pipeline import AnswerObserver, AnswerStream, EventFilter, ObserverPair, stream_answer
from streaming.session import Session
from streaming.strategies import Strategy
from streaming.trace import Probe

if TYPE_CHECKING:
    from server.streams.replication import StreamReplication

USAGE_RULE = "request.usage"
"""The rule of requests that ask for something that the service does not have, for example an unknown strategy."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class UnknownProviderError(UsageError):
    """The request names a provider or model that this service does not have."""


class ChatService:
    """The state and operations that all transports share. Used in one event loop, from `start` to `aclose`."""

    def __init__(
        self,
        providers: ProviderSource,
        offer: Offer,
        guard: Guard,
        metrics: Metrics,
        clock: Clock,
        *,
        redis_url: str | None = None,
        redis_timeout_s: float = DEFAULT_REDIS_TIMEOUT_S,
        limits: ServiceLimits = DEFAULT_SERVICE_LIMITS,
        recorder: AnswerRecorder | None = None,
    ) -> None:
        self.providers = providers
        self.offer = offer
        self.guard = guard
        self.metrics = metrics
        self.streams = ActiveAnswers(clock)
        self.clock = clock
        self.feedback: FeedbackStore | None = None
        """Where ratings of answers are kept; None if whoever runs the service wants none."""
        self._recorder = recorder
        self._replication = _make_replication(redis_url, self.streams, redis_timeout_s, limits) if redis_url else None
        self._store = StreamStore(self._replication, limits.buffer)

    def start(self) -> None:
        """Start replicating streams if Redis is configured."""
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
        self,
        caller: Caller | str,
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
    ) -> ActiveAnswer:
        """Admit the caller, validate the request, reserve its budget, and start its answer.

        A `caller` that is a str has been admitted before, and this is its id. `names` are tried in order. `wire` and
        `tab` label the answer in metrics and log. `providers` replaces the service's, and `open_session` the session
        with them. `paid_by_caller`: they use the caller's own API keys, so that any model may be asked, and only tokens
        count against the budgets. `caller_keys` are removed from the answer. `observer` is told what the metrics are.

        The returned answer must be closed; it then settles the budget and records its metrics and log line. Raises
        RejectionError by the guard, UsageError for an unknown provider, strategy or effort; both are recorded here.
        """
        providers = providers or self.providers
        with self.recording_rejections():
            caller_id = caller if isinstance(caller, str) else await self.guard.admit(caller)
            delivery = strategies.parse(strategy).build()
            session = self._open_session(names, providers, open_session, paid_by_caller)
            providers.check_effort(names[0], request.effort)
            await providers.load_prices(names)
            models = {route.name: providers.cost_model(route.name) for route in session.routes}
            reservation = await self._reserve(caller_id, self._validate(request), models, paid_by_caller)
        about = {"provider": names[0], "strategy": delivery.name, "request_id": reservation.request.request_id}
        observer, probe = self._observe(about | _label_caller(caller_id, tab), wire, probe, observer)
        answer_filter = self.guard.output_filter(caller_keys)
        answer = await self._stream(reservation, session, delivery, models, probe, answer_filter)
        return self.streams.add(answer, _stream_owner(caller_id), observer, reservation)

    def _observe(
        self, about: dict[str, str | None], wire: str, probe: Probe | None, observer: AnswerObserver | None
    ) -> tuple[AnswerObserver, Probe | None]:
        """Return what observes an answer: its metrics and its log line, its recording if any, and the `observer`."""
        metrics: AnswerObserver = AnswerMetrics(self.metrics, self.clock, wire=wire, about=about)
        if observer is not None:
            metrics = ObserverPair(metrics, observer)
        if self._recorder is None:
            return metrics, probe
        recording = self._recorder.record(metrics, probe, about)
        return recording, recording.probe

    @contextmanager
    def recording_rejections(self) -> Iterator[None]:
        """Record a request that the body of this context rejects, and raise the rejection again."""
        try:
            yield
        except RejectionError as rejection:
            self.record_rejection(rejection.rule)
            raise
        except UsageError:
            self.record_rejection(USAGE_RULE)
            raise

    def record_rejection(self, rule: str) -> None:
        """Record a request that a transport or the page has rejected by that rule before it reached this service."""
        self.metrics.record_rejection(rule)

    def _validate(self, request: ChatRequest) -> ChatRequest:
        """Return the request as it may be sent. Raises RejectionError."""
        return replace(
            request,
            messages=self.guard.validate_messages(request.messages),
            request_id=_check_request_id(request.request_id),
        )

    def _open_session(
        self,
        names: Sequence[str],
        providers: ProviderSource,
        create: Callable[[], Session] | None,
        paid_by_caller: bool,
    ) -> Session:
        """Return a session with the named providers, made by `create` if there is one.

        Raises RejectionError for a model that is not offered, and UnknownProviderError for a name that is no model.
        """
        try:
            _reject_replay(names)
            if not paid_by_caller:
                for name in names:
                    self.offer.check(name)
            return create() if create else providers.new_session(names, clock=self.clock)
        except NotOfferedError as fault:
            raise RejectionError("model.offered", "model_not_found", str(fault)) from None
        except UsageError as fault:
            raise UnknownProviderError(str(fault)) from None

    async def _reserve(
        self, caller_id: str, request: ChatRequest, models: Mapping[str, CostModel], paid_by_caller: bool
    ) -> Reservation:
        if paid_by_caller:
            models = {name: CostModel(model.counter) for name, model in models.items()}
        return await self.guard.reserve(caller_id, request, models)

    async def _stream(
        self,
        reservation: Reservation,
        session: Session,
        strategy: Strategy,
        models: Mapping[str, CostModel],
        probe: Probe | None,
        filter: EventFilter | None,
    ) -> AnswerStream:
        try:
            return stream_answer(
                reservation.request,
                session,
                strategy,
                clock=self.clock,
                cost_model=models.__getitem__,
                probe=probe,
                filter=filter,
                before_retry=reservation.renew,
            )
        except BaseException:
            await reservation.settle(None)
            raise

    def is_offered(self, name: str) -> bool:
        """Return whether callers may use the model `provider:model`, unless they pay for it with their own key."""
        try:
            self.offer.check(name)
        except NotOfferedError:
            return False
        return True

    def list_models(self) -> list[str]:
        """Return the full names of the models that are offered and ready now."""
        ready = [info for info in self.providers.list_providers() if info.ready]
        providers = {_provider_of(info) for info in ready}
        named = [name for name in self.offer.named if name.partition(":")[0] in providers]
        return list(dict.fromkeys([*(info.name for info in ready), *named]))

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

    async def buffer_answer(self, stream_id: str, orphan_timeout_s: float) -> EventReader:
        """Return the first reader of an answer of this process, which goes on without a reader for that long.

        When no more streams can be buffered, it is stopped as soon as the reader is closed.
        """
        stream = self.streams.find(stream_id)
        entries = WireEventEncoder(stream, self.clock)
        try:
            return self._store.add(stream, entries, orphan_timeout_s)
        except StreamStoreFullError:
            return entries

    async def resume_reader(self, stream_id: str, caller: str, after: int) -> EventReader:
        """Return a reader of a caller's buffered stream, of this replica or another, after the event number `after`.

        Raises StreamNotFoundError when the caller has no such stream, or its events are no longer buffered, and
        StreamUnavailableError when this cannot be told now.
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

        Raises StreamNotFoundError when the caller has no such stream under way, and StreamUnavailableError when this
        cannot be told now.
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


def _check_request_id(request_id: str | None) -> str:
    """Return the caller's id for the provider's log, or a new one when it is missing or malformed.

    The stream's id is never sent to a provider, because it grants access to the stream.
    """
    return request_id if request_id is not None and _REQUEST_ID.fullmatch(request_id) else uuid.uuid4().hex


def _provider_of(info: ProviderRow) -> str:
    return info.name.partition(":")[0]


def _label_caller(caller_id: str, tab: str | None) -> dict[str, str | None]:
    """Return what the log says of the caller: the key's id, if any, and the tab of the page."""
    return {"caller": _stream_owner(caller_id)} | ({"tab": tab} if tab else {})


def _stream_owner(caller: str) -> str | None:
    """Return the API key's id that owns a stream; None without keys, where anyone who knows its id may read it."""
    return caller if caller.startswith("key:") else None


def _reject_replay(names: Sequence[str]) -> None:
    """Raise UsageError for the replay provider: it would open files of this machine for any caller."""
    if any(name.startswith("replay") for name in names):
        raise UsageError(
            "replay: not offered over the network, because it reads the service's own files (choose another provider)"
        )


def _make_replication(
    redis_url: str, streams: ActiveAnswers, timeout_s: float, limits: ServiceLimits
) -> "StreamReplication":
    """Return the replication, which imports Redis' client: a service without Redis starts sooner without it."""
    from server.streams.replication import StreamReplication

    retention_s = limits.buffer.retention_s
    return StreamReplication(
        redis_url, streams, timeout_s=timeout_s, retention_s=retention_s, intervals=limits.replication
    )
