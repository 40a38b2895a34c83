"""Decoder of Ollama's native chat API: one JSON object per line, the last one with `done`. Pure."""

from typing import Any

from providers.decoding.decoder import (
    AnswerBuilder,
    StreamDecoder,
    as_object,
    as_text,
    parse_duration_s,
    parse_token_count,
    timings_notice,
)
from providers.decoding.framing import JSONBodyDecoder, NDJSONDecoder
from providers.decoding.vendor_errors import error_from_payload
from streaming.events import Event, FinishReason, Usage

_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_DURATIONS_NS = {
    "load_s": "load_duration",
    "prefill_s": "prompt_eval_duration",
    "decode_s": "eval_duration",
    "total_s": "total_duration",
}


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
        if text and isinstance(text, str):
            events = self.answer.add_text(text)
        else:
            events = self._parse_message(as_object(message))
        if "done_reason" in fields or fields.get("done"):
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
        self.answer.record_origin(model=fields.get("model"))
        return events + timings_notice(
            {name: parse_duration_s(fields.get(key), 1e9) for name, key in _DURATIONS_NS.items()}
        )
