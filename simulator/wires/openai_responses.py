"""Wire format of OpenAI's Responses API, streamed and non-streamed.

Source: https://platform.openai.com/docs/api-reference/responses-streaming. Thinking is sent as a summary, as OpenAI
does. The last event contains the complete response.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.schedules import StepKind
from simulator.wires.base import (
    EncodingContext,
    ParsedRequest,
    PartKind,
    StreamPart,
    dumps,
    parse_content_text,
    parse_count,
    parse_flag,
    parse_model,
    parse_prompt,
)
from streaming.errors import UsageError

_EVENTS: Mapping[StepKind, str] = {
    "text": "response.output_text.delta",
    "thinking": "response.reasoning_summary_text.delta",
}


@dataclass(frozen=True, slots=True)
class ResponsesWire:
    """The wire format of the Responses API."""

    name: str = "openai-responses"
    media_type: str = "text/event-stream; charset=utf-8"
    id_header: str = "x-request-id"

    def parse_request(self, fields: Mapping[str, Any]) -> ParsedRequest:
        given = fields.get("input")
        if isinstance(given, str) and given:
            prompt = given
        elif isinstance(given, list) and given:
            prompt = parse_prompt({"messages": given})
        else:
            raise UsageError("input: neither a string nor a list of messages")
        instructions = parse_content_text(fields.get("instructions"))
        return ParsedRequest(
            model=parse_model(fields),
            prompt=f"{instructions}\n{prompt}" if instructions else prompt,
            streamed=parse_flag(fields, "stream", False),
            max_tokens=parse_count(fields, "max_output_tokens"),
        )

    def encoder(self, answer: EncodingContext) -> "_ResponsesEncoder":
        return _ResponsesEncoder(answer)

    def error(self, status: int, message: str, serial: str, code: str | None = None) -> bytes:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


class _ResponsesEncoder:
    def __init__(self, answer: EncodingContext) -> None:
        self._answer = answer
        self._id = f"resp_simulated_{answer.serial}"

    def opening(self) -> list[StreamPart]:
        started = self._response("in_progress", [], None)
        return [_part("start", "response.created", {"response": started})]

    def delta(self, kind: StepKind, literal: bytes) -> list[StreamPart]:
        name = _EVENTS[kind].encode()
        data = b'event: %b\ndata: {"type":"%b","item_id":"msg_1","output_index":0,"content_index":0,"delta":%b}\n\n'
        return [StreamPart("content" if kind == "text" else "thinking", data % (name, name, literal))]

    def closing(self, *, marked: bool) -> list[StreamPart]:
        # One event has the end marker, the usage and the finish reason: an unmarked end has none of them.
        status = self._status
        last = _part(
            "finish", f"response.{status}", {"response": self._response(status, self._output(), self._usage())}
        )
        return [last] if marked else []

    def error(self, message: str) -> StreamPart:
        return _part("error", "error", {"code": "server_error", "message": message, "param": None})

    def keepalive(self) -> StreamPart:
        return StreamPart("ping", b": keep-alive\n\n")

    def body(self) -> bytes:
        return dumps(self._response(self._status, self._output(), self._usage()))

    @property
    def _status(self) -> str:
        return "incomplete" if self._answer.schedule.finish_reason == "length" else "completed"

    def _output(self) -> list[dict[str, Any]]:
        schedule = self._answer.schedule
        output: list[dict[str, Any]] = []
        if schedule.thinking:
            summary = [{"type": "summary_text", "text": schedule.thinking}]
            output.append({"type": "reasoning", "id": "rs_1", "summary": summary})
        content = [{"type": "output_text", "text": schedule.text, "annotations": []}]
        output.append(
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
        )
        return output

    def _response(self, status: str, output: list[dict[str, Any]], usage: Mapping[str, Any] | None) -> dict[str, Any]:
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": int(self._answer.created_s),
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "max_output_tokens": self._answer.request.max_tokens,
            "model": self._answer.request.model,
            "output": output,
            "usage": usage,
        }

    def _usage(self) -> dict[str, Any]:
        answer = self._answer
        answered = answer.schedule.output_tokens
        return {
            "input_tokens": answer.input_tokens,
            "input_tokens_details": {
                "cached_tokens": answer.cached_tokens,
                "cache_write_tokens": answer.cache_write_tokens,
            },
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": answer.schedule.thinking_tokens},
            "total_tokens": answer.input_tokens + answered,
        }


def _part(kind: PartKind, name: str, fields: Mapping[str, Any]) -> StreamPart:
    return StreamPart(kind, b"event: %b\ndata: %b\n\n" % (name.encode(), dumps({"type": name, **fields})))
