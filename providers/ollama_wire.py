"""Ollama's native chat wire: one JSON object a line, the last with `done`. Pure."""

from typing import Any

from providers.framing import Lines, Whole
from providers.vendor_errors import stream_error
from providers.wire import Decoder, Reply, count, fields_of, text_of
from streaming.events import Event, FinishReason, Notice, Usage

_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def decoder(*, streamed: bool = True) -> Decoder:
    """Give a decoder for one response."""
    dialect = Chat()
    return Lines(dialect) if streamed else Whole(dialect)


class Chat:
    """Reads lines and whole bodies; both have the same fields. Older models put their thinking in tags."""

    def __init__(self) -> None:
        self.reply = Reply(think_tags=True, shows_thinking=True)

    def read_whole(self, body: dict[str, Any]) -> list[Event]:
        return self.read(body)

    def read(self, fields: dict[str, Any]) -> list[Event]:
        if fields.get("error"):
            raise stream_error(fields["error"])
        message = fields.get("message")
        # The usual line has text and nothing else: it is read without a further call.
        text = message.get("content") if isinstance(message, dict) and "thinking" not in message else None
        events = self.reply.text(text) if text and isinstance(text, str) else self._said(fields_of(message))
        if fields.get("done") or "done_reason" in fields:
            return events + self._done(fields)
        return events

    def _said(self, message: dict[str, Any]) -> list[Event]:
        thinking, text = text_of(message.get("thinking")), text_of(message.get("content"))
        events = self.reply.thinking(thinking) if thinking else []
        return events + self.reply.text(text) if text else events

    def _done(self, fields: dict[str, Any]) -> list[Event]:
        raw = text_of(fields.get("done_reason")) or None
        done = fields.get("done") is True
        if not done and raw is None:
            return []
        # A server from before `done_reason` says no more than that it is done.
        if reason := _REASONS.get(raw or "stop"):
            self.reply.finish(reason, raw)
        else:
            self.reply.finish_unknown(raw or "")
        events = self.reply.usage(Usage(count(fields.get("prompt_eval_count")), count(fields.get("eval_count"))))
        self.reply.over = self.reply.over or done
        return events + _timings(fields)


def _timings(fields: dict[str, Any]) -> list[Event]:
    """Give what the server says of its own time, in seconds; it says so in nanoseconds."""
    timed = {name: count(fields.get(f"{name}_duration")) for name in ("total", "load", "prompt_eval", "eval")}
    detail = {f"{name}_s": ns / 1e9 for name, ns in timed.items() if ns is not None}
    return [Notice("timings", "The server's own timings.", detail)] if detail else []
