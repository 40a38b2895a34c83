"""Backend for this project's own service over SSE and the OpenAI API, on timestamping sockets.

Arrival timestamps are taken here; tokens, cost, attempts and the reason of a failure are those the service reports.
Requests are not retried, and lost connections are not resumed.
"""

import asyncio
from dataclasses import replace
from typing import Any

from clients.answer_stream import ChatParams
from evaluation.backends.base import RunResources, TimedResponse, Timing, TrialRequest, instrument_of, sent_at
from evaluation.backends.service_decoder import (
    ServiceCompletionDecoder,
    ServiceSSEDecoder,
    ending_columns,
    receipt_from_service,
)
from evaluation.metrics.trial_metrics import TimedEvents
from providers.decoding.decoder import join_surrogates
from providers.http.errors import parse_retry_after
from providers.timed.send import send_timed
from providers.timed.serialized_request import SerializedRequest, prepare_post
from streaming.events import Notice, TimedEvent
from streaming.http.timed_exchange import TimedExchange

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

    async def send(self, call: TrialRequest) -> TimedResponse:
        """Send a request to the service once; return the response as it arrived here."""
        resources = self._resources
        _, kind = _PATH_AND_DECODER[call.transport]
        decoder = kind()  # one decoder per answer: the service's outcome is read from it afterwards
        serialized = replace(self._prepared[call.key], decoder=lambda: decoder)
        mark = resources.lag.mark()
        answer = await send_timed(resources.sockets, serialized, call.request_id)
        lag_s = resources.lag_since(mark)
        await resources.sockets.wait_turn()
        exchange, outcome, head = answer.exchange, decoder.outcome, answer.exchange.response_head
        if head is not None and head.status >= 300:
            body = b"".join(read.data for read in exchange.reads)
            outcome.read_body(body.decode(errors="replace"), head.status)
        events = [*dropped_settings_notices(exchange), *outcome.apply_to(answer.events)]
        stamps = TimedEvents(sent_at(exchange), None, events, sent=exchange.sent_s is not None)
        receipt = receipt_from_service(call, stamps, outcome, resources.access.cost_model(call.provider))
        return TimedResponse(
            stamps,
            receipt.outcome,
            receipt.reading.usage,
            ending_columns(receipt, outcome),
            instrument_of(answer, lag_s),
            parse_retry_after(head.headers) if head is not None else None,
        )


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


def chat_params(call: TrialRequest) -> ChatParams:
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
    params = chat_params(call)
    body: dict[str, Any] = {
        "model": params.pop("provider"),
        "messages": [{"role": "user", "content": params.pop("message")}],
    }
    if (effort := params.pop("effort", None)) is not None:
        body["reasoning_effort"] = effort
    return {**body, **params, "stream": True, "stream_options": {"include_usage": True}}


def _prompt_text(call: TrialRequest) -> str:
    return join_surrogates(call.request.messages[-1].content)
