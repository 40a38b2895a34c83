"""Backend for this project's own service: SSE and the OpenAI API over timestamping sockets, WebSocket by its client.

Arrival timestamps are taken here; tokens, cost, attempts and the reason of a failure are those the service reports.
Requests are not retried, and lost connections are not resumed.
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from clients.answer_stream import ChatParams
from clients.errors import ClientError, ConnectionLostError, RequestRejectedError, StreamGoneError
from clients.websocket import WebSocketClient
from evaluation.backends.call import TrialRequest, elapsed_s, instrument_columns, request_id, sent_at
from evaluation.backends.service_decoder import (
    ServiceCompletionDecoder,
    ServiceOutcome,
    ServiceSSEDecoder,
    TimedServiceResponse,
)
from evaluation.metrics import trial_metrics
from providers.decoding.decoder import join_surrogates
from providers.http.client import ServiceConfig, proxy_for
from providers.http.errors import ServiceLabels
from providers.http.transport import REQUEST_ID_HEADER
from providers.timed import send
from providers.timed.serialized_request import SerializedRequest, prepare_post
from settings import Settings
from streaming.clock import Clock
from streaming.errors import NetworkError, ProtocolError, StreamError, TotalTimeout, TruncatedStreamError
from streaming.events import Event, Failed, Notice, TimedEvent
from streaming.http.timed_exchange import TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.session import Timeouts

KEY_VARIABLE = "STREAMGAUGE_KEY"
DROPPED_HEADER = "x-streamgauge-dropped-settings"
_PATH_AND_DECODER: dict[str, tuple[str, type[ServiceSSEDecoder] | type[ServiceCompletionDecoder]]] = {
    "sse": ("/api/chat", ServiceSSEDecoder),
    "openai": ("/v1/chat/completions", ServiceCompletionDecoder),
}
_TIMEOUT_MARGIN_S = 30.0
"""Seconds added to the service's own timeouts: the service reports which of its timeouts expired, so it must be the
first to give up."""


class ServiceBackend:
    """The service at one URL, with the API key of the variable STREAMGAUGE_KEY; `clock` is CLOCK_MONOTONIC."""

    def __init__(self, url: str, settings: Settings, clock: Clock) -> None:
        self._url, self._key, self._clock = url, settings.get(KEY_VARIABLE), clock
        self._total_s = Timeouts().total_s + _TIMEOUT_MARGIN_S
        self._service = ServiceConfig(
            ServiceLabels("the service", url, KEY_VARIABLE, "--url"),
            Timeouts(first_content_s=self._total_s, idle_s=self._total_s, total_s=self._total_s),
            self._key,
            proxy_for(url, settings),
            settings.get("SSL_CERT_FILE"),
            settings.mask_secrets,
        )

    def prepare(self, call: TrialRequest) -> SerializedRequest | None:
        """Return a request as bytes ready to send; None for WebSocket, which has no single HTTP request."""
        if call.transport == "websocket":
            return None
        path, decoder = _PATH_AND_DECODER[call.transport]
        body = _completion_body(call) if call.transport == "openai" else {**_chat_params(call)}
        return prepare_post(self._service, path, body, call.request, lambda _: decoder())

    async def send_timed(
        self, sockets: TimestampingSelector, prepared: SerializedRequest, call: TrialRequest
    ) -> TimedServiceResponse:
        """Send a prepared request once and return the timed response. A failure becomes its last event."""
        _, kind = _PATH_AND_DECODER[call.transport]
        decoder = kind()  # one decoder per answer: the service's outcome is read from it afterwards
        response = await send.send_timed(sockets, replace(prepared, decoder=lambda: decoder), request_id(call))
        exchange, outcome = response.exchange, decoder.outcome
        if exchange.response_head is not None and exchange.response_head.status >= 300:
            body = b"".join(read.data for read in exchange.reads)
            outcome.read_body(body.decode(errors="replace"), exchange.response_head.status)
        events = [*dropped_settings_notices(exchange), *outcome.apply_to(response.events)]
        stamps = trial_metrics.TimedEvents(sent_at(exchange), None, events, sent=exchange.sent_s is not None)
        return TimedServiceResponse(stamps, outcome, instrument_columns(response))

    async def send_websocket(self, call: TrialRequest) -> TimedServiceResponse:
        """Send a request once over a new WebSocket, with timestamps taken as the client yields each event.

        A failure becomes the last event of the response.
        """
        recorder = _WebSocketRecorder(self._clock)
        try:
            async with asyncio.timeout(self._total_s):
                await self._read_websocket(call, recorder)
        except RequestRejectedError as refusal:
            recorder.record(Failed(refusal.kind, str(refusal), refusal.status))
        except StreamGoneError as fault:
            recorder.record(Failed(fault.kind, str(fault), 404))
        except (TimeoutError, ClientError) as fault:
            error = self._map_error(fault, begun=recorder.begun)
            recorder.record(Failed(error.kind, error.message))
        return recorder.to_response()

    async def _read_websocket(self, call: TrialRequest, recorder: "_WebSocketRecorder") -> None:
        headers = {REQUEST_ID_HEADER: request_id(call)}
        async with WebSocketClient(self._url, key=self._key, headers=headers, reconnect=False) as client:
            recorder.connected_s = self._clock()
            answer = client.stream(**_chat_params(call))
            recorder.sent_s = self._clock()
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
            return TotalTimeout(f"answer: not complete within {self._total_s:g} s (request fewer max tokens)")
        if isinstance(fault, ConnectionLostError):
            return TruncatedStreamError(str(fault)) if begun else NetworkError(str(fault))
        return ProtocolError(str(fault))


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


@dataclass(slots=True)
class _WebSocketRecorder:
    """Records the events of one WebSocket answer with their timestamps, in seconds on `clock`."""

    clock: Clock
    outcome: ServiceOutcome = field(default_factory=ServiceOutcome)
    events: list[TimedEvent] = field(default_factory=list)
    begun: bool = False
    connected_s: float | None = None
    sent_s: float | None = None
    asked_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.asked_s = self.clock()

    def record(self, event: Event) -> None:
        self.events.append(TimedEvent(self.clock(), event))

    def to_response(self) -> TimedServiceResponse:
        sent_s = self.asked_s if self.sent_s is None else self.sent_s
        stamps = trial_metrics.TimedEvents(sent_s, None, self.events, sent=self.sent_s is not None)
        if self.connected_s is None:
            return TimedServiceResponse(stamps, self.outcome)
        return TimedServiceResponse(
            stamps, self.outcome, {"connect_s": elapsed_s(self.asked_s, self.connected_s), "stamp_source": "callback"}
        )


def _chat_params(call: TrialRequest) -> ChatParams:
    """Return the JSON body of a request to the SSE and WebSocket transports."""
    params = ChatParams(message=_prompt_text(call), provider=call.provider, strategy=call.strategy)
    if call.request.max_tokens is not None:
        params["max_tokens"] = call.request.max_tokens
    if call.request.temperature is not None:
        params["temperature"] = call.request.temperature
    if call.request.effort is not None:
        params["effort"] = call.request.effort
    return params


def _completion_body(call: TrialRequest) -> dict[str, Any]:
    """Return the JSON body of a request to the OpenAI API transport.

    The provider's full name is sent as the model; the strategy is an additional field.
    """
    params = _chat_params(call)
    body: dict[str, Any] = {
        "model": params.pop("provider"),
        "messages": [{"role": "user", "content": params.pop("message")}],
    }
    if (effort := params.pop("effort", None)) is not None:
        body["reasoning_effort"] = effort
    return {**body, **params, "stream": True, "stream_options": {"include_usage": True}}


def _prompt_text(call: TrialRequest) -> str:
    return join_surrogates(call.request.messages[-1].content)
