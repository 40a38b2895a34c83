"""Wire format of OpenAI's Chat Completions API, and of Azure's, which adds the results of its content filter.

Sources: https://platform.openai.com/docs/api-reference/chat-streaming and Azure's data-plane reference for inference.
Thinking is sent as `reasoning_content`, which OpenAI itself does not send but OpenAI-compatible servers do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.schedules import StepKind
from simulator.vendor_rules import DEFAULT_SHAPE, UsageShape
from simulator.wires.base import (
    EncodingContext,
    ParsedRequest,
    StreamPart,
    dumps,
    parse_count,
    parse_flag,
    parse_model,
    parse_prompt,
)
from streaming.errors import UsageError

_DONE_PART = StreamPart("end", b"data: [DONE]\n\n")
_FINGERPRINT = "fp_simulated"
_SEVERITIES = ("hate", "self_harm", "sexual", "violence")
_UNFILTERED = {name: {"filtered": False, "severity": "safe"} for name in _SEVERITIES}
_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ERROR_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


@dataclass(frozen=True, slots=True)
class ChatCompletionsWire:
    """The Chat Completions wire format. `azure` selects Azure's variant.

    `deployment` is the model named in Azure's path, `vendor` is the simulated vendor, and `shape` is the format of that
    vendor's usage.
    """

    azure: bool = False
    deployment: str | None = None
    vendor: str = "openai"
    shape: UsageShape = DEFAULT_SHAPE
    media_type: str = "text/event-stream; charset=utf-8"

    @property
    def name(self) -> str:
        return "azure" if self.azure else "openai"

    @property
    def id_header(self) -> str:
        return "apim-request-id" if self.azure else "x-request-id"

    def parse_request(self, fields: Mapping[str, Any]) -> ParsedRequest:
        options = fields.get("stream_options") or {}
        if not isinstance(options, dict):
            raise UsageError("stream_options: not an object")
        return ParsedRequest(
            model=self.deployment or parse_model(fields),
            prompt=parse_prompt(fields),
            streamed=parse_flag(fields, "stream", False),
            max_tokens=parse_count(fields, "max_completion_tokens") or parse_count(fields, "max_tokens"),
            include_usage=parse_flag(options, "include_usage", False),
        )

    def encoder(self, answer: EncodingContext) -> "_ChatCompletionsEncoder":
        return _ChatCompletionsEncoder(answer, self)

    def error(self, status: int, message: str, serial: str, code: str | None = None) -> bytes:
        if self.azure:
            return dumps({"error": {"code": code or str(status), "message": message}})
        kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        fields = {"message": message, "type": kind, "param": None, "code": code or _ERROR_CODES.get(status)}
        return dumps({"error": fields})


class _ChatCompletionsEncoder:
    def __init__(self, answer: EncodingContext, dialect: ChatCompletionsWire) -> None:
        self._answer = answer
        self._azure = dialect.azure
        self._shape = dialect.shape
        self._counted = answer.request.include_usage or dialect.shape.always
        self._head = {
            "id": f"chatcmpl-simulated-{answer.serial}",
            "object": "chat.completion.chunk",
            "created": int(answer.created_s),
            "model": answer.request.model,
            "system_fingerprint": _FINGERPRINT,
        }
        if self._shape.upstream is not None:
            self._head["provider"] = self._shape.upstream
        self._around = {
            "text": self._split_template("content"),
            "thinking": self._split_template("reasoning_content"),
        }

    def opening(self) -> list[StreamPart]:
        role = self._chunk_object({"role": "assistant", "content": ""}, None)
        filtered = {"prompt_index": 0, "content_filter_results": _UNFILTERED}
        checked = {
            "id": "",
            "object": "",
            "created": 0,
            "model": "",
            "choices": [],
            "prompt_filter_results": [filtered],
        }
        return [StreamPart("start", _encode_event(checked))] * self._azure + [StreamPart("role", _encode_event(role))]

    def delta(self, kind: StepKind, literal: bytes) -> list[StreamPart]:
        before, after = self._around[kind]
        return [StreamPart("content" if kind == "text" else "thinking", b"%b%b%b" % (before, literal, after))]

    def closing(self, *, marked: bool) -> list[StreamPart]:
        last = self._chunk_object({}, self._answer.schedule.finish_reason)
        if self._shape.place == "choice":
            last["choices"][0]["usage"] = self._usage_object()
        if self._shape.place == "x_groq":
            last["x_groq"] = {"id": f"req_{self._answer.serial}", "usage": self._usage_object()}
        end = {**self._head, "choices": [], "usage": self._usage_object(), **self._time_info()}
        usage = StreamPart("usage", _encode_event(end))
        counted = self._counted and self._shape.place != "choice"
        return [StreamPart("finish", _encode_event(last))] + [usage] * counted + [_DONE_PART] * marked

    def error(self, message: str) -> StreamPart:
        fields = {"message": message, "type": "server_error", "param": None, "code": "server_error"}
        return StreamPart("error", _encode_event({"error": fields}))

    def keepalive(self) -> StreamPart:
        return StreamPart("ping", b": keep-alive\n\n")

    def body(self) -> bytes:
        schedule = self._answer.schedule
        message = {"role": "assistant", "content": schedule.text, "refusal": None}
        if schedule.thinking:
            message["reasoning_content"] = schedule.thinking
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": schedule.finish_reason}
        extra = {}
        if self._azure:
            choice["content_filter_results"] = _UNFILTERED
            extra["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _UNFILTERED}]
        head = self._head | {"object": "chat.completion"}
        return dumps({**head, "choices": [choice], "usage": self._usage_object(), **extra, **self._time_info()})

    def _chunk_object(self, delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        if self._azure:
            choice["content_filter_results"] = {} if reason else _UNFILTERED
        return {**self._head, "choices": [choice], **({"usage": None} if self._counted else {})}

    def _split_template(self, field: str) -> tuple[bytes, bytes]:
        mark = "\0"
        before, _, after = _encode_event(self._chunk_object({field: mark}, None)).partition(dumps(mark))
        return before, after

    def _usage_object(self) -> dict[str, Any]:
        answer, shape = self._answer, self._shape
        input_tokens, answered = answer.input_tokens, answer.schedule.output_tokens
        thinking = answer.schedule.thinking_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": input_tokens,
            "completion_tokens": answered if shape.thinking == "inside" else answered - thinking,
            "total_tokens": input_tokens + answered,
            "prompt_tokens_details": {
                "cached_tokens": answer.cached_tokens,
                "cache_write_tokens": answer.cache_write_tokens,
            },
            "completion_tokens_details": {"reasoning_tokens": thinking},
        }
        if shape.thinking == "unexplained":
            del usage["completion_tokens_details"], usage["prompt_tokens_details"]
        if shape.cache_field is not None:
            del usage["prompt_tokens_details"]
            usage[shape.cache_field] = answer.cached_tokens
        return usage | self._bill() | (self._durations() if shape.timings == "usage" else {})

    def _time_info(self) -> dict[str, Any]:
        return {"time_info": self._durations()} if self._shape.timings == "time_info" else {}

    def _durations(self) -> dict[str, float]:
        """Return the server's own durations in seconds, under the names that Groq and Cerebras use."""
        schedule = self._answer.schedule
        prompt_s, total_s = schedule.profile.ttft_s, schedule.end_at_s
        return {
            "queue_time": 0.0,
            "prompt_time": prompt_s,
            "completion_time": total_s - prompt_s,
            "total_time": total_s,
        }

    def _bill(self) -> dict[str, Any]:
        billed = self._answer.billed_usd
        match self._shape.bill:
            case "usd":
                return {"cost": billed}
            case "object":
                return {"cost": {"total_cost": billed}}
            case "ticks":
                return {"cost_in_usd_ticks": round(billed * 1e10)}
        return {}


def _encode_event(value: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % dumps(value)
