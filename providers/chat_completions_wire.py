"""The chat-completions wire: OpenAI, Azure OpenAI and every compatible service. Pure.

Streamed, each event is a chunk with `choices[0].delta`; `[DONE]` may follow the last. Only the first choice is read.
Azure adds `content_filter_results` to a choice: what was filtered is named in `Finish.raw`.
"""

from typing import Any

from providers.framing import EventStream, Whole
from providers.wire import Decoder, Reply, count, fields_of, stream_error, text_of
from streaming.errors import ProtocolError
from streaming.events import Event, FinishReason, Usage

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool",
    "function_call": "tool",
    "error": "error",
}


def decoder(*, streamed: bool = True, think_tags: bool = False, shows_thinking: bool = False) -> Decoder:
    """Give a decoder for one response; `providers.rows.Quirks` tells what the switches mean."""
    dialect = ChatCompletions(think_tags=think_tags, shows_thinking=shows_thinking)
    return EventStream(dialect) if streamed else Whole(dialect)


class ChatCompletions:
    """Reads chunks and whole completions."""

    def __init__(self, *, think_tags: bool = False, shows_thinking: bool = False) -> None:
        self.reply = Reply(think_tags=think_tags, shows_thinking=shows_thinking)
        self._filtered: dict[str, None] = {}

    def read(self, fields: dict[str, Any]) -> list[Event]:
        return self._read(fields, "delta")

    def read_whole(self, body: dict[str, Any]) -> list[Event]:
        return self._read(body, "message")

    def _read(self, chunk: dict[str, Any], key: str) -> list[Event]:
        if chunk.get("error"):
            raise stream_error(chunk["error"])
        if chunk.get("object") == "error":
            raise stream_error(chunk)
        events: list[Event] = []
        choices = chunk.get("choices")
        if choices:
            if not isinstance(choices, list):
                raise ProtocolError("the provider sent choices that are not a list")
            for choice in choices:
                fields = fields_of(choice)
                if not fields.get("index"):
                    events += self._choice(fields, key)
        if usage := chunk.get("usage"):
            events += self.reply.usage(_usage(fields_of(usage)))
        return events

    def _choice(self, choice: dict[str, Any], key: str) -> list[Event]:
        reply = self.reply
        said = fields_of(choice.get(key))
        events: list[Event] = []
        if thinking := said.get("reasoning_content") or said.get("reasoning"):
            events += reply.thinking(text_of(thinking))
        if content := said.get("content"):
            events += reply.text(content) if isinstance(content, str) else self._parts(content)
        if refusal := said.get("refusal"):
            events += reply.text(text_of(refusal))
        if results := choice.get("content_filter_results"):
            self._note_filtered(fields_of(results))
        if raw := choice.get("finish_reason"):
            self._finish(text_of(raw))
        return events

    def _parts(self, parts: object) -> list[Event]:
        """Read content in parts, as some services send thinking: `[{"type": "thinking", "thinking": [...]}, …]`."""
        if not isinstance(parts, list):
            raise ProtocolError("the provider sent content that is neither text nor parts")
        events: list[Event] = []
        for part in map(fields_of, parts):
            inner = part.get("thinking")
            if isinstance(inner, list):
                inner = "".join(text_of(fields_of(piece).get("text")) for piece in inner)
            if inner:
                events += self.reply.thinking(text_of(inner))
            if text := text_of(part.get("text")):
                events += self.reply.text(text)
        return events

    def _note_filtered(self, results: dict[str, Any]) -> None:
        for category, result in results.items():
            if isinstance(result, dict) and result.get("filtered") is True:
                self._filtered[category] = None

    def _finish(self, raw: str) -> None:
        reason = _REASONS.get(raw.lower(), "other")
        if reason == "content_filter" and self._filtered:
            raw = f"{raw} ({', '.join(self._filtered)})"
        self.reply.finish(reason, raw)


def _usage(usage: dict[str, Any]) -> Usage:
    cached = count(fields_of(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return Usage(
        input_tokens=count(usage.get("prompt_tokens")),
        output_tokens=count(usage.get("completion_tokens")),
        thinking_tokens=count(fields_of(usage.get("completion_tokens_details")).get("reasoning_tokens")),
        cached_tokens=count(usage.get("prompt_cache_hit_tokens")) if cached is None else cached,
    )
