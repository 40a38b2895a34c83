"""Wire format of Ollama's chat API: JSON lines, of which the last has `done`, the reason and durations in nanoseconds.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md. The format has no keep-alive event, so a blank line is
used. The end marker is `done: true` in the last line; an unmarked end has `done_reason` together with `done: false`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from simulator.schedules import StepKind
from simulator.wires.base import (
    EncodingContext,
    ParsedRequest,
    StreamPart,
    dumps,
    parse_flag,
    parse_model,
    parse_prompt,
)
from streaming.errors import UsageError


@dataclass(frozen=True, slots=True)
class OllamaChatWire:
    """Ollama's wire format. As in Ollama, `num_predict` below 1 means unlimited."""

    name: str = "ollama"
    media_type: str = "application/x-ndjson"
    id_header: str = "x-request-id"

    def parse_request(self, fields: Mapping[str, Any]) -> ParsedRequest:
        options = fields.get("options") or {}
        limit = options.get("num_predict") if isinstance(options, dict) else None
        if not isinstance(options, dict) or not (limit is None or isinstance(limit, int)):
            raise UsageError("options: not an object, or num_predict is not a whole number")
        return ParsedRequest(
            model=parse_model(fields),
            prompt=parse_prompt(fields),
            streamed=parse_flag(fields, "stream", True),
            max_tokens=limit if limit and limit > 0 else None,
        )

    def encoder(self, answer: EncodingContext) -> "_OllamaChatEncoder":
        return _OllamaChatEncoder(answer)

    def error(self, status: int, message: str, serial: str, code: str | None = None) -> bytes:
        return dumps({"error": message})


class _OllamaChatEncoder:
    def __init__(self, answer: EncodingContext) -> None:
        self._answer = answer
        created = datetime.fromtimestamp(answer.created_s, UTC).isoformat().replace("+00:00", "Z")
        self._head = {"model": answer.request.model, "created_at": created}
        self._around = {
            "text": self._split_template({"role": "assistant", "content": "\0"}),
            "thinking": self._split_template({"role": "assistant", "content": "", "thinking": "\0"}),
        }

    def opening(self) -> list[StreamPart]:
        return []

    def delta(self, kind: StepKind, literal: bytes) -> list[StreamPart]:
        before, after = self._around[kind]
        return [StreamPart("content" if kind == "text" else "thinking", b"%b%b%b" % (before, literal, after))]

    def closing(self, *, marked: bool) -> list[StreamPart]:
        message = {"role": "assistant", "content": ""}
        return [StreamPart("finish", _encode_line({**self._head, "message": message, **self._end_fields(marked)}))]

    def error(self, message: str) -> StreamPart:
        return StreamPart("error", _encode_line({"error": message}))

    def keepalive(self) -> StreamPart:
        return StreamPart("ping", b"\n")

    def body(self) -> bytes:
        schedule = self._answer.schedule
        message = {"role": "assistant", "content": schedule.text}
        if schedule.thinking:
            message["thinking"] = schedule.thinking
        return dumps({**self._head, "message": message, **self._end_fields(True)})

    def _end_fields(self, done: bool) -> dict[str, Any]:
        schedule = self._answer.schedule
        return {
            "done": done,
            "done_reason": schedule.finish_reason,
            "total_duration": _to_ns(schedule.end_at_s),
            "load_duration": 0,
            "prompt_eval_count": self._answer.input_tokens,
            "prompt_eval_duration": _to_ns(schedule.profile.ttft_s),
            "eval_count": schedule.output_tokens,
            "eval_duration": _to_ns(schedule.end_at_s - schedule.profile.ttft_s),
        }

    def _split_template(self, message: Mapping[str, str]) -> tuple[bytes, bytes]:
        before, _, after = _encode_line({**self._head, "message": message, "done": False}).partition(dumps("\0"))
        return before, after


def _encode_line(value: Mapping[str, Any]) -> bytes:
    return dumps(value) + b"\n"


def _to_ns(seconds: float) -> int:
    return round(seconds * 1e9)
