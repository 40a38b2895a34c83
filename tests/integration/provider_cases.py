"""The dialects as data: a model name, the settings for a port, and the responses of the server."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from settings import Settings

CANARY = "sk-canary-0123456789abcdef"
"""A key that must never be seen outside a request's header."""


@dataclass(frozen=True, slots=True)
class ProviderCase:
    """A dialect. `start`, `text` and `end` return the bytes of a stream, `whole` a body, `error` an error body."""

    name: str
    variables: dict[str, str]
    path: str
    content_type: str
    start: Callable[[], bytes]
    text: Callable[[str], bytes]
    end: Callable[[str], bytes]
    whole: Callable[[str, str], bytes]
    error: Callable[[str], bytes]
    length: str
    """The vendor's word for an answer that met the limit."""
    models: bytes = b""
    ping: bytes = b": ping\n\n"
    max_tokens: str = "max_tokens"

    def settings(self, port: int) -> Settings:
        return Settings({name: value.replace("PORT", str(port)) for name, value in self.variables.items()})

    def stream_parts(self, *texts: str, reason: str = "stop") -> list[bytes]:
        return [self.start(), *map(self.text, texts), self.end(reason)]


def _encode_sse(*events: Any) -> bytes:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events).encode()


def _chunk_object(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": None}


_USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
_CHAT_COMPLETIONS_CASE: dict[str, Any] = {
    "content_type": "text/event-stream; charset=utf-8",
    "start": lambda: _encode_sse(_chunk_object({"role": "assistant", "content": ""})),
    "text": lambda text: _encode_sse(_chunk_object({"content": text})),
    "end": lambda reason: _encode_sse(_chunk_object({}, reason), {"choices": [], "usage": _USAGE}, "[DONE]"),
    "whole": lambda text, reason: json.dumps(
        {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": reason}], "usage": _USAGE}
    ).encode(),
    "error": lambda message: json.dumps({"error": {"message": message, "type": "t", "code": "c"}}).encode(),
    "length": "length",
}
_MODELS_BODY = json.dumps({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}).encode()


def _encode_messages_end(reason: str) -> bytes:
    stop = {"stop": "end_turn"}.get(reason, reason)
    delta = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 3}}
    return _encode_sse(delta, {"type": "message_stop"})


_ANTHROPIC_CASE: dict[str, Any] = {
    "content_type": "text/event-stream; charset=utf-8",
    "start": lambda: _encode_sse(
        {"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 2}}}
    ),
    "text": lambda text: _encode_sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}),
    "end": _encode_messages_end,
    "whole": lambda text, reason: json.dumps(
        {
            "type": "message",
            "content": [{"type": "text", "text": text}],
            "stop_reason": {"stop": "end_turn"}.get(reason, reason),
            "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 3},
        }
    ).encode(),
    "error": lambda message: json.dumps({"type": "error", "error": {"type": "t", "message": message}}).encode(),
    "length": "max_tokens",
    "models": _MODELS_BODY,
}


def _encode_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


_OLLAMA_CASE: dict[str, Any] = {
    "content_type": "application/x-ndjson",
    "start": lambda: b"",
    "text": lambda text: _encode_line({"message": {"content": text}, "done": False}),
    "end": lambda reason: _encode_line(
        {"message": {"content": ""}, "done": True, "done_reason": reason, "prompt_eval_count": 7, "eval_count": 3}
    ),
    "whole": lambda text, reason: _encode_line(
        {"message": {"content": text}, "done": True, "done_reason": reason, "prompt_eval_count": 7, "eval_count": 3}
    ),
    "error": lambda message: json.dumps({"error": message}).encode(),
    "length": "length",
    "models": json.dumps({"models": [{"model": "a"}, {"model": "b"}]}).encode(),
    "ping": b"\n",
    "max_tokens": "num_predict",
}

CASES = {
    case.name.partition(":")[0]: case
    for case in (
        ProviderCase(
            "openai:served-model",
            {"OPENAI_API_KEY": CANARY, "OPENAI_BASE_URL": "http://127.0.0.1:PORT/v1"},
            "/v1/chat/completions",
            models=_MODELS_BODY,
            **_CHAT_COMPLETIONS_CASE,
        ),
        ProviderCase(
            "azure:my-deployment",
            {
                "AZURE_OPENAI_API_KEY": CANARY,
                "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:PORT",
                "OPENAI_API_VERSION": "2024-10-21",
            },
            "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21",
            max_tokens="max_completion_tokens",
            **_CHAT_COMPLETIONS_CASE,
        ),
        ProviderCase(
            "groq:served-model",
            {"GROQ_API_KEY": CANARY, "GROQ_BASE_URL": "http://127.0.0.1:PORT/openai/v1/"},
            "/openai/v1/chat/completions",
            models=_MODELS_BODY,
            **_CHAT_COMPLETIONS_CASE,
        ),
        ProviderCase(
            "anthropic:served-model",
            {"ANTHROPIC_API_KEY": CANARY, "ANTHROPIC_BASE_URL": "http://127.0.0.1:PORT"},
            "/v1/messages",
            **_ANTHROPIC_CASE,
        ),
        ProviderCase(
            "ollama:llama3.2:1b",
            {"OLLAMA_HOST": "127.0.0.1:PORT", "OLLAMA_API_KEY": CANARY},
            "/api/chat",
            **_OLLAMA_CASE,
        ),
    )
}
