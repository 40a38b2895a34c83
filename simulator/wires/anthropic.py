"""Anthropic's Messages, streamed and whole.

Source: https://docs.anthropic.com/en/docs/build-with-claude/streaming. The usage of `message_start` counts the input;
`output_tokens` there is 1, as the vendor's is a token or a few, and the count of `message_delta` replaces it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.schedules import StepKind
from simulator.wires.contract import (
    Answer,
    Asked,
    Part,
    PartKind,
    count_of,
    dumps,
    flag_of,
    model_of,
    prompt_of,
    text_of,
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
class Messages:
    """Anthropic's wire."""

    name: str = "anthropic"
    media_type: str = "text/event-stream; charset=utf-8"
    id_header: str = "request-id"

    def read(self, fields: Mapping[str, Any]) -> Asked:
        max_tokens = count_of(fields, "max_tokens")
        if max_tokens is None:
            raise UsageError("max_tokens: Field required")
        system = text_of(fields.get("system"))
        return Asked(
            model=model_of(fields),
            prompt=f"{system}\n{prompt_of(fields)}" if system else prompt_of(fields),
            streamed=flag_of(fields, "stream", False),
            max_tokens=max_tokens,
        )

    def encoder(self, answer: Answer) -> "_Encoder":
        return _Encoder(answer)

    def error(self, status: int, message: str, serial: str) -> bytes:
        kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_{serial}"})


class _Encoder:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._block: StepKind | None = None
        self._index = -1

    def opening(self) -> list[Part]:
        message = self._message([], None, 1)
        return [_part("start", "message_start", {"message": message}), self.keepalive()]

    def delta(self, kind: StepKind, literal: bytes) -> list[Part]:
        parts = [] if kind == self._block else [*self._stop_block(), self._start_block(kind)]
        data = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
        delta = b'{"type":"%b_delta","%b":%b}' % (kind.encode(), kind.encode(), literal)
        return [*parts, Part("content" if kind == "text" else "thinking", data % (self._index, delta))]

    def closing(self, *, marked: bool) -> list[Part]:
        schedule = self._answer.schedule
        delta = {"stop_reason": _STOP_REASONS[schedule.finish_reason], "stop_sequence": None}
        finish = _part("finish", "message_delta", {"delta": delta, "usage": {"output_tokens": schedule.output_tokens}})
        return [*self._stop_block(), finish] + [_part("end", "message_stop", {})] * marked

    def error(self, message: str) -> Part:
        return _part("error", "error", {"error": {"type": "overloaded_error", "message": message}})

    def keepalive(self) -> Part:
        return _part("ping", "ping", {})

    def whole(self) -> bytes:
        schedule = self._answer.schedule
        blocks: list[dict[str, str]] = [{"type": "text", "text": schedule.text}] if schedule.text else []
        if schedule.thinking:
            blocks.insert(0, {"type": "thinking", "thinking": schedule.thinking, "signature": _SIGNATURE})
        return dumps(self._message(blocks, _STOP_REASONS[schedule.finish_reason], schedule.output_tokens))

    def _start_block(self, kind: StepKind) -> Part:
        self._block = kind
        self._index += 1
        empty = {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}
        return _part("block", "content_block_start", {"index": self._index, "content_block": empty})

    def _stop_block(self) -> list[Part]:
        block, self._block = self._block, None
        stop = _part("block", "content_block_stop", {"index": self._index})
        delta = {"index": self._index, "delta": {"type": "signature_delta", "signature": _SIGNATURE}}
        signed = [_part("block", "content_block_delta", delta)] if block == "thinking" else []
        return [*signed, stop] if block else []

    def _message(self, content: list[dict[str, str]], reason: str | None, output_tokens: int) -> dict[str, Any]:
        return {
            "id": f"msg_simulated_{self._answer.serial}",
            "type": "message",
            "role": "assistant",
            "model": self._answer.asked.model,
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


def _part(kind: PartKind, name: str, fields: Mapping[str, Any]) -> Part:
    return Part(kind, b"event: %b\ndata: %b\n\n" % (name.encode(), dumps({"type": name, **fields})))
