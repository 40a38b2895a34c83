"""Ollama's chat: lines of JSON, the last one with `done`, the reason and the durations in nanoseconds.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md. The wire has no keep-alive; a blank line stands for one.
Its end marker is the `done: true` of the last line; an unmarked end has `done_reason` beside `done: false`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from simulator.schedules import StepKind
from simulator.wires.contract import Answer, Asked, Part, dumps, flag_of, model_of, prompt_of
from streaming.errors import UsageError


@dataclass(frozen=True, slots=True)
class Chat:
    """Ollama's wire. `num_predict` below 1 is no limit, as there."""

    name: str = "ollama"
    media_type: str = "application/x-ndjson"
    id_header: str = "x-request-id"

    def read(self, fields: Mapping[str, Any]) -> Asked:
        options = fields.get("options") or {}
        limit = options.get("num_predict") if isinstance(options, dict) else None
        if not isinstance(options, dict) or not (limit is None or isinstance(limit, int)):
            raise UsageError("options must be an object, and its num_predict a whole number")
        return Asked(
            model=model_of(fields),
            prompt=prompt_of(fields),
            streamed=flag_of(fields, "stream", True),
            max_tokens=limit if limit and limit > 0 else None,
        )

    def encoder(self, answer: Answer) -> "_Encoder":
        return _Encoder(answer)

    def error(self, status: int, message: str, serial: str) -> bytes:
        return dumps({"error": message})


class _Encoder:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        created = datetime.fromtimestamp(answer.created_s, UTC).isoformat().replace("+00:00", "Z")
        self._head = {"model": answer.asked.model, "created_at": created}
        self._around = {
            "text": self._template({"role": "assistant", "content": "\0"}),
            "thinking": self._template({"role": "assistant", "content": "", "thinking": "\0"}),
        }

    def opening(self) -> list[Part]:
        return []

    def delta(self, kind: StepKind, literal: bytes) -> list[Part]:
        before, after = self._around[kind]
        return [Part("content" if kind == "text" else "thinking", b"%b%b%b" % (before, literal, after))]

    def closing(self, *, marked: bool) -> list[Part]:
        message = {"role": "assistant", "content": ""}
        return [Part("finish", _line({**self._head, "message": message, **self._end(marked)}))]

    def error(self, message: str) -> Part:
        return Part("error", _line({"error": message}))

    def keepalive(self) -> Part:
        return Part("ping", b"\n")

    def whole(self) -> bytes:
        schedule = self._answer.schedule
        message = {"role": "assistant", "content": schedule.text}
        if schedule.thinking:
            message["thinking"] = schedule.thinking
        return dumps({**self._head, "message": message, **self._end(True)})

    def _end(self, done: bool) -> dict[str, Any]:
        schedule = self._answer.schedule
        return {
            "done": done,
            "done_reason": schedule.finish_reason,
            "total_duration": _ns(schedule.end_at_s),
            "load_duration": 0,
            "prompt_eval_count": self._answer.input_tokens,
            "prompt_eval_duration": _ns(schedule.profile.ttft_s),
            "eval_count": schedule.output_tokens,
            "eval_duration": _ns(schedule.end_at_s - schedule.profile.ttft_s),
        }

    def _template(self, message: Mapping[str, str]) -> tuple[bytes, bytes]:
        before, _, after = _line({**self._head, "message": message, "done": False}).partition(dumps("\0"))
        return before, after


def _line(value: Mapping[str, Any]) -> bytes:
    return dumps(value) + b"\n"


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
