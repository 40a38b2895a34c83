"""OpenAI's chat completions, and Azure's, which adds the results of its content filter.

Source: https://platform.openai.com/docs/api-reference/chat-streaming and Azure's data-plane reference for inference.
Thinking goes out as `reasoning_content`, which OpenAI itself does not send but the servers that speak its dialect do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.schedules import StepKind
from simulator.vendor_rules import DEFAULT_SHAPE, UsageShape
from simulator.wires.contract import Answer, Asked, Part, count_of, dumps, flag_of, model_of, prompt_of
from streaming.errors import UsageError

_END = Part("end", b"data: [DONE]\n\n")
_FINGERPRINT = "fp_simulated"
_SEVERITIES = ("hate", "self_harm", "sexual", "violence")
_UNFILTERED = {name: {"filtered": False, "severity": "safe"} for name in _SEVERITIES}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


@dataclass(frozen=True, slots=True)
class ChatCompletions:
    """`azure` gives Azure's shapes; `deployment` is the model that its path names.

    `vendor` is whose server answers, and `shape` how that vendor reports usage.
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

    def read(self, fields: Mapping[str, Any]) -> Asked:
        options = fields.get("stream_options") or {}
        if not isinstance(options, dict):
            raise UsageError("stream_options must be an object")
        return Asked(
            model=self.deployment or model_of(fields),
            prompt=prompt_of(fields),
            streamed=flag_of(fields, "stream", False),
            max_tokens=count_of(fields, "max_completion_tokens") or count_of(fields, "max_tokens"),
            include_usage=flag_of(options, "include_usage", False),
        )

    def encoder(self, answer: Answer) -> "_Encoder":
        return _Encoder(answer, self)

    def error(self, status: int, message: str, serial: str) -> bytes:
        if self.azure:
            return dumps({"error": {"code": str(status), "message": message}})
        kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return dumps({"error": {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}})


class _Encoder:
    def __init__(self, answer: Answer, dialect: ChatCompletions) -> None:
        self._answer = answer
        self._azure = dialect.azure
        self._shape = dialect.shape
        self._counted = answer.asked.include_usage or dialect.shape.always
        self._head = {
            "id": f"chatcmpl-simulated-{answer.serial}",
            "object": "chat.completion.chunk",
            "created": int(answer.created_s),
            "model": answer.asked.model,
            "system_fingerprint": _FINGERPRINT,
        }
        self._around = {
            "text": self._template("content"),
            "thinking": self._template("reasoning_content"),
        }

    def opening(self) -> list[Part]:
        role = self._choice({"role": "assistant", "content": ""}, None)
        filtered = {"prompt_index": 0, "content_filter_results": _UNFILTERED}
        checked = {
            "id": "",
            "object": "",
            "created": 0,
            "model": "",
            "choices": [],
            "prompt_filter_results": [filtered],
        }
        return [Part("start", _event(checked))] * self._azure + [Part("role", _event(role))]

    def delta(self, kind: StepKind, literal: bytes) -> list[Part]:
        before, after = self._around[kind]
        return [Part("content" if kind == "text" else "thinking", b"%b%b%b" % (before, literal, after))]

    def closing(self, *, marked: bool) -> list[Part]:
        last = self._choice({}, self._answer.schedule.finish_reason)
        if self._shape.place == "choice":
            last["choices"][0]["usage"] = self._usage()
        if self._shape.place == "x_groq":
            last["x_groq"] = {"id": f"req_{self._answer.serial}", "usage": self._usage()}
        usage = Part("usage", _event({**self._head, "choices": [], "usage": self._usage()}))
        counted = self._counted and self._shape.place != "choice"
        return [Part("finish", _event(last))] + [usage] * counted + [_END] * marked

    def error(self, message: str) -> Part:
        fields = {"message": message, "type": "server_error", "param": None, "code": "server_error"}
        return Part("error", _event({"error": fields}))

    def keepalive(self) -> Part:
        return Part("ping", b": keep-alive\n\n")

    def whole(self) -> bytes:
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
        return dumps({**head, "choices": [choice], "usage": self._usage(), **extra})

    def _choice(self, delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        if self._azure:
            choice["content_filter_results"] = {} if reason else _UNFILTERED
        return {**self._head, "choices": [choice], **({"usage": None} if self._counted else {})}

    def _template(self, field: str) -> tuple[bytes, bytes]:
        mark = "\0"
        before, _, after = _event(self._choice({field: mark}, None)).partition(dumps(mark))
        return before, after

    def _usage(self) -> dict[str, Any]:
        answer, shape = self._answer, self._shape
        asked, answered = answer.input_tokens, answer.schedule.output_tokens
        thinking = answer.schedule.thinking_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": asked,
            "completion_tokens": answered if shape.thinking == "inside" else answered - thinking,
            "total_tokens": asked + answered,
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
        return usage | self._bill()

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


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % dumps(value)
