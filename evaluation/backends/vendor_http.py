"""Asks over stamped sockets: vendors' services, and makes of what came what the pipeline would have made of it.

The events are decoded by the adapter's own decoder; the strategy is replayed over them and the meter is fed with them,
each at the kernel's stamp of its arrival. So what this program does meanwhile is in no figure. Where a run asks over
this project's own service, its wires go the same way, but the strategy and the meter are the service's.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from evaluation.backends import interference
from evaluation.backends.call import TimedVendorResponse, TrialRequest, request_id, sent_at, terminal_event
from evaluation.backends.interference import SharedLoopLagMonitor
from evaluation.metrics import trial_metrics
from evaluation.scenario import IN_PROCESS, transport_name
from providers.models.fitting import MAX_ROUNDS
from providers.timed import send as timed_send
from providers.timed.prepared_request import PreparedRequest
from streaming.clock import Clock
from streaming.events import Failed, Finish, TextDelta, TimedEvent, dropped_settings_of
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.messages import ChatRequest
from streaming.meter import CostModel, Meter
from streaming.os_limits import set_realtime_priority
from streaming.pipeline import Receipt, outcome_of
from streaming.replay import replay
from streaming.retry import NO_RETRY, RetryPolicy
from streaming.session import Session
from streaming.strategies import Strategy

if TYPE_CHECKING:
    from evaluation.backends.service import ServiceBackend
    from evaluation.backends.service_decoder import TimedServiceResponse


class SessionFactory(Protocol):
    """Who knows the adapters by name: `providers.ProviderRegistry`."""

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session: ...


class TimedBackend:
    """The stamped way of one run, on one event loop: requests are prepared before the load, `close` ends it.

    `clock` is CLOCK_MONOTONIC, as the stamps are. What could not be prepared is not carried: the adapter, asked for it
    in process, says why. `service` is this project's own, for the transports that are its wires.
    """

    def __init__(self, access: SessionFactory, clock: Clock, service: "ServiceBackend | None" = None) -> None:
        self._access, self._clock, self._service = access, clock, service
        self._prepared: dict[TrialRequest, PreparedRequest | None] = {}
        self._stale: set[TrialRequest] = set()
        """What was prepared before its service refused a setting that is in it."""
        self._sockets: TimestampingSelector | None = None
        self._lag: SharedLoopLagMonitor | None = None
        self._attention = ExitStack()

    async def prepare(self, call: TrialRequest) -> None:
        """Have a request ready to be sent, whatever its id. The first one for a service costs its SDK's import."""
        key = _prepared_key(call)
        if key not in self._prepared:
            if call.transport == IN_PROCESS:
                self._prepared[key] = await self._prepare_request(call.provider, call.request)
            else:
                self._prepared[key] = self._service_backend.prepare(key)
            await asyncio.sleep(0)

    def supports(self, call: TrialRequest) -> bool:
        """Whether the request was prepared, and is asked over stamped sockets."""
        return self._prepared.get(_prepared_key(call)) is not None

    def start(self) -> dict[str, Any]:
        """Make ready for the load and give what the manifest says of it.

        Real-time priority is for a process that mostly waits: it is not taken where anybody answers in this one.
        """
        by_name: dict[str, bool] = {}
        for call, found in self._prepared.items():
            name = transport_name(call.provider, call.transport)
            by_name[name] = by_name.get(name, True) and found is not None
        carried = [name for name, whole in by_name.items() if whole]
        interference.freeze_gc()
        here = any(found is None and call.transport == IN_PROCESS for call, found in self._prepared.items())
        taken = False if here or not by_name else self._attention.enter_context(_realtime_priority())
        return {"stamped_sockets": carried, "real_time_priority": taken}

    async def send(self, call: TrialRequest) -> TimedVendorResponse:
        """Ask once what was prepared of a vendor. What breaks the answer is its last event."""
        prepared = self._prepared[_prepared_key(call)]
        assert prepared is not None
        sockets, lag = self._open_selector()
        mark = lag.mark()
        answer = await self._ask_fitted(sockets, call, prepared)
        heard = TimedVendorResponse(call, answer, lag.worst_s(mark))
        await sockets.wait_turn()
        return heard

    async def ask_service(self, call: TrialRequest) -> "TimedServiceResponse":
        """Ask once what was prepared of the service. What breaks the answer is its last event."""
        prepared = self._prepared[_prepared_key(call)]
        sockets, lag = self._open_selector()
        mark = lag.mark()
        if prepared is None:
            arrived = await self._service_backend.send_websocket(call)
        else:
            arrived = await self._service_backend.send_timed(sockets, prepared, call)
        arrived.instrument["loop_lag_max_s"] = round(lag.worst_s(mark), 9)
        await sockets.wait_turn()
        return arrived

    async def _ask_fitted(
        self, sockets: TimestampingSelector, call: TrialRequest, prepared: PreparedRequest
    ) -> timed_send.TimedResponse:
        """Ask, and again without the settings that the service refuses; the figures are those of the last request."""
        key = _prepared_key(call)
        for _ in range(MAX_ROUNDS):
            if key in self._stale:
                self._stale.discard(key)
                self._prepared[key] = prepared = await self._prepare_request(call.provider, call.request) or prepared
            answer = await timed_send.send_timed(sockets, prepared, request_id(call))
            if answer.error is None or not prepared.learn(answer.error):
                break
            self._stale |= {other for other in self._prepared if other.provider == call.provider}
        if answer.error is None:
            return answer
        error = await prepared.explain(answer.error)
        failed = Failed(error.kind, error.message, error.http_status)
        return replace(answer, events=[*answer.events[:-1], TimedEvent(answer.events[-1].at_s, failed)], error=error)

    @property
    def _service_backend(self) -> "ServiceBackend":
        assert self._service is not None  # the run started it, or was given its address
        return self._service

    def close(self) -> None:
        """Close all sockets and give the priority back. Safe to call twice."""
        self._attention.close()
        interference.unfreeze_gc()
        if self._sockets is not None and self._lag is not None:
            self._lag.close()
            self._sockets.close()
            self._sockets = self._lag = None

    async def _prepare_request(self, provider: str, request: ChatRequest) -> PreparedRequest | None:
        try:
            route = self._access.new_session([provider], clock=self._clock, policy=NO_RETRY).route
            adapter: Any = route.adapter
            if not hasattr(adapter, "prepare_request"):
                return None
            found = await adapter.prepare_request(replace(request, model=route.model))
        except Exception:
            # The adapter says it when it is asked, as the outcome of the trial.
            return None
        return found if isinstance(found, PreparedRequest) else None

    def _open_selector(self) -> tuple[TimestampingSelector, SharedLoopLagMonitor]:
        if self._sockets is None or self._lag is None:
            self._sockets, self._lag = TimestampingSelector(), SharedLoopLagMonitor()
        return self._sockets, self._lag


def receipt(heard: TimedVendorResponse, delivered: Sequence[TimedEvent], cost_model: CostModel) -> Receipt:
    """Give what an answer came to by the pipeline's rules; the last event is its ending."""
    events, exchange = heard.answer.events, heard.answer.exchange
    meter = Meter(heard.call.request.messages, sent_at(exchange), cost_model)
    for timed in events:
        meter.feed(timed.event, timed.at_s)
    terminal = terminal_event(heard.answer)
    meter.end(events[-1].at_s)
    finish = terminal if isinstance(terminal, Finish) else None
    return Receipt(
        outcome=outcome_of(terminal, has_text=bool(meter.text.strip())),
        finish_reason=finish.reason if finish else None,
        finish_raw=finish.raw if finish else None,
        error=terminal if isinstance(terminal, Failed) else None,
        served_by=heard.call.provider,
        attempts=1,
        fell_back_to=None,
        delivered_chars=sum(len(timed.event.text) for timed in delivered if isinstance(timed.event, TextDelta)),
        reading=meter.read(events[-1].at_s),
        stop_s=None,
        dropped_settings=dropped_settings_of(timed.event for timed in events),
    )


def event_timestamps(heard: TimedVendorResponse, strategy: Strategy) -> trial_metrics.TimedEvents:
    """Give both ends' events: as they arrived, and as `strategy` would have delivered them then."""
    events, exchange = heard.answer.events, heard.answer.exchange
    return trial_metrics.TimedEvents(
        sent_at(exchange), events, list(replay(events, strategy)), sent=exchange.sent_s is not None
    )


@contextmanager
def _realtime_priority() -> Iterator[bool]:
    """Take real-time priority for the time of a load, where it may be taken; say whether it was."""
    before = _current_scheduling()
    taken = set_realtime_priority()
    try:
        yield taken
    finally:
        if taken and before is not None:
            os.sched_setscheduler(0, *before)


def _current_scheduling() -> tuple[int, os.sched_param] | None:
    if not hasattr(os, "sched_getscheduler"):
        return None
    return os.sched_getscheduler(0), os.sched_getparam(0)


def _prepared_key(call: TrialRequest) -> TrialRequest:
    """Leave out what the prepared request has not: the id, and the strategy where it is replayed here."""
    strategy = "" if call.transport == IN_PROCESS else call.strategy
    return replace(call, strategy=strategy, request=replace(call.request, request_id=None))
