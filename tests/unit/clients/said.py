"""One answer as the service says it, frame by frame, and what a client must make of it."""

import json
from typing import Any

from clients.events import Bill, Broken, Cancelled, Event, Finished, Stage
from streaming import sse
from streaming.events import Notice, TextDelta, ThinkingDelta, Usage

ID = "s-7_x"
USAGE = {"input_tokens": 4, "output_tokens": 9, "thinking_tokens": None, "cached_tokens": 0, "source": "reported"}
BILL = {"usage": USAGE, "cost_usd": 0.25, "provider": "sim:steady", "attempts": 2, "delivered_chars": 11}
RETRY = {"kind": "retry", "message": "again in 1 s", "delay_s": 1.0, "retry": 1, "error": "network"}
ERROR = {"type": "truncated", "message": "cut", "rule": None, "retry_after_s": None, "upstream_status": 503}

Said = tuple[str, dict[str, Any]]

BEGINNING: list[Said] = [
    ("start", {"stream_id": ID}),
    ("stage", {"stage": "connecting"}),
    ("retry", RETRY),
    ("thinking", {"content": "Hm."}),
    ("chunk", {"content": "Grüße"}),
    ("news", {"of": "a later version"}),
    ("chunk", {"content": " 🌍\n"}),
]
ANSWER: list[Said] = [
    *BEGINNING,
    ("usage", USAGE),
    ("finish", {"finish_reason": "stop", **BILL}),
    ("done", {}),
]
BROKEN: list[Said] = [*BEGINNING, ("error", {"error": ERROR, "finish_reason": None, **BILL})]
CANCELLED: list[Said] = [
    *BEGINNING,
    ("cancelled", {"outcome": "cancelled", "finish_reason": None, **BILL, "stop_s": 0.1}),
]

READ_USAGE = Usage(4, 9, None, 0, "reported")
READ_BILL = Bill(READ_USAGE, 0.25, "sim:steady", 2, 11)
READ_BEGINNING: list[Event] = [
    Stage("connecting"),
    Notice("retry", "again in 1 s", {"delay_s": 1.0, "retry": 1, "error": "network"}),
    ThinkingDelta("Hm."),
    TextDelta("Grüße"),
    TextDelta(" 🌍\n"),
]
READ: list[Event] = [*READ_BEGINNING, READ_USAGE, Finished("stop", READ_BILL)]
READ_BROKEN = Broken("truncated", "cut", 503, READ_BILL)
READ_CANCELLED = Cancelled(READ_BILL, 0.1)
TEXT = "Grüße 🌍\n"


def as_sse(frames: list[Said], first: int = 1) -> bytes:
    """Give the bytes of `frames`, numbered from `first`, a keep-alive among them."""
    encoded = b": waiting\n\n"
    for seq, (name, fields) in enumerate(frames, first):
        data = "[DONE]" if name == "done" else json.dumps(fields)
        encoded += sse.encode(data, event=None if name in ("chunk", "done") else name, id=f"{ID}:{seq}")
    return encoded


def as_messages(frames: list[Said], first: int = 1, id: str = ID) -> list[str]:
    """Give the same as a WebSocket's messages."""
    return [json.dumps({"type": name, "id": f"{id}:{n}", **fields}) for n, (name, fields) in enumerate(frames, first)]


def refusal(message: str = "no", **fields: Any) -> dict[str, Any]:
    return {"error": {"type": "rate_limited", "message": message, "rule": "rate_limit", "retry_after_s": 7.0, **fields}}
