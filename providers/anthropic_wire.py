"""The Anthropic Messages wire. Pure.

Streamed: `message_start` (input tokens), content blocks with deltas, `message_delta` (stop reason, output tokens),
`message_stop`. The kind of an event is read from its JSON, as some gateways leave out the event's name; unknown kinds
are passed over, as the API asks of its clients. Thinking always shows as blocks: none seen means 0 thinking tokens.
"""

from typing import Any

from providers.framing import EventStream, Whole
from providers.vendor_errors import stream_error
from providers.wire import Decoder, Reply, count, fields_of, text_of
from streaming.errors import ProtocolError
from streaming.events import Event, FinishReason, Usage

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool",
    "refusal": "content_filter",
}
"""Stop reasons that end an answer; `pause_turn` is none, for its turn goes on."""


def decoder(*, streamed: bool = True) -> Decoder:
    """Give a decoder for one response."""
    dialect = Messages()
    return EventStream(dialect) if streamed else Whole(dialect)


class Messages:
    """Reads stream events and whole messages."""

    def __init__(self) -> None:
        self.reply = Reply(shows_thinking=True)
        self._counts: dict[str, Any] = {}

    def read(self, fields: dict[str, Any]) -> list[Event]:
        match fields.get("type"):
            case "content_block_delta":
                return self._block(fields_of(fields.get("delta")))
            case "content_block_start":
                return self._block(fields_of(fields.get("content_block")))
            case "message_start":
                return self._started(fields_of(fields.get("message")))
            case "message_delta":
                self._stopped(fields_of(fields.get("delta")))
                return self._used(fields)
            case "message_stop":
                self.reply.over = True
            case "error":
                raise stream_error(fields.get("error"))
        return []

    def read_whole(self, body: dict[str, Any]) -> list[Event]:
        if body.get("type") == "error":
            raise stream_error(body.get("error"))
        blocks = body.get("content") or []
        if not isinstance(blocks, list):
            raise ProtocolError("the provider sent content that is not a list of blocks")
        events = [event for block in blocks for event in self._block(fields_of(block))]
        self._stopped(body)
        return events + self._used(body)

    def _block(self, block: dict[str, Any]) -> list[Event]:
        if text := block.get("text"):
            return self.reply.text(text_of(text))
        if thinking := block.get("thinking"):
            return self.reply.thinking(text_of(thinking))
        if block.get("type") in ("thinking", "redacted_thinking"):
            return self.reply.thinking("")
        return []

    def _started(self, message: dict[str, Any]) -> list[Event]:
        """Note the counts at the start; the output's number there is no count of the answer."""
        self._counts.update(fields_of(message.get("usage")))
        self._counts.pop("output_tokens", None)
        return self.reply.usage(_usage(self._counts))

    def _stopped(self, fields: dict[str, Any]) -> None:
        if raw := text_of(fields.get("stop_reason")):
            self.reply.refused = raw == "refusal"
            if reason := _REASONS.get(raw):
                self.reply.finish(reason, raw)
            else:
                self.reply.finish_unknown(raw)

    def _used(self, event: dict[str, Any]) -> list[Event]:
        new = fields_of(event.get("usage"))
        self._counts.update((name, value) for name, value in new.items() if value is not None)
        return self.reply.usage(_usage(self._counts)) if new else []


def _usage(counts: dict[str, Any]) -> Usage:
    """Unify: the API's `input_tokens` leaves out what was read from, or written to, its cache."""
    fresh, read, written = (
        count(counts.get(name)) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=count(counts.get("output_tokens")),
        thinking_tokens=count(fields_of(counts.get("output_tokens_details")).get("thinking_tokens")),
        cached_tokens=read,
        cache_write_tokens=written,
    )
