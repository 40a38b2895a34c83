"""Decoder of Ollama's native chat API: one JSON object per line, the last one with `done`. Pure."""

from typing import Any

from providers.decoding.decoder import AnswerBuilder, StreamDecoder, as_object, as_text, parse_token_count
from providers.decoding.framing import JSONBodyDecoder, NDJSONDecoder
from providers.decoding.vendor_errors import error_from_payload
from streaming.events import Event, FinishReason, Notice, Usage

_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def make_decoder(*, streamed: bool = True) -> StreamDecoder:
    """Return a decoder for one response."""
    dialect = OllamaChatParser()
    return NDJSONDecoder(dialect) if streamed else JSONBodyDecoder(dialect)


class OllamaChatParser:
    """A parser of lines and whole bodies, which have the same fields. Older models put their thinking into tags."""

    def __init__(self) -> None:
        self.answer = AnswerBuilder(think_tags=True, shows_thinking=True)

    def parse_body(self, body: dict[str, Any]) -> list[Event]:
        return self.parse_chunk(body)

    def parse_chunk(self, fields: dict[str, Any]) -> list[Event]:
        if fields.get("error"):
            raise error_from_payload(fields["error"])
        message = fields.get("message")
        # The usual line has text and nothing else: it is parsed here, without a further call, to save time.
        text = message.get("content") if isinstance(message, dict) and "thinking" not in message else None
        events = (
            self.answer.add_text(text) if text and isinstance(text, str) else self._parse_message(as_object(message))
        )
        if fields.get("done") or "done_reason" in fields:
            return events + self._parse_done(fields)
        return events

    def _parse_message(self, message: dict[str, Any]) -> list[Event]:
        thinking, text = as_text(message.get("thinking")), as_text(message.get("content"))
        events = self.answer.add_thinking(thinking) if thinking else []
        return events + self.answer.add_text(text) if text else events

    def _parse_done(self, fields: dict[str, Any]) -> list[Event]:
        raw = as_text(fields.get("done_reason")) or None
        done = fields.get("done") is True
        if not done and raw is None:
            return []
        # Older servers send `done` without `done_reason`.
        if reason := _FINISH_REASONS.get(raw or "stop"):
            self.answer.finish(reason, raw)
        else:
            self.answer.finish_unknown(raw or "")
        events = self.answer.add_usage(
            Usage(parse_token_count(fields.get("prompt_eval_count")), parse_token_count(fields.get("eval_count")))
        )
        self.answer.over = self.answer.over or done
        return events + _timings_notice(fields)


def _timings_notice(fields: dict[str, Any]) -> list[Event]:
    """Return a notice with the server's own durations in seconds (the API has nanoseconds), none when it has none."""
    durations_ns = {
        name: parse_token_count(fields.get(f"{name}_duration")) for name in ("total", "load", "prompt_eval", "eval")
    }
    detail = {f"{name}_s": ns / 1e9 for name, ns in durations_ns.items() if ns is not None}
    return [Notice("timings", "Timings reported by the server.", detail)] if detail else []
