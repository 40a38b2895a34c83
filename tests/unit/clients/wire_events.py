"""The events of one answer as the service sends them, and as a client must parse them."""

import json
from typing import Any

from clients.events import AnswerCancelled, AnswerFailed, AnswerFinished, AnswerReceipt, Event, StageChanged
from streaming import sse
from streaming.events import Notice, TextDelta, ThinkingDelta, Usage

ID = "s-7_x"
USAGE = {"input_tokens": 4, "output_tokens": 9, "thinking_tokens": None, "cached_tokens": 0, "source": "reported"}
RECEIPT_FIELDS = {"usage": USAGE, "cost_usd": 0.25, "provider": "sim:steady", "attempts": 2, "delivered_chars": 11}
RETRY = {"kind": "retry", "message": "again in 1 s", "delay_s": 1.0, "retry": 1, "error": "network"}
ERROR = {"type": "truncated", "message": "cut", "rule": None, "retry_after_s": None, "upstream_status": 503}

NamedEvent = tuple[str, dict[str, Any]]

START_EVENTS: list[NamedEvent] = [
    ("start", {"stream_id": ID}),
    ("stage", {"stage": "connecting"}),
    ("retry", RETRY),
    ("thinking", {"content": "Hm."}),
    ("chunk", {"content": "Grüße"}),
    ("news", {"of": "a later version"}),
    ("chunk", {"content": " 🌍\n"}),
]
COMPLETE_EVENTS: list[NamedEvent] = [
    *START_EVENTS,
    ("usage", USAGE),
    ("finish", {"finish_reason": "stop", **RECEIPT_FIELDS}),
    ("done", {}),
]
FAILED_EVENTS: list[NamedEvent] = [*START_EVENTS, ("error", {"error": ERROR, "finish_reason": None, **RECEIPT_FIELDS})]
CANCELLED_EVENTS: list[NamedEvent] = [
    *START_EVENTS,
    ("cancelled", {"outcome": "cancelled", "finish_reason": None, **RECEIPT_FIELDS, "stop_s": 0.1}),
]

PARSED_USAGE = Usage(4, 9, None, 0, "reported")
PARSED_RECEIPT = AnswerReceipt(PARSED_USAGE, 0.25, "sim:steady", 2, 11)
PARSED_START_EVENTS: list[Event] = [
    StageChanged("connecting"),
    Notice("retry", "again in 1 s", {"delay_s": 1.0, "retry": 1, "error": "network"}),
    ThinkingDelta("Hm."),
    TextDelta("Grüße"),
    TextDelta(" 🌍\n"),
]
PARSED_EVENTS: list[Event] = [*PARSED_START_EVENTS, PARSED_USAGE, AnswerFinished("stop", PARSED_RECEIPT)]
PARSED_FAILED = AnswerFailed("truncated", "cut", 503, PARSED_RECEIPT)
PARSED_CANCELLED = AnswerCancelled(PARSED_RECEIPT, 0.1)
TEXT = "Grüße 🌍\n"


def encode_sse(frames: list[NamedEvent], first: int = 1) -> bytes:
    """Return the bytes of `frames` as Server-Sent Events, numbered from `first`, with a keep-alive comment."""
    encoded = b": waiting\n\n"
    for seq, (name, fields) in enumerate(frames, first):
        data = "[DONE]" if name == "done" else json.dumps(fields)
        encoded += sse.encode(data, event=None if name in ("chunk", "done") else name, id=f"{ID}:{seq}")
    return encoded


def encode_messages(frames: list[NamedEvent], first: int = 1, id: str = ID) -> list[str]:
    """Return `frames` as WebSocket messages, numbered from `first`."""
    return [json.dumps({"type": name, "id": f"{id}:{n}", **fields}) for n, (name, fields) in enumerate(frames, first)]


def rejection_fields(message: str = "no", **fields: Any) -> dict[str, Any]:
    return {"error": {"type": "rate_limited", "message": message, "rule": "rate_limit", "retry_after_s": 7.0, **fields}}
