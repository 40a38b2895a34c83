"""Decoder of Anthropic's Messages API. Pure.

A stream consists of `message_start` (input tokens), content blocks with deltas, `message_delta` (stop reason, output
tokens) and `message_stop`. The type of an event is read from its JSON because some gateways omit the SSE event name;
unknown types are ignored, as the API requires of clients. Thinking always appears as blocks, so a response without
such blocks has 0 thinking tokens.
"""

from typing import Any

from providers.decoding.decoder import (
    AnswerBuilder,
    StreamDecoder,
    as_object,
    as_text,
    parse_tier,
    parse_token_count,
)
from providers.decoding.framing import JSONBodyDecoder, SSEDecoder
from providers.decoding.vendor_errors import error_from_payload
from streaming.errors import ProtocolError
from streaming.events import Event, FinishReason, Usage

_FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool",
    "refusal": "content_filter",
}
"""Stop reasons that end an answer. `pause_turn` is not among them, because the turn continues."""


def make_decoder(*, streamed: bool = True) -> StreamDecoder:
    """Return a decoder for one response."""
    dialect = MessagesParser()
    return SSEDecoder(dialect) if streamed else JSONBodyDecoder(dialect)


class MessagesParser:
    """A parser of stream events and whole messages."""

    def __init__(self) -> None:
        self.answer = AnswerBuilder(shows_thinking=True)
        self._counts: dict[str, Any] = {}

    def parse_chunk(self, fields: dict[str, Any]) -> list[Event]:
        match fields.get("type"):
            case "content_block_delta":
                return self._parse_block(as_object(fields.get("delta")))
            case "content_block_start":
                return self._parse_block(as_object(fields.get("content_block")))
            case "message_start":
                return self._on_message_start(as_object(fields.get("message")))
            case "message_delta":
                self._on_stop_reason(as_object(fields.get("delta")))
                return self._on_usage(fields)
            case "message_stop":
                self.answer.over = True
            case "error":
                raise error_from_payload(fields.get("error"))
        return []

    def parse_body(self, body: dict[str, Any]) -> list[Event]:
        if body.get("type") == "error":
            raise error_from_payload(body.get("error"))
        blocks = body.get("content") or []
        if not isinstance(blocks, list):
            raise ProtocolError("response: content is not a list of blocks")
        self.answer.record_origin(model=body.get("model"), request_id=body.get("id"))
        events = [event for block in blocks for event in self._parse_block(as_object(block))]
        self._on_stop_reason(body)
        return events + self._on_usage(body)

    def _parse_block(self, block: dict[str, Any]) -> list[Event]:
        if text := block.get("text"):
            return self.answer.add_text(as_text(text))
        if thinking := block.get("thinking"):
            return self.answer.add_thinking(as_text(thinking))
        if block.get("type") in ("thinking", "redacted_thinking"):
            return self.answer.add_thinking("")
        return []

    def _on_message_start(self, message: dict[str, Any]) -> list[Event]:
        """Record the input counts at the start. `output_tokens` is ignored here, as it does not count the answer."""
        self.answer.record_origin(model=message.get("model"), request_id=message.get("id"))
        self._counts.update(as_object(message.get("usage")))
        self._counts.pop("output_tokens", None)
        return self.answer.add_usage(_parse_usage(self._counts))

    def _on_stop_reason(self, fields: dict[str, Any]) -> None:
        if raw := as_text(fields.get("stop_reason")):
            self.answer.refused = raw == "refusal"
            if reason := _FINISH_REASONS.get(raw):
                self.answer.finish(reason, raw)
            else:
                self.answer.finish_unknown(raw)

    def _on_usage(self, event: dict[str, Any]) -> list[Event]:
        new = as_object(event.get("usage"))
        self._counts.update((name, value) for name, value in new.items() if value is not None)
        self.answer.record_origin(service_tier=self._counts.get("service_tier"))
        return self.answer.add_usage(_parse_usage(self._counts)) if new else []


def _parse_usage(counts: dict[str, Any]) -> Usage:
    """Return unified counts: the API's `input_tokens` excludes tokens read from or written to its cache."""
    fresh, read, written = (
        parse_token_count(counts.get(name))
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=parse_token_count(counts.get("output_tokens")),
        thinking_tokens=parse_token_count(as_object(counts.get("output_tokens_details")).get("thinking_tokens")),
        cached_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=parse_token_count(
            as_object(counts.get("cache_creation")).get("ephemeral_1h_input_tokens")
        ),
        service_tier=parse_tier(counts.get("service_tier")),
    )
