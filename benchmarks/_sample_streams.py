"""The bytes of one long streamed answer in each vendor's wire format, one piece per chunk."""

import json
from typing import Any

_CHAT_HEAD = {
    "id": "chatcmpl-A1b2C3d4E5f6G7h8I9j0K1l2M3n4O",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "gpt-5-mini-2025-08-07",
    "service_tier": "default",
    "system_fingerprint": "fp_0123456789",
}
_OLLAMA_HEAD = {"model": "llama3.2", "created_at": "2026-01-01T00:00:00.123456789Z"}


def chat_completions(texts: list[str]) -> list[bytes]:
    """Return a stream of OpenAI's chat completions."""
    start = _chunk_object({"role": "assistant", "content": ""})
    used = {"prompt_tokens": 9, "completion_tokens": len(texts), "total_tokens": 9 + len(texts)}
    end = [_chunk_object({}, "stop"), {**_CHAT_HEAD, "choices": [], "usage": used}]
    events = [start, *(_chunk_object({"content": text}) for text in texts), *end]
    return [*map(_encode_event, events), b"data: [DONE]\n\n"]


def messages(texts: list[str]) -> list[bytes]:
    """Return a stream of Anthropic's Messages API."""
    message: dict[str, Any] = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-5-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    for text in texts:
        events.append({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    events += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": len(texts)}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\n".encode() + _encode_event(event) for event in events]


def ollama(texts: list[str]) -> list[bytes]:
    """Return a stream of Ollama's chat API."""
    lines = [{**_OLLAMA_HEAD, "message": {"role": "assistant", "content": text}, "done": False} for text in texts]
    durations = {"total_duration": 1, "load_duration": 1, "prompt_eval_duration": 1, "eval_duration": 1}
    counts = {"prompt_eval_count": 9, "eval_count": len(texts), **durations}
    end = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    return [json.dumps(line).encode() + b"\n" for line in [*lines, {**_OLLAMA_HEAD, **end, **counts}]]


def _chunk_object(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {**_CHAT_HEAD, "choices": [choice], "usage": None}


def _encode_event(fields: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()
