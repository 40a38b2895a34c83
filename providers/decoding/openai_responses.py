"""Decoder of OpenAI's Responses API, for OpenAI, llama.cpp and compatible servers. Pure.

In a stream, every event is an object with a `type`. The last one is `response.completed`, `response.incomplete` or
`response.failed` and contains the whole response. Without streaming, the body is that response. Reasoning arrives as
summaries or as text, a refusal as a separate kind of content. llama.cpp reports `completed` also when the limit cut the
answer, and does not repeat the limit as OpenAI does: where it was used up, such an answer finishes with `length`.
"""

from dataclasses import replace
from typing import Any

from providers.decoding.chat_completions import read_billed_usd
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

_INCOMPLETE: dict[str, FinishReason] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}
"""Reasons of an incomplete response that end an answer normally. After any other the answer counts as incomplete."""
_THINKING_DELTAS = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


def make_decoder(
    *, streamed: bool = True, shows_thinking: bool = False, max_output_tokens: int | None = None
) -> StreamDecoder:
    """Return a decoder for one response to a request with this limit."""
    dialect = ResponsesParser(shows_thinking=shows_thinking, max_output_tokens=max_output_tokens)
    return SSEDecoder(dialect) if streamed else JSONBodyDecoder(dialect)


class ResponsesParser:
    """A parser of stream events and whole responses."""

    def __init__(self, *, shows_thinking: bool = False, max_output_tokens: int | None = None) -> None:
        self.answer = AnswerBuilder(shows_thinking=shows_thinking)
        self._max_output_tokens = max_output_tokens
        self._has_deltas = False

    def parse_chunk(self, fields: dict[str, Any]) -> list[Event]:
        kind = fields.get("type")
        if kind == "response.output_text.delta":
            self._has_deltas = True
            return self.answer.add_text(as_text(fields.get("delta")))
        if kind in _THINKING_DELTAS:
            return self.answer.add_thinking(as_text(fields.get("delta")))
        if kind == "response.refusal.delta":
            self._has_deltas = self.answer.refused = True
            return self.answer.add_text(as_text(fields.get("delta")))
        if kind == "error" or (kind is None and fields.get("error")):
            raise error_from_payload(fields.get("error") or fields)
        if kind in _ENDS:
            response = as_object(fields.get("response"))
            # A server that sends no deltas sends the whole text here.
            events = [] if self._has_deltas else self._read_output(response)
            events += self._end(response, str(kind).removeprefix("response."))
            self.answer.over = True
            return events
        return []

    def parse_body(self, body: dict[str, Any]) -> list[Event]:
        if body.get("error") and not body.get("output"):
            raise error_from_payload(body["error"])
        events = self._read_output(body)
        return events + self._end(body, as_text(body.get("status")))

    def _read_output(self, response: dict[str, Any]) -> list[Event]:
        """Return the events of a whole response's output items: reasoning, text and refusals, in their order."""
        items = response.get("output") or []
        if not isinstance(items, list):
            raise ProtocolError("response: output is not a list")
        events: list[Event] = []
        for item in map(as_object, items):
            if item.get("type") == "reasoning":
                parts = item.get("summary") or item.get("content") or []
                events += self.answer.add_thinking("".join(_text_in(part) for part in _list_of(parts)))
            elif item.get("type") == "message":
                for part in map(as_object, _list_of(item.get("content") or [])):
                    events += self._read_part(part)
        return events

    def _read_part(self, part: dict[str, Any]) -> list[Event]:
        if refusal := part.get("refusal"):
            self.answer.refused = True
            return self.answer.add_text(as_text(refusal))
        return self.answer.add_text(as_text(part.get("text")))

    def _end(self, response: dict[str, Any], status: str) -> list[Event]:
        """Record how the response ended and return its usage event. Raises the StreamError of a failed response."""
        tier = parse_tier(response.get("service_tier"))
        usage = replace(_read_usage(as_object(response.get("usage"))), service_tier=tier)
        self.answer.record_origin(model=response.get("model"), request_id=response.get("id"), service_tier=tier)
        status = as_text(response.get("status")) or status
        if status == "failed" or (response.get("error") and status != "completed"):
            self.answer.hold_usage(usage)
            raise error_from_payload(response.get("error") or {"message": "no reason given"})
        if status == "completed":
            self.answer.finish("length" if self._is_cut(response, usage) else "stop", status)
        elif status:
            reason = as_text(as_object(response.get("incomplete_details")).get("reason")) or status
            if unified := _INCOMPLETE.get(reason):
                self.answer.finish(unified, reason)
            else:
                self.answer.finish_unknown(reason)
        return self.answer.add_usage(usage)

    def _is_cut(self, response: dict[str, Any], usage: Usage) -> bool:
        """Return whether a response that does not repeat its limit used it up."""
        if self._max_output_tokens is None or "max_output_tokens" in response or usage.output_tokens is None:
            return False
        return usage.output_tokens >= self._max_output_tokens


def _list_of(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    raise ProtocolError("response: content is not a list of parts")


def _text_in(part: object) -> str:
    return as_text(as_object(part).get("text"))


def _read_usage(usage: dict[str, Any]) -> Usage:
    input_details = as_object(usage.get("input_tokens_details"))
    output_details = as_object(usage.get("output_tokens_details"))
    return Usage(
        input_tokens=parse_token_count(usage.get("input_tokens")),
        output_tokens=parse_token_count(usage.get("output_tokens")),
        thinking_tokens=parse_token_count(output_details.get("reasoning_tokens")),
        cached_tokens=parse_token_count(input_details.get("cached_tokens")),
        cache_write_tokens=parse_token_count(input_details.get("cache_write_tokens")),
        billed_usd=read_billed_usd(usage),
    )
