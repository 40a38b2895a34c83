"""What the wires say: each event of an answer as a name and JSON-ready fields, the same on every wire."""

from collections.abc import Callable
from typing import Any

from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Usage
from streaming.meter import Reading
from streaming.pipeline import Receipt
from streaming.thinking import Stages

Frame = tuple[str, dict[str, Any]]
"""A frame's name (`chunk` for text) and its fields."""

_NOTICES = {"retry": "retry", "fallback": "fallback"}


class Framer:
    """Turns one answer's events into frames, stages included; `now` is on the answer's clock."""

    def __init__(self, stream_id: str, started_s: float) -> None:
        self.stream_id = stream_id
        self._stages = Stages(started_s)

    def start(self) -> Frame:
        """The first frame: how this stream is called."""
        return "start", {"stream_id": self.stream_id}

    def frames(self, event: Event, now: float, receipt: Callable[[], Receipt]) -> list[Frame]:
        """Give an event's frames; `receipt` gives the answer's as it stands, asked for only where it is sent."""
        found: list[Frame] = []
        if self._stages.feed(event, now):
            found.append(("stage", {"stage": self._stages.stage}))
        match event:
            case TextDelta(text):
                found.append(("chunk", {"content": text}))
            case ThinkingDelta(text):
                found.append(("thinking", {"content": text}))
            case Usage():
                found.append(("usage", usage_fields(receipt().reading)))
            case Notice():
                found += _told(event)
            case Finish(reason):
                found.append(("finish", {"finish_reason": reason, **bill(receipt())}))
            case Failed():
                found.append(("error", {**error_fields(event), "finish_reason": None, **bill(receipt())}))
        return found


def _told(notice: Notice) -> list[Frame]:
    if notice.kind == "connected":  # the stage says it
        return []
    fields = {"kind": notice.kind, "message": notice.message, **notice.detail}
    return [(_NOTICES.get(notice.kind, "notice"), fields)]


def usage_fields(reading: Reading) -> dict[str, Any]:
    """The tokens so far; None is unknown, `source` is reported, counted or estimated."""
    usage = reading.usage
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "thinking_tokens": usage.thinking_tokens,
        "cached_tokens": usage.cached_tokens,
        "source": usage.source,
    }


def bill(receipt: Receipt) -> dict[str, Any]:
    """What an answer came to: tokens, cost in USD (None where the price is unknown), who served it."""
    cost = receipt.reading.cost
    return {
        "usage": usage_fields(receipt.reading),
        "cost_usd": None if cost is None else float(cost.total_usd),
        "provider": receipt.served_by,
        "attempts": receipt.attempts,
        "delivered_chars": receipt.delivered_chars,
    }


def error_fields(failed: Failed) -> dict[str, Any]:
    """An answer's failure in the shape that every refusal has."""
    return {"error": {"type": failed.kind, "message": failed.message, "upstream_status": failed.http_status}}
