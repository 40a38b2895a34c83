"""The OpenAI-compatible API: chat completions, streamed or as one response, and the list of models."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from server.chat_service import ChatService, UnknownProviderError
from server.disconnect import cancel_on_disconnect
from server.error_shapes import OPENAI_SHAPE, ErrorReport, OpenAIRoute
from server.openai_schemas import CompletionRequestBody
from server.openapi import success_response
from server.routes.sse import HEADERS, KEEP_ALIVE_COMMENT, KEEP_ALIVE_INTERVAL_S, ResumableSender, collect_answer
from server.streams.active import ActiveAnswer
from server.streams.events import finish_fields, receipt_fields
from streaming.clock import unix_s
from streaming.events import (
    TERMINAL,
    Event,
    Failed,
    Finish,
    FinishReason,
    TextDelta,
    ThinkingDelta,
    dropped_settings_of,
)
from streaming.meter import MeterReading
from streaming.pipeline import Receipt

routes = APIRouter(route_class=OpenAIRoute, responses=OPENAI_SHAPE.openapi_responses())

_log = logging.getLogger(__name__)
_FINISH_REASONS: dict[FinishReason, str] = {"tool": "tool_calls"}
"""OpenAI's names of finish reasons, where they differ from this project's."""
_STATUS_BY_KIND = {"bad_request": 400, "not_found": 404, "rate_limited": 429, "budget": 429, "shutting_down": 503}


@routes.post(
    "/v1/chat/completions",
    response_class=Response,
    responses=success_response("application/json", "text/event-stream"),
)
async def completions(body: CompletionRequestBody, request: Request) -> Response:
    """Return a completion in OpenAI's format, streamed or as one response; `model` is a `provider:model` name."""
    chat_service: ChatService = request.app.state.chat_service
    chat = body.to_chat_body()
    request_id = request.headers.get("x-client-request-id")
    stream = await chat_service.start_answer(
        request.state.caller, chat.provider_list(), chat.to_chat_request(request_id), chat.strategy, wire="openai"
    )
    if body.stream:
        return CompletionStream(stream, body.model, body.include_usage)
    text, thinking = await collect_answer(stream, request.receive)
    receipt = stream.receipt()
    if receipt.error is not None or receipt.finish_reason is None:
        return _failure_response(receipt.error, receipt)
    refused = receipt.outcome == "refused"
    message = {"role": "assistant", "content": None if refused else text, "refusal": text if refused else None}
    if thinking:
        message["reasoning_content"] = thinking
    reason = _FINISH_REASONS.get(receipt.finish_reason, receipt.finish_reason)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    completion = {
        **_completion_head(stream.id, body.model, "chat.completion"),
        "choices": [choice],
        "usage": _usage_fields(receipt.reading),
    }
    return JSONResponse(
        {**completion, "streamgauge": finish_fields(reason, receipt)},
        headers=_dropped_settings_header(receipt.dropped_settings),
    )


@routes.head("/v1/models", include_in_schema=False)
@routes.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Return the models that are offered and ready now; models of a provider without its API key are left out."""
    chat_service: ChatService = request.app.state.chat_service
    names = chat_service.list_models()
    data = [{"id": name, "object": "model", "created": 0, "owned_by": name.partition(":")[0]} for name in names]
    return {"object": "list", "data": data}


@routes.head("/v1/models/{name:path}", include_in_schema=False)
@routes.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """Return one model that is ready now. Raises UnknownProviderError when there is no such model."""
    model_entry = next((one for one in (await models(request))["data"] if one["id"] == name), None)
    if model_entry is None:
        raise UnknownProviderError(f"model {name!r}: not available (GET /v1/models lists the models)")
    return dict(model_entry)


class CompletionStream(Response):
    """A response that streams completion chunks. A failure before the first content has an HTTP error status."""

    def __init__(self, stream: ActiveAnswer, model: str, with_usage: bool) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._stream = stream
        self._with_usage = with_usage
        self._head = orjson.dumps(_completion_head(stream.id, model, "chat.completion.chunk"))[:-1]
        self._none = b',"usage":null' if with_usage else b""
        self._is_terminated = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._stream) as stream, cancel_on_disconnect(receive):
            events = await self._wait_first_events(KEEP_ALIVE_INTERVAL_S)
            if stream.ended and not any(map(_is_content, events)):
                receipt = stream.receipt()
                await _failure_response(receipt.error, receipt)(scope, receive, send)
                return
            self.headers.update(_dropped_settings_header(dropped_settings_of(events)))
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sender = ResumableSender(send)
            parts = [self._encode_chunk(b'{"role":"assistant","content":""}'), *await self._encode_all(events)]

            def send_events(events: list[Event]) -> Awaitable[None]:
                return sender.send(map(self._encode_event, events))

            while True:
                if stream.ended and not self._is_terminated:
                    await stream.answer.aclose()  # no more events arrive after this
                    parts.append(self._encode_error(stream.receipt().error or _CANCELLED))
                await sender.send(parts)
                if stream.ended:
                    break
                events = await stream.next_events(KEEP_ALIVE_INTERVAL_S, send_events)
                parts = await self._encode_all(events) if events or stream.ended else [KEEP_ALIVE_COMMENT]
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _wait_first_events(self, within_s: float) -> list[Event]:
        """Wait for the first content or the end, at most `within_s`, and return the events received so far.

        After that the response must begin, so that keep-alive comments can be sent: proxies close silent connections.
        """
        events: list[Event] = []
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while not self._stream.ended and not any(map(_is_content, events)) and (left_s := until_s - loop.time()) > 0:
            events += await self._stream.next_events(left_s)
        return events

    async def _encode_all(self, events: list[Event]) -> list[bytes]:
        """Encode events, up to one that cannot be encoded: the answer then ends with an internal error."""
        parts: list[bytes] = []
        try:
            for event in events:
                parts.append(self._encode_event(event))
                self._is_terminated = isinstance(event, TERMINAL)
        except Exception:
            _log.exception("internal error: an event could not be encoded")
            await self._stream.fail()
        return parts

    def _encode_event(self, event: Event) -> bytes:
        match event:
            case TextDelta(text):
                return self._encode_chunk(b'{"content":%b}' % orjson.dumps(text))
            case ThinkingDelta(text):
                return self._encode_chunk(b'{"reasoning_content":%b}' % orjson.dumps(text))
            case Finish(reason):
                return self._encode_end(_FINISH_REASONS.get(reason, reason))
            case Failed():
                return self._encode_error(event)
        return b""

    def _encode_chunk(self, delta: bytes, finish_reason: bytes = b"null") -> bytes:
        choice = b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]' % (delta, finish_reason)
        return b"data: %b,%b%b}\n\n" % (self._head, choice, self._none)

    def _encode_end(self, reason: str) -> bytes:
        """Encode the end. Where it is no success, the chunk with the finish reason says so (`streamgauge.outcome`)."""
        receipt = self._stream.receipt()
        end = self._encode_chunk(b"{}", orjson.dumps(reason))
        if receipt.outcome != "completed":
            told = orjson.dumps({"outcome": receipt.outcome, "message": receipt.explanation})
            end = b'%b,"streamgauge":%b}\n\n' % (end.removesuffix(b"}\n\n"), told)
        if self._with_usage:
            usage, ours = orjson.dumps(_usage_fields(receipt.reading)), orjson.dumps(finish_fields(reason, receipt))
            end += b'data: %b,"choices":[],"usage":%b,"streamgauge":%b}\n\n' % (self._head, usage, ours)
        return end + b"data: [DONE]\n\n"

    def _encode_error(self, failed: Failed) -> bytes:
        return b"data: %b\n\n" % orjson.dumps(OPENAI_SHAPE.body(_report_failure(failed)))


DROPPED_HEADER = "x-streamgauge-dropped-settings"
_CANCELLED = Failed("cancelled", "answer: stopped on request")


def _dropped_settings_header(settings: Sequence[str]) -> dict[str, str]:
    """Return the header that lists the settings left out of the provider's request; no header when there are none."""
    return {DROPPED_HEADER: ", ".join(settings)} if settings else {}


def _is_content(event: Event) -> bool:
    return isinstance(event, (TextDelta, ThinkingDelta, Finish))


def _completion_head(stream_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{stream_id}", "object": kind, "created": int(unix_s()), "model": model}


def _usage_fields(reading: MeterReading) -> dict[str, Any]:
    """Return OpenAI's usage fields; an unknown count is None. The receipt has the source of the counts."""
    usage = reading.usage
    known = usage.input_tokens is not None and usage.output_tokens is not None
    total = (usage.input_tokens or 0) + (usage.output_tokens or 0) if known else None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
    }


def _http_status(failed: Failed) -> int:
    return _STATUS_BY_KIND.get(failed.kind, 504 if failed.kind.endswith("timeout") else 502)


def _report_failure(failed: Failed) -> ErrorReport:
    status = 499 if failed is _CANCELLED else _http_status(failed)
    return ErrorReport(status, failed.kind, failed.message)


def _failure_response(failed: Failed | None, receipt: Receipt) -> JSONResponse:
    report = _report_failure(failed or _CANCELLED)
    return OPENAI_SHAPE.response(report, {"streamgauge": receipt_fields(receipt)})
