"""What the wires say: each event of an answer as a name and JSON-ready fields, the same on every wire."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from server.streams import Stream
from streaming.clock import Clock
from streaming.deliver import Taker
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Usage
from streaming.meter import Reading
from streaming.pipeline import Receipt
from streaming.thinking import Stages

Entry = tuple[int, str, bytes]
"""A frame as it is sent and kept: its number in the stream, from 1, its name (`chunk` for text), its fields as JSON."""

EntryTaker = Callable[[list[Entry]], Awaitable[None]]

LAST = frozenset({"done", "error", "cancelled"})
"""Nothing comes after one of these."""

_log = logging.getLogger(__name__)

_NOTICES = {"retry": "retry", "fallback": "fallback"}


class Entries:
    """A stream as numbered entries, read by its one reader, or by the one that keeps them; closing it stops the stream.

    The first is `start`; the last, and only that, is in LAST.
    """

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self.ended = False
        self._stream = stream
        self._clock = clock
        self._stages = Stages(clock())
        self._seq = 0

    async def batch(self, timeout_s: float | None = None, taker: EntryTaker | None = None) -> list[Entry]:
        """Give what is due, waiting for it; empty after `timeout_s`.

        What comes while this waits goes to the `taker`, if there is one; see `streaming.deliver`.
        """
        if self._seq == 0:
            return [self._entry("start", {"stream_id": self._stream.id})]
        found: list[Entry] = []
        try:
            self._tell(found, await self._stream.events(timeout_s, taker and self._telling(taker)))
        except Exception:
            _log.exception("an event that cannot be told")
            await self._stream.break_off()
        if self._stream.ended and not (found and found[-1][1] in LAST):
            await self._stream.answer.aclose()  # until the provider's work has ended: the receipt says how long it took
            found.append(self._entry(*self._stopped()))
        self.ended = self._stream.ended
        return found

    async def aclose(self) -> None:
        self.ended = True
        await self._stream.aclose()

    def _telling(self, taker: EntryTaker) -> Taker:
        def taken(events: list[Event]) -> Awaitable[None]:
            found: list[Entry] = []
            self._tell(found, events)
            return taker(found)

        return taken

    def _entry(self, name: str, fields: dict[str, Any]) -> Entry:
        self._seq += 1
        return self._seq, name, orjson.dumps(fields)

    def _tell(self, found: list[Entry], events: list[Event]) -> None:
        now = self._clock()
        for event in events:
            self._add(found, event, now)

    def _add(self, found: list[Entry], event: Event, now: float) -> None:
        if isinstance(event, TextDelta) and self._stages.stage == "generating":
            # Most events are these, and change nothing.
            found.append(self._entry("chunk", {"content": event.text}))
            return
        if self._stages.feed(event, now):
            found.append(self._entry("stage", {"stage": self._stages.stage}))
        found += [self._entry(name, fields) for name, fields in self._told(event)]

    def _told(self, event: Event) -> list[tuple[str, dict[str, Any]]]:
        """Give what an event that is no text says, as names and fields."""
        match event:
            case ThinkingDelta(text):
                return [("thinking", {"content": text})]
            case Usage():
                return [("usage", usage_fields(self._stream.answer.reading()))]
            case Notice(kind="connected"):  # the stage says it
                return []
            case Notice():
                fields = {"kind": event.kind, "message": event.message, **event.detail}
                return [(_NOTICES.get(event.kind, "notice"), fields)]
            case Finish(reason):
                return [("finish", finish_fields(reason, self._stream.receipt())), ("done", {})]
            case Failed():
                return [("error", {**error_fields(event), "finish_reason": None, **bill(self._stream.receipt())})]
            case TextDelta(text):
                return [("chunk", {"content": text})]

    def _stopped(self) -> tuple[str, dict[str, Any]]:
        receipt = self._stream.receipt()
        if receipt.error is None:
            return "cancelled", cancelled_fields(receipt)
        return "error", {**error_fields(receipt.error), "finish_reason": None, **bill(receipt)}


def usage_fields(reading: Reading) -> dict[str, Any]:
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
    fields = {"finish_reason": reason, "outcome": receipt.outcome, **bill(receipt)}
    return fields if receipt.explanation is None else {**fields, "message": receipt.explanation}


def bill(receipt: Receipt) -> dict[str, Any]:
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


def unbilled(failed: Failed) -> bytes:
    """Give the fields of an end that nobody here can account for; null is unknown."""
    unknown = dict.fromkeys(("finish_reason", "usage", "cost_usd", "provider", "attempts", "delivered_chars"))
    return orjson.dumps({**error_fields(failed), **unknown})


def cancelled_fields(receipt: Receipt) -> dict[str, Any]:
    """The receipt of an answer that was stopped on request; `stop_s` is how long the provider took to stop."""
    return {"outcome": receipt.outcome, "finish_reason": None, **bill(receipt), "stop_s": receipt.stop_s}


def error_fields(failed: Failed) -> dict[str, Any]:
    """An answer's failure in the shape that every refusal has."""
    error = {"type": failed.kind, "message": failed.message, "rule": None, "retry_after_s": None}
    return {"error": {**error, "upstream_status": failed.http_status}}
