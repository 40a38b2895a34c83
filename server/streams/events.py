"""What the wires say: each event of an answer as a name and JSON-ready fields, the same on every wire."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from server.streams.active import ActiveAnswer
from streaming.clock import Clock
from streaming.delivery import EventSink
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Usage
from streaming.meter import MeterReading
from streaming.pipeline import Receipt
from streaming.thinking import StageTracker

WireEvent = tuple[int, str, bytes]
"""A frame as it is sent and kept: its number in the stream, from 1, its name (`chunk` for text), its fields as JSON."""

WireEventSink = Callable[[list[WireEvent]], Awaitable[None]]

TERMINAL_EVENTS = frozenset({"done", "error", "cancelled"})
"""Nothing comes after one of these."""

_log = logging.getLogger(__name__)

_EVENT_BY_NOTICE = {"retry": "retry", "fallback": "fallback"}


class WireEventEncoder:
    """A stream as numbered entries, read by its one reader, or by the one that keeps them; closing it stops the stream.

    The first is `start`; the last, and only that, is in LAST.
    """

    def __init__(self, stream: ActiveAnswer, clock: Clock) -> None:
        self.ended = False
        self._stream = stream
        self._clock = clock
        self._stages = StageTracker(clock())
        self._seq = 0

    async def next_batch(self, timeout_s: float | None = None, sink: WireEventSink | None = None) -> list[WireEvent]:
        """Give what is due, waiting for it; empty after `timeout_s`.

        What comes while this waits goes to the `sink`, if there is one; see `streaming.delivery`.
        """
        if self._seq == 0:
            return [self._make_event("start", {"stream_id": self._stream.id})]
        found: list[WireEvent] = []
        try:
            self._encode_all(found, await self._stream.next_events(timeout_s, sink and self._make_encoding_sink(sink)))
        except Exception:
            _log.exception("an event that cannot be told")
            await self._stream.fail()
        if self._stream.ended and not (found and found[-1][1] in TERMINAL_EVENTS):
            await self._stream.answer.aclose()  # until the provider's work has ended: the receipt says how long it took
            found.append(self._make_event(*self._stopped_fields()))
        self.ended = self._stream.ended
        return found

    async def aclose(self) -> None:
        self.ended = True
        await self._stream.aclose()

    def _make_encoding_sink(self, sink: WireEventSink) -> EventSink:
        def encode_then_send(events: list[Event]) -> Awaitable[None]:
            found: list[WireEvent] = []
            self._encode_all(found, events)
            return sink(found)

        return encode_then_send

    def _make_event(self, name: str, fields: dict[str, Any]) -> WireEvent:
        self._seq += 1
        return self._seq, name, orjson.dumps(fields)

    def _encode_all(self, found: list[WireEvent], events: list[Event]) -> None:
        now = self._clock()
        for event in events:
            self._encode_event(found, event, now)

    def _encode_event(self, found: list[WireEvent], event: Event, now: float) -> None:
        if isinstance(event, TextDelta) and self._stages.stage == "generating":
            # Most events are these, and change nothing.
            found.append(self._make_event("chunk", {"content": event.text}))
            return
        if self._stages.feed(event, now):
            found.append(self._make_event("stage", {"stage": self._stages.stage}))
        found += [self._make_event(name, fields) for name, fields in self._event_fields(event)]

    def _event_fields(self, event: Event) -> list[tuple[str, dict[str, Any]]]:
        """Give what an event that is no text says, as names and fields."""
        match event:
            case ThinkingDelta(text):
                return [("thinking", {"content": text})]
            case Usage():
                return [("usage", usage_fields(self._stream.answer.meter_reading()))]
            case Notice(kind="connected"):  # the stage says it
                return []
            case Notice():
                fields = {"kind": event.kind, "message": event.message, **event.detail}
                return [(_EVENT_BY_NOTICE.get(event.kind, "notice"), fields)]
            case Finish(reason):
                return [("finish", finish_fields(reason, self._stream.receipt())), ("done", {})]
            case Failed():
                return [
                    ("error", {**error_fields(event), "finish_reason": None, **receipt_fields(self._stream.receipt())})
                ]
            case TextDelta(text):
                return [("chunk", {"content": text})]

    def _stopped_fields(self) -> tuple[str, dict[str, Any]]:
        receipt = self._stream.receipt()
        if receipt.error is None:
            return "cancelled", cancelled_fields(receipt)
        return "error", {**error_fields(receipt.error), "finish_reason": None, **receipt_fields(receipt)}


def usage_fields(reading: MeterReading) -> dict[str, Any]:
    """The tokens so far; None is unknown, `source` is reported, counted or estimated."""
    usage = reading.usage
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "thinking_tokens": usage.thinking_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "source": usage.source,
    }


def finish_fields(reason: str, receipt: Receipt) -> dict[str, Any]:
    """Return the fields of an end in order: `message` says why it is no success, and what to do."""
    fields = {"finish_reason": reason, "outcome": receipt.outcome, **receipt_fields(receipt)}
    return fields if receipt.explanation is None else {**fields, "message": receipt.explanation}


def receipt_fields(receipt: Receipt) -> dict[str, Any]:
    """What an answer came to: tokens, cost in USD (None where the price is unknown), who served it."""
    cost = receipt.reading.cost
    return {
        "usage": usage_fields(receipt.reading),
        "cost_usd": None if cost is None else float(cost.total_usd),
        "provider": receipt.served_by,
        "attempts": receipt.attempts,
        "delivered_chars": receipt.delivered_chars,
        "dropped_settings": list(receipt.dropped_settings),
    }


def unknown_receipt_fields(failed: Failed) -> bytes:
    """Give the fields of an end that nobody here can account for; null is unknown."""
    unknown = dict.fromkeys(("finish_reason", "usage", "cost_usd", "provider", "attempts", "delivered_chars"))
    return orjson.dumps({**error_fields(failed), **unknown})


def cancelled_fields(receipt: Receipt) -> dict[str, Any]:
    """The receipt of an answer that was stopped on request; `stop_s` is how long the provider took to stop."""
    return {"outcome": receipt.outcome, "finish_reason": None, **receipt_fields(receipt), "stop_s": receipt.stop_s}


def error_fields(failed: Failed) -> dict[str, Any]:
    """An answer's failure in the shape that every refusal has."""
    error = {"type": failed.kind, "message": failed.message, "rule": None, "retry_after_s": None}
    return {"error": {**error, "upstream_status": failed.http_status}}
