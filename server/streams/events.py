"""Encoding of an answer's events as a name and JSON fields, the same for SSE and WebSocket."""

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
"""An event as it is sent and buffered: its number in the stream, from 1, its name (`chunk` for text), its JSON."""

WireEventSink = Callable[[list[WireEvent]], Awaitable[None]]

TERMINAL_EVENTS = frozenset({"done", "error", "cancelled"})
"""The names of the events that end a stream."""

_log = logging.getLogger(__name__)

_EVENT_BY_NOTICE = {"retry": "retry", "fallback": "fallback"}


class WireEventEncoder:
    """The numbered events of a stream, for one reader: a connection or a buffer. Closing the encoder stops the stream.

    The first event is `start`. The last one, and no other, is in TERMINAL_EVENTS.
    """

    def __init__(self, stream: ActiveAnswer, clock: Clock) -> None:
        self.ended = False
        self._stream = stream
        self._clock = clock
        self._stages = StageTracker(clock())
        self._seq = 0

    async def next_batch(self, timeout_s: float | None = None, sink: WireEventSink | None = None) -> list[WireEvent]:
        """Wait for events and return those that are due; return an empty list after `timeout_s`.

        Events that arrive while this waits go to the `sink`, if there is one; see `streaming.delivery`.
        """
        if self._seq == 0:
            return [self._make_event("start", {"stream_id": self._stream.id})]
        entries: list[WireEvent] = []
        try:
            self._encode_all(
                entries, await self._stream.next_events(timeout_s, sink and self._make_encoding_sink(sink))
            )
        except Exception:
            _log.exception("internal error: an event could not be encoded")
            await self._stream.fail()
        if self._stream.ended and not (entries and entries[-1][1] in TERMINAL_EVENTS):
            await self._stream.answer.aclose()  # the receipt includes how long the provider took to stop
            entries.append(self._make_event(*self._stopped_fields()))
        self.ended = self._stream.ended
        return entries

    async def aclose(self) -> None:
        self.ended = True
        await self._stream.aclose()

    def _make_encoding_sink(self, sink: WireEventSink) -> EventSink:
        def encode_then_send(events: list[Event]) -> Awaitable[None]:
            entries: list[WireEvent] = []
            self._encode_all(entries, events)
            return sink(entries)

        return encode_then_send

    def _make_event(self, name: str, fields: dict[str, Any]) -> WireEvent:
        self._seq += 1
        return self._seq, name, orjson.dumps(fields)

    def _encode_all(self, entries: list[WireEvent], events: list[Event]) -> None:
        now = self._clock()
        for event in events:
            self._encode_event(entries, event, now)

    def _encode_event(self, entries: list[WireEvent], event: Event, now: float) -> None:
        if isinstance(event, TextDelta) and self._stages.stage == "generating":
            # Fast path: most events are text, and do not change the stage.
            entries.append(self._make_event("chunk", {"content": event.text}))
            return
        if self._stages.feed(event, now):
            entries.append(self._make_event("stage", {"stage": self._stages.stage}))
        entries += [self._make_event(name, fields) for name, fields in self._event_fields(event)]

    def _event_fields(self, event: Event) -> list[tuple[str, dict[str, Any]]]:
        """Return the names and fields that encode an event."""
        match event:
            case ThinkingDelta(text):
                return [("thinking", {"content": text})]
            case Usage():
                return [("usage", usage_fields(self._stream.answer.meter_reading()))]
            case Notice(kind="connected" | "answered_by"):  # a `stage` event and the receipt report it
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
    """Return the token counts so far; None is unknown, and `source` is reported, counted or estimated."""
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
    """Return the fields of a regular end; `message`, if present, explains why it is no success, and what to do."""
    fields = {"finish_reason": reason, "outcome": receipt.outcome, **receipt_fields(receipt)}
    return fields if receipt.explanation is None else {**fields, "message": receipt.explanation}


def receipt_fields(receipt: Receipt) -> dict[str, Any]:
    """Return the fields of a receipt: tokens, cost in USD (None when the price is unknown), provider and attempts."""
    cost = receipt.reading.cost
    return {
        "usage": usage_fields(receipt.reading),
        "cost_usd": None if cost is None else float(cost.total_usd),
        "provider": receipt.served_by,
        "attempts": receipt.attempts,
        "delivered_chars": receipt.delivered_chars,
        "dropped_settings": list(receipt.dropped_settings),
        "answered_by": None if receipt.origin is None else receipt.origin.as_dict(),
        "server_timings": dict(receipt.server_timings),
    }


def unknown_receipt_fields(failed: Failed) -> bytes:
    """Return the JSON of a failure whose receipt is not known to this process; null is unknown."""
    unknown = dict.fromkeys(("finish_reason", "usage", "cost_usd", "provider", "attempts", "delivered_chars"))
    return orjson.dumps({**error_fields(failed), **unknown})


def cancelled_fields(receipt: Receipt) -> dict[str, Any]:
    """Return the receipt of an answer that was stopped on request; `stop_s` is how long the provider took to stop."""
    return {"outcome": receipt.outcome, "finish_reason": None, **receipt_fields(receipt), "stop_s": receipt.stop_s}


def error_fields(failed: Failed) -> dict[str, Any]:
    """Return the fields of a failed answer's error, in the format of rejections with `upstream_status` added."""
    error = {"type": failed.kind, "message": failed.message, "rule": None, "retry_after_s": None}
    return {"error": {**error, "upstream_status": failed.http_status}}
