"""The record of one answer that a load-test user received, and its recorder from the service's SSE and WebSocket.

Performs no I/O: timestamps are arguments, in seconds on CLOCK_MONOTONIC. None is unknown, 0 is measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from clients.answer_reader import END_EVENT, AnswerReader, decode_frame, decode_sse_event
from clients.errors import InvalidResponseError, MissingEventsError, StreamGoneError, rejection_from_fields
from clients.events import AnswerCancelled, AnswerFailed, AnswerFinished, AnswerReceipt, Event, WireEvent
from clients.position import StreamPosition
from evaluation.prompts.answer_checks import AnswerCheck
from streaming.events import Notice, TextDelta, ThinkingDelta, Usage
from streaming.sse import ServerSentEvent

USAGE_FIELDS = ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens", "source")


@dataclass(slots=True)
class AnswerRecord:
    """One requested answer. `events` are tuples (timestamp, kind, characters, output tokens) in order of time.

    `outcome` is `open` until the answer ends, and stays so if the end of the test interrupts the answer. `ramping`:
    users were still being added when the request was sent. `level` is the number of users of a sweep's step.
    `merged_reads` counts the reads with more than one text delta, of which only the last has an exact timestamp.
    `real_time`: the process had real-time priority. `resumed` counts how often the stream was resumed after a dropped
    connection.
    """

    trial_id: str
    transport: str
    prompt_id: str
    provider: str
    strategy: str
    started_at: str
    asked_s: float
    ramping: bool = False
    level: int | None = None
    conversation: str | None = None
    turn: int | None = None
    context_tokens: int | None = None
    outcome: str = "open"
    finish_reason: str | None = None
    finish_raw: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    http_status: int | None = None
    connect_s: float | None = None
    sent_s: float | None = None
    headers_s: float | None = None
    attempts: int | None = None
    fell_back_to: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    cost_usd: float | None = None
    merged_reads: int = 0
    stamp_source: str | None = None
    peer_address: str | None = None
    resumed: int = 0
    keeps_text: bool = False
    """Whether the text is needed: to check it, or for the next turn of a conversation."""
    correct: bool | None = None
    text_parts: list[str] = field(default_factory=list, repr=False)
    real_time: bool = False
    worker: int = 0
    events: list[tuple[float, str, int | None, int | None]] = field(default_factory=list)

    def on_text(self, at_s: float, content: str) -> None:
        """Record a text delta; an empty one is ignored."""
        if content:
            self.events.append((at_s, "text", len(content), None))
            if self.keeps_text:
                self.text_parts.append(content)

    def on_thinking(self, at_s: float, content: str) -> None:
        """Record a thinking delta; an empty one is ignored."""
        if content:
            self.events.append((at_s, "thinking", len(content), None))

    def on_usage(self, at_s: float, usage: Mapping[str, Any]) -> None:
        """Record token counts, which replace earlier ones."""
        self.usage = {name: usage.get(name) for name in USAGE_FIELDS}
        self.events.append((at_s, "usage", None, self.usage["output_tokens"]))

    def on_finish(self, at_s: float, reason: str | None, raw: str | None = None) -> None:
        """Record the finish reason; `raw` is the provider's own word. `mark_complete` follows when the stream ends."""
        self.finish_reason, self.finish_raw = reason, raw
        self.events.append((at_s, "finish", None, None))

    def on_failure(self, at_s: float, kind: str, message: str, status: int | None = None) -> None:
        """Record a failure or a rejection; only the first one counts."""
        if self.error_type is None:
            self.error_type, self.error_message, self.http_status = kind, message, status
            self.outcome = "truncated" if kind in ("truncated", StreamGoneError.kind) else "failed"
            self.events.append((at_s, "failed", None, None))

    def record_stream_gone(self, at_s: float, kind: str, message: str) -> bool:
        """Record a failed resume if `kind` means that the service no longer has the stream; return whether it did."""
        if not self.resumed or kind != "not_found":
            return False
        self.on_failure(at_s, StreamGoneError.kind, str(StreamGoneError("", message)), 404)
        return True

    def mark_complete(self) -> None:
        """Set the outcome of an answer whose stream ended normally after `on_finish`."""
        if self.error_type is None:
            has_text = any(kind == "text" for _, kind, _, _ in self.events)
            filtered = self.finish_reason == "content_filter"
            self.outcome = "filtered" if filtered else "completed" if has_text else "empty"

    def check_text(self, check: AnswerCheck | None) -> None:
        """Record whether the answer is right; nothing without a check, and of an answer that was cancelled or is open.

        An answer that failed is not right.
        """
        if check is not None and self.outcome not in ("cancelled", "open"):
            self.correct = self.outcome == "completed" and check.is_correct(self.text)

    def mark_cancelled(self) -> None:
        """Record that the user stopped the answer or left on purpose, which is no failure; an earlier failure stays."""
        if self.error_type is None:
            self.outcome = "cancelled"

    @property
    def text(self) -> str:
        """The text of an answer that keeps it."""
        return "".join(self.text_parts)

    @property
    def conversation_tokens(self) -> int | None:
        """The tokens of the conversation with this answer, without its thinking; None if they were not reported."""
        asked, answered = self.usage.get("input_tokens"), self.usage.get("output_tokens")
        if asked is None or answered is None:
            return None
        return int(asked + answered - (self.usage.get("thinking_tokens") or 0))

    @property
    def text_times_s(self) -> list[float]:
        """The timestamps of the text deltas, in seconds."""
        return [at_s for at_s, kind, _, _ in self.events if kind == "text"]

    @property
    def chars(self) -> int:
        """The number of characters of text received."""
        return sum(chars or 0 for _, kind, chars, _ in self.events if kind == "text")

    @property
    def first_delta_s(self) -> float | None:
        """The timestamp of the first delta of any kind, or None before it."""
        return next((at_s for at_s, kind, _, _ in self.events if kind in ("text", "thinking")), None)

    @property
    def tokens_per_s(self) -> float | None:
        """The throughput after the first token, computed like a trial's `output_tps`; None when it is unknown."""
        tokens, texts_s = self.usage.get("output_tokens"), self.text_times_s
        span_s = texts_s[-1] - texts_s[0] if texts_s else 0.0
        after_first = (tokens or 0) - (self.usage.get("thinking_tokens") or 0) - 1
        return after_first / span_s if after_first > 0 and span_s > 0 else None

    @property
    def failure_reason(self) -> str | None:
        """The reason of a failure in one line, or None for an answer that did not fail."""
        if self.outcome in ("completed", "filtered", "cancelled"):
            return None
        return f"{self.error_type or 'unfinished'}: {self.error_message or 'the load test ended first'}"

    def as_dict(self) -> dict[str, Any]:
        """Return all fields but the text as a dict for a message or a line of JSON."""
        return {name: getattr(self, name) for name in _ANSWER_FIELDS}


_ANSWER_FIELDS = tuple(each.name for each in fields(AnswerRecord) if each.name not in ("keeps_text", "text_parts"))


class AnswerRecorder:
    """A recorder of the service's events in an answer record, from the reader that the service's clients use.

    `position` is where a resume continues. `ended` is true after the last event of an answer, and after a failure:
    duplicate and missing events are failures too.
    """

    def __init__(self, answer: AnswerRecord) -> None:
        self.answer = answer
        self.position = StreamPosition(resumable=True)
        self._reader = AnswerReader(self.position)

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be read."""
        return self.position.over or self.answer.error_type is not None

    def record_sse(self, at_s: float, event: ServerSentEvent) -> bool:
        """Record a Server-Sent Event; return whether it was text."""
        return self._record(at_s, event.id, decode_sse_event(event))

    def record_frame(self, at_s: float, message: str | bytes) -> bool:
        """Record a WebSocket frame; return whether it was text."""
        id, wire_event = decode_frame(message)
        if id is not None:
            return self._record(at_s, id, wire_event)
        name, fields = wire_event
        if name == "error":
            rejection = rejection_from_fields(fields)
            self._record_failure(at_s, rejection.kind, str(rejection), None)
        else:
            self.answer.on_failure(at_s, "protocol", f"a {name!r} without an id")
        return False

    def finish(self, at_s: float) -> None:
        """End the input; an answer without its end marker is recorded as truncated."""
        if not self.ended:
            self.answer.on_failure(at_s, "truncated", "stream: ended before its end marker")

    def _record(self, at_s: float, id: str, wire_event: WireEvent) -> bool:
        try:
            new = self._reader.read(id, wire_event)
        except MissingEventsError as error:
            self.answer.on_failure(at_s, "lost", str(error))
        except InvalidResponseError as error:
            self.answer.on_failure(at_s, "protocol", str(error))
        else:
            if new is None:
                self.answer.on_failure(at_s, "twice", f"{id} came again")
            elif new.name == END_EVENT:
                self._record_end(at_s)
            elif isinstance(new.event, TextDelta):
                self.answer.on_text(at_s, new.event.text)
                return True
            else:
                self._record_event(at_s, new.event)
        return False

    def _record_event(self, at_s: float, event: Event | None) -> None:
        answer = self.answer
        match event:
            case ThinkingDelta(text):
                answer.on_thinking(at_s, text)
            case Usage():
                answer.on_usage(at_s, _usage_fields(event))
            case Notice(kind=kind, detail=detail):
                answer.events.append((at_s, "notice", None, None))
                if kind == "fallback":
                    answer.fell_back_to = str(detail.get("to", "")) or answer.fell_back_to
            case AnswerFinished(reason, receipt):
                self._record_receipt(receipt)
                self._check_chars(at_s, receipt.delivered_chars)
                answer.on_finish(at_s, reason)
            case AnswerFailed(kind, message, status, receipt):
                self._record_receipt(receipt)
                self._record_failure(at_s, kind, message, status)
            case AnswerCancelled(receipt):
                self._record_receipt(receipt)
                answer.mark_cancelled()

    def _record_end(self, at_s: float) -> None:
        if self.answer.finish_reason:
            self.answer.mark_complete()
        else:
            self.answer.on_failure(at_s, "protocol", "stream: [DONE] without a finish event")

    def _record_failure(self, at_s: float, kind: str, message: str, status: int | None) -> None:
        if not self.answer.record_stream_gone(at_s, kind, message):
            self.answer.on_failure(at_s, kind, message, status)

    def _record_receipt(self, receipt: AnswerReceipt) -> None:
        if receipt.usage is not None:
            self.answer.usage = _usage_fields(receipt.usage)
        self.answer.cost_usd, self.answer.attempts = receipt.cost_usd, receipt.attempts

    def _check_chars(self, at_s: float, delivered_chars: int | None) -> None:
        """Record a failure unless all characters that the service delivered were received."""
        received = self.answer.chars
        if delivered_chars is not None and received != delivered_chars:
            self.answer.on_failure(at_s, "lost", f"text: {received} of {delivered_chars} delivered characters arrived")


def _usage_fields(usage: Usage) -> dict[str, Any]:
    return {name: getattr(usage, name) for name in USAGE_FIELDS}
