"""Backend for vendors' services over timestamping sockets, with the results that the pipeline would have produced.

The adapter's own decoder decodes the events; the strategy is replayed over them and the meter reads them, each at the
kernel's timestamp of its arrival. What this process does meanwhile therefore affects no metric. Requests to this
project's own service use the same sockets, but there the strategy and the meter are the service's.
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
from providers.timed.serialized_request import SerializedRequest
from streaming.adapter import PreparedRequest, UnpreparableRequest
from streaming.clock import Clock
from streaming.errors import StreamError, UsageError
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
    """The part of `providers.ProviderRegistry` that finds an adapter by the provider's name."""

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session: ...


class TimedBackend:
    """Sends the requests of one run over timestamping sockets, on one event loop, after preparing them before the load.

    `clock` is CLOCK_MONOTONIC, like the kernel's timestamps. A request that cannot be prepared is not supported: it is
    sent in process, where the adapter reports the reason. `service` sends over the service's transports.
    """

    def __init__(self, access: SessionFactory, clock: Clock, service: "ServiceBackend | None" = None) -> None:
        self._access, self._clock, self._service = access, clock, service
        self._prepared: dict[TrialRequest, PreparedRequest | SerializedRequest | None] = {}
        self._sockets: TimestampingSelector | None = None
        self._lag: SharedLoopLagMonitor | None = None
        self._attention = ExitStack()

    async def prepare(self, call: TrialRequest) -> None:
        """Prepare a request for sending, under any request id. The first one for a vendor imports the vendor's SDK."""
        key = _prepared_key(call)
        if key not in self._prepared:
            if call.transport == IN_PROCESS:
                self._prepared[key] = await self._prepare_request(call.provider, call.request)
            else:
                self._prepared[key] = self._service_backend.prepare(key)
            await asyncio.sleep(0)

    def supports(self, call: TrialRequest) -> bool:
        """Return whether the request was prepared, so that it can be sent over timestamping sockets."""
        return self._prepared.get(_prepared_key(call)) is not None

    def start(self) -> dict[str, Any]:
        """Freeze the garbage collector, take real-time priority if possible; return the manifest's instrument entry.

        Real-time priority suits a process that mostly waits: it is not taken if any answers are generated in this one.
        """
        by_name: dict[str, bool] = {}
        for call, entry in self._prepared.items():
            name = transport_name(call.provider, call.transport)
            by_name[name] = by_name.get(name, True) and entry is not None
        carried = [name for name, whole in by_name.items() if whole]
        interference.freeze_gc()
        here = any(entry is None and call.transport == IN_PROCESS for call, entry in self._prepared.items())
        taken = False if here or not by_name else self._attention.enter_context(_realtime_priority())
        return {"stamped_sockets": carried, "real_time_priority": taken}

    async def send(self, call: TrialRequest) -> TimedVendorResponse:
        """Send a prepared request to its vendor once; return the timed response. A failure becomes its last event."""
        prepared = self._prepared[_prepared_key(call)]
        assert prepared is not None and not isinstance(prepared, SerializedRequest)
        sockets, lag = self._open_selector()
        mark = lag.mark()
        answer = await prepared.send(sockets, request_id(call))
        response = TimedVendorResponse(call, answer, lag.worst_s(mark))
        await sockets.wait_turn()
        return response

    async def ask_service(self, call: TrialRequest) -> "TimedServiceResponse":
        """Send a prepared request to the service once; return the timed response. A failure becomes its last event."""
        prepared = self._prepared[_prepared_key(call)]
        sockets, lag = self._open_selector()
        mark = lag.mark()
        if not isinstance(prepared, SerializedRequest):
            response = await self._service_backend.send_websocket(call)
        else:
            response = await self._service_backend.send_timed(sockets, prepared, call)
        response.instrument["loop_lag_max_s"] = round(lag.worst_s(mark), 9)
        await sockets.wait_turn()
        return response

    @property
    def _service_backend(self) -> "ServiceBackend":
        assert self._service is not None  # every run with a service transport passes one
        return self._service

    def close(self) -> None:
        """Close all sockets and restore the priority and the garbage collector. Safe to call twice."""
        self._attention.close()
        interference.unfreeze_gc()
        if self._sockets is not None and self._lag is not None:
            self._lag.close()
            self._sockets.close()
            self._sockets = self._lag = None

    async def _prepare_request(self, provider: str, request: ChatRequest) -> PreparedRequest | None:
        try:
            route = self._access.new_session([provider], clock=self._clock, policy=NO_RETRY).route
            prepared_request = await route.adapter.prepare_request(replace(request, model=route.model))
        except (StreamError, UsageError):
            # Sent in process, the adapter raises the same error, which becomes the outcome of the trial.
            return None
        return None if isinstance(prepared_request, UnpreparableRequest) else prepared_request

    def _open_selector(self) -> tuple[TimestampingSelector, SharedLoopLagMonitor]:
        if self._sockets is None or self._lag is None:
            self._sockets, self._lag = TimestampingSelector(), SharedLoopLagMonitor()
        return self._sockets, self._lag


def receipt(response: TimedVendorResponse, delivered: Sequence[TimedEvent], cost_model: CostModel) -> Receipt:
    """Return the receipt of an answer by the pipeline's rules; the last event says how it ended."""
    events, exchange = response.answer.events, response.answer.exchange
    meter = Meter(response.call.request.messages, sent_at(exchange), cost_model)
    for timed in events:
        meter.feed(timed.event, timed.at_s)
    terminal = terminal_event(response.answer)
    meter.end(events[-1].at_s)
    finish = terminal if isinstance(terminal, Finish) else None
    return Receipt(
        outcome=outcome_of(terminal, has_text=bool(meter.text.strip())),
        finish_reason=finish.reason if finish else None,
        finish_raw=finish.raw if finish else None,
        error=terminal if isinstance(terminal, Failed) else None,
        served_by=response.call.provider,
        attempts=1,
        fell_back_to=None,
        delivered_chars=sum(len(timed.event.text) for timed in delivered if isinstance(timed.event, TextDelta)),
        reading=meter.read(events[-1].at_s),
        stop_s=None,
        dropped_settings=dropped_settings_of(timed.event for timed in events),
    )


def event_timestamps(response: TimedVendorResponse, strategy: Strategy) -> trial_metrics.TimedEvents:
    """Return an answer's events with source timestamps, and as `strategy` would have delivered them."""
    events, exchange = response.answer.events, response.answer.exchange
    return trial_metrics.TimedEvents(
        sent_at(exchange), events, list(replay(events, strategy)), sent=exchange.sent_s is not None
    )


@contextmanager
def _realtime_priority() -> Iterator[bool]:
    """Take real-time priority for the duration of a load if permitted; yield whether it was taken."""
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
    """Return the request without the parts that a prepared request does not contain.

    These are the request id and, in process, the strategy, which is replayed afterwards.
    """
    strategy = "" if call.transport == IN_PROCESS else call.strategy
    return replace(call, strategy=strategy, request=replace(call.request, request_id=None))
