"""Wire format of Anthropic's Messages API, streamed and non-streamed.

Source: https://docs.anthropic.com/en/docs/build-with-claude/streaming. The usage in `message_start` reports the input
tokens. Its `output_tokens` is 1, because the vendor reports one or a few there; `message_delta` has the final count.
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

_SIGNATURE = "c2ltdWxhdGVk"
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", None: None}
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class MessagesWire:
    """Anthropic's wire format."""

    name: str = "anthropic"
    media_type: str = "text/event-stream; charset=utf-8"
    id_header: str = "request-id"

    def parse_request(self, fields: Mapping[str, Any]) -> ParsedRequest:
        max_tokens = parse_count(fields, "max_tokens")
        if max_tokens is None:
            raise UsageError("max_tokens: Field required")
        system = parse_content_text(fields.get("system"))
        return ParsedRequest(
            model=parse_model(fields),
            prompt=f"{system}\n{parse_prompt(fields)}" if system else parse_prompt(fields),
            streamed=parse_flag(fields, "stream", False),
            max_tokens=max_tokens,
        )

    def encoder(self, answer: EncodingContext) -> "_MessagesEncoder":
        return _MessagesEncoder(answer)

    def error(self, status: int, message: str, serial: str, code: str | None = None) -> bytes:
        kind = code or _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_{serial}"})


class _MessagesEncoder:
    def __init__(self, answer: EncodingContext) -> None:
        self._answer = answer
        self._block: StepKind | None = None
        self._index = -1

    def opening(self) -> list[StreamPart]:
        message = self._message_object([], None, 1)
        return [_event_part("start", "message_start", {"message": message}), self.keepalive()]

    def delta(self, kind: StepKind, literal: bytes) -> list[StreamPart]:
        parts = [] if kind == self._block else [*self._stop_block(), self._start_block(kind)]
        data = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
        delta = b'{"type":"%b_delta","%b":%b}' % (kind.encode(), kind.encode(), literal)
        return [*parts, StreamPart("content" if kind == "text" else "thinking", data % (self._index, delta))]

    def closing(self, *, marked: bool) -> list[StreamPart]:
        schedule = self._answer.schedule
        delta = {"stop_reason": _STOP_REASONS[schedule.finish_reason], "stop_sequence": None}
        finish = _event_part(
            "finish", "message_delta", {"delta": delta, "usage": {"output_tokens": schedule.output_tokens}}
        )
        return [*self._stop_block(), finish] + [_event_part("end", "message_stop", {})] * marked

    def error(self, message: str) -> StreamPart:
        return _event_part("error", "error", {"error": {"type": "overloaded_error", "message": message}})

    def keepalive(self) -> StreamPart:
        return _event_part("ping", "ping", {})

    def body(self) -> bytes:
        schedule = self._answer.schedule
        blocks: list[dict[str, str]] = [{"type": "text", "text": schedule.text}] if schedule.text else []
        if schedule.thinking:
            blocks.insert(0, {"type": "thinking", "thinking": schedule.thinking, "signature": _SIGNATURE})
        return dumps(self._message_object(blocks, _STOP_REASONS[schedule.finish_reason], schedule.output_tokens))

    def _start_block(self, kind: StepKind) -> StreamPart:
        self._block = kind
        self._index += 1
        empty = {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}
        return _event_part("block", "content_block_start", {"index": self._index, "content_block": empty})

    def _stop_block(self) -> list[StreamPart]:
        block, self._block = self._block, None
        stop = _event_part("block", "content_block_stop", {"index": self._index})
        delta = {"index": self._index, "delta": {"type": "signature_delta", "signature": _SIGNATURE}}
        signed = [_event_part("block", "content_block_delta", delta)] if block == "thinking" else []
        return [*signed, stop] if block else []

    def _message_object(self, content: list[dict[str, str]], reason: str | None, output_tokens: int) -> dict[str, Any]:
        return {
            "id": f"msg_simulated_{self._answer.serial}",
            "type": "message",
            "role": "assistant",
            "model": self._answer.request.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": self._answer.input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": output_tokens,
            },
        }


def _event_part(kind: PartKind, name: str, fields: Mapping[str, Any]) -> StreamPart:
    return StreamPart(kind, b"event: %b\ndata: %b\n\n" % (name.encode(), dumps({"type": name, **fields})))
