"""Backends for this project's own service: over SSE and the OpenAI API on timestamping sockets, and over WebSocket.

Arrival timestamps are taken here, those of the source by a service that records its answers. Tokens, cost, attempts and
the reason of a failure are those that the service reports.
Requests are not retried, and lost connections are not resumed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clients.answer_stream import ChatParams
from clients.errors import ClientError, ConnectionLostError, RequestRejectedError, StreamGoneError
from evaluation.backends.base import (
    Instrument,
    RunResources,
    ServiceTarget,
    TimedResponse,
    Timing,
    TrialRequest,
    elapsed_s,
    instrument_of,
    sent_at,
)
from evaluation.backends.service_decoder import (
    ServiceCompletionDecoder,
    ServiceOutcome,
    ServiceSSEDecoder,
    ending_columns,
    receipt_from_service,
)
from evaluation.metrics.trial_metrics import TimedEvents
from providers.decoding.decoder import join_surrogates
from providers.http.errors import parse_retry_after
from providers.http.transport import REQUEST_ID_HEADER
from providers.timed.send import send_timed
from providers.timed.serialized_request import SerializedRequest, prepare_post
from streaming.clock import Clock
from streaming.errors import NetworkError, ProtocolError, StreamError, TotalTimeout, TruncatedStreamError
from streaming.events import Event, Failed, Notice, TimedEvent
from streaming.http.timed_exchange import Gate, TimedExchange
from streaming.recording import take_recording

DROPPED_HEADER = "x-streamgauge-dropped-settings"
_PATH_AND_DECODER: dict[str, tuple[str, type[ServiceSSEDecoder] | type[ServiceCompletionDecoder]]] = {
    "sse": ("/api/chat", ServiceSSEDecoder),
    "openai": ("/v1/chat/completions", ServiceCompletionDecoder),
}


class ServiceHTTPBackend:
    """Sends requests to the service over the transports that are one HTTP request each."""

    timing: Timing = "sockets"

    def __init__(self, resources: RunResources) -> None:
        self._resources = resources
        self._prepared: dict[TrialRequest, SerializedRequest] = {}

    async def prepare(self, call: TrialRequest) -> None:
        """Build a request's bytes."""
        if call.key not in self._prepared:
            path, decoder = _PATH_AND_DECODER[call.transport]
            body = _completion_body(call) if call.transport == "openai" else {**chat_params(call)}
            config = self._resources.service.config
            self._prepared[call.key] = prepare_post(config, path, body, call.request, lambda _: decoder())
            await asyncio.sleep(0)

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        """Send a request to the service once; return the response as it arrived here."""
        resources = self._resources
        _, kind = _PATH_AND_DECODER[call.transport]
        decoder = kind()  # one decoder per answer: the service's outcome is read from it afterwards
        serialized = replace(self._prepared[call.key], decoder=lambda: decoder)
        mark = resources.lag.mark()
        answer = await send_timed(resources.sockets, serialized, call.request_id, gate)
        lag_s = resources.lag_since(mark)
        await resources.sockets.wait_turn()
        exchange, outcome, head = answer.exchange, decoder.outcome, answer.exchange.response_head
        if head is not None and head.status >= 300:
            body = b"".join(read.data for read in exchange.reads)
            outcome.read_body(body.decode(errors="replace"), head.status)
        events = [*dropped_settings_notices(exchange), *outcome.apply_to(answer.events)]
        source = take_source(resources.service, call.request_id)
        stamps = TimedEvents(sent_at(exchange), source, events, sent=exchange.sent_s is not None, timed_at_client=True)
        retry_after_s = parse_retry_after(head.headers) if head is not None else None
        return _timed_response(resources, call, stamps, outcome, instrument_of(answer, lag_s), retry_after_s)


def take_source(service: ServiceTarget, request_id: str) -> Sequence[TimedEvent] | None:
    """Return what the service recorded of an answer as it arrived from the provider; None if it recorded nothing.

    The service writes a recording before it sends the end of the answer.
    """
    recording = None if service.recordings is None else take_recording(service.recordings, request_id)
    return None if recording is None else recording.source


def dropped_settings_notices(exchange: TimedExchange) -> list[TimedEvent]:
    """Return a notice of the settings that the service left out, which the OpenAI API transport reports in a header.

    The other transports report them as an event.
    """
    head, at_s = exchange.response_head, exchange.headers_s
    names = head.headers.get(DROPPED_HEADER) if head is not None else None
    if at_s is None or not names:
        return []
    settings = ",".join(name.strip() for name in names.split(","))
    return [TimedEvent(at_s, Notice("dropped_settings", f"Left out: {names}.", {"settings": settings}))]


def _timed_response(
    resources: RunResources,
    call: TrialRequest,
    stamps: TimedEvents,
    outcome: ServiceOutcome,
    instrument: Instrument,
    retry_after_s: float | None = None,
) -> TimedResponse:
    """Return the response with the outcome, the usage and the cost that the service reported."""
    receipt = receipt_from_service(call, stamps, outcome, resources.access.cost_model(call.provider))
    ending = ending_columns(receipt, outcome)
    return TimedResponse(stamps, receipt.outcome, receipt.reading.usage, ending, instrument, retry_after_s)


def chat_params(call: TrialRequest) -> ChatParams:
    """Return the JSON body of a request to the SSE and WebSocket transports."""
    params = ChatParams(provider=call.provider, strategy=call.strategy)
    messages = _messages(call)
    if len(messages) == 1:
        params["message"] = messages[0]["content"]
    else:
        params["messages"] = messages
    if call.request.max_tokens is not None:
        params["max_tokens"] = call.request.max_tokens
    if call.request.temperature is not None:
        params["temperature"] = call.request.temperature
    if call.request.effort is not None:
        params["effort"] = call.request.effort
    if call.request.ignores_end:
        params["ignore_eos"] = True
    return params


def _completion_body(call: TrialRequest) -> dict[str, Any]:
    """Return the JSON body of a request to the OpenAI API transport.

    The provider's full name is sent as the model; the strategy is an additional field.
    """
    params = chat_params(call)
    params.pop("message", None)
    body: dict[str, Any] = {"model": params.pop("provider"), "messages": _messages(call)}
    if (effort := params.pop("effort", None)) is not None:
        body["reasoning_effort"] = effort
    return {**body, **params, "stream": True, "stream_options": {"include_usage": True}}


def _messages(call: TrialRequest) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": join_surrogates(turn.content)} for turn in call.request.messages]


class ServiceWebSocketBackend:
    """Sends each request over a new WebSocket. It is not retried, and a lost connection is not resumed."""

    timing: Timing = "client"

    def __init__(self, resources: RunResources) -> None:
        from clients.websocket import WebSocketClient  # the library is for this transport alone, and before the load

        self._new_client = WebSocketClient
        self._resources = resources
        self._target = resources.service

    async def prepare(self, call: TrialRequest) -> None:
        """Do nothing: a WebSocket has no single request."""

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        """Send a request to the service once; return the response as the client yields it."""
        resources = self._resources
        mark, recorder = resources.lag.mark(), _WebSocketRecorder(resources.clock)
        try:
            async with asyncio.timeout(self._target.total_s):
                await self._read_events(call, recorder, gate)
        except RequestRejectedError as rejection:
            recorder.record(Failed(rejection.kind, str(rejection), rejection.status))
        except StreamGoneError as fault:
            recorder.record(Failed(fault.kind, str(fault), 404))
        except (TimeoutError, ClientError) as fault:
            error = self._map_error(fault, begun=recorder.begun)
            recorder.record(Failed(error.kind, error.message))
        lag_s = resources.lag_since(mark)
        stamps = recorder.stamps(take_source(self._target, call.request_id))
        return _timed_response(resources, call, stamps, recorder.outcome, recorder.instrument(lag_s))

    async def _read_events(self, call: TrialRequest, recorder: "_WebSocketRecorder", gate: Gate | None) -> None:
        headers = {REQUEST_ID_HEADER: call.request_id}
        key, clock = self._target.config.key, self._resources.clock
        async with self._new_client(self._target.url, key=key, headers=headers, reconnect=False) as client:
            recorder.connected_s = clock()
            recorder.peer_address = client.peer_address
            answer = client.stream(**chat_params(call))
            if gate is not None:
                await gate()
            recorder.sent_s = clock()
            async with answer:
                recorder.begun = True
                async for received in answer:
                    event = recorder.outcome.record_event(received)
                    if event is not None:
                        recorder.record(event)

    def _map_error(self, fault: Exception, *, begun: bool) -> StreamError:
        """Map a client's error to the error that the other transports report for the same fault.

        `begun`: the service had accepted the request.
        """
        if isinstance(fault, TimeoutError):
            return TotalTimeout(f"the answer was not complete within {self._target.total_s:g} s")
        if isinstance(fault, ConnectionLostError):
            return TruncatedStreamError(str(fault)) if begun else NetworkError(str(fault))
        return ProtocolError(str(fault))


@dataclass(slots=True)
class _WebSocketRecorder:
    """Records the events of one WebSocket answer with their timestamps, in seconds on `clock`."""

    clock: Clock
    outcome: ServiceOutcome = field(default_factory=ServiceOutcome)
    events: list[TimedEvent] = field(default_factory=list)
    begun: bool = False
    connected_s: float | None = None
    peer_address: str | None = None
    sent_s: float | None = None
    asked_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.asked_s = self.clock()

    def record(self, event: Event) -> None:
        self.events.append(TimedEvent(self.clock(), event))

    def stamps(self, source: Sequence[TimedEvent] | None) -> TimedEvents:
        """Return the events with their timestamps, and those of the `source` as the service recorded them."""
        sent_s = self.asked_s if self.sent_s is None else self.sent_s
        return TimedEvents(sent_s, source, self.events, sent=self.sent_s is not None, timed_at_client=True)

    def instrument(self, lag_s: float) -> Instrument:
        """Return how the answer was timed; `lag_s` is the event loop's worst lag while it ran, in seconds."""
        source = None if self.connected_s is None else "callback"
        return Instrument(
            source,
            elapsed_s(self.asked_s, self.connected_s),
            loop_lag_max_s=lag_s,
            peer_address=self.peer_address,
            connected_s=self.connected_s,
        )
