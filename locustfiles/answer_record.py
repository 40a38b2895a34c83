"""The record of one answer that a load-test user received, and the reader of the service's frames (SSE and WebSocket).

Performs no I/O: timestamps are arguments, in seconds on CLOCK_MONOTONIC. None is unknown, 0 is measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

_NOTICE_EVENTS = ("notice", "retry", "fallback")
STREAM_GONE = "stream_gone"
"""The error of an answer whose stream could not be resumed, because the service no longer had it."""
USAGE_FIELDS = ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens", "source")


@dataclass(slots=True)
class AnswerRecord:
    """One requested answer. `events` are tuples (timestamp, kind, characters, output tokens) in order of time.

    `outcome` is `open` until the answer ends, and stays so if the end of the test interrupts the answer. `ramping`:
    users were still being added when the request was sent. `merged_reads` counts the reads with more than one text
    delta, of which only the last has an exact timestamp. `real_time`: the process had real-time priority. `resumed`
    counts how often the stream was resumed after a dropped connection.
    """

    trial_id: str
    transport: str
    prompt_id: str
    provider: str
    strategy: str
    started_at: str
    asked_s: float
    ramping: bool = False
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
    resumed: int = 0
    real_time: bool = False
    worker: int = 0
    events: list[tuple[float, str, int | None, int | None]] = field(default_factory=list)

    def on_text(self, at_s: float, content: str) -> None:
        """Record a text delta; an empty one is ignored."""
        if content:
            self.events.append((at_s, "text", len(content), None))

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
            self.outcome = "truncated" if kind in ("truncated", STREAM_GONE) else "failed"
            self.events.append((at_s, "failed", None, None))

    def record_stream_gone(self, at_s: float, kind: str, message: str) -> bool:
        """Record a failed resume if `kind` means that the service no longer has the stream; return whether it did."""
        if not self.resumed or kind != "not_found":
            return False
        self.on_failure(at_s, STREAM_GONE, f"stream: has expired, or the service was restarted ({message})", 404)
        return True

    def mark_complete(self) -> None:
        """Set the outcome of an answer whose stream ended normally after `on_finish`."""
        if self.error_type is None:
            has_text = any(kind == "text" for _, kind, _, _ in self.events)
            filtered = self.finish_reason == "content_filter"
            self.outcome = "filtered" if filtered else "completed" if has_text else "empty"

    def mark_cancelled(self) -> None:
        """Record that the user stopped the answer or left on purpose, which is no failure; an earlier failure stays."""
        if self.error_type is None:
            self.outcome = "cancelled"

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
        """Return all fields as a dict for a message or a line of JSON."""
        return {name: getattr(self, name) for name in _ANSWER_FIELDS}


_ANSWER_FIELDS = tuple(each.name for each in fields(AnswerRecord))


class WireEventReader:
    """A reader that writes the service's frames, in order, into an answer record.

    It knows the position for a resume and detects duplicate and missing frames. `ended` is true after the last frame of
    an answer: `done`, `error` or `cancelled`.
    """

    def __init__(self, answer: AnswerRecord) -> None:
        self.answer = answer
        self.stream_id: str | None = None
        self.last_seq = 0
        self.ended = False

    def feed(self, at_s: float, name: str, fields: Mapping[str, Any], frame_id: str = "") -> None:
        """Process one frame: its name (`chunk` for text, `done` for the end marker), its fields and its id."""
        if frame_id and not self._check_seq(at_s, frame_id):
            return
        answer = self.answer
        if name == "chunk":
            answer.on_text(at_s, fields["content"])
        elif name == "thinking":
            answer.on_thinking(at_s, fields["content"])
        elif name == "usage":
            answer.on_usage(at_s, fields)
        elif name == "start":
            self.stream_id = fields["stream_id"]
        elif name in _NOTICE_EVENTS:
            answer.events.append((at_s, "notice", None, None))
            answer.fell_back_to = fields.get("to", answer.fell_back_to) if name == "fallback" else answer.fell_back_to
        else:
            self._handle_end(at_s, name, fields)

    def finish(self, at_s: float) -> None:
        """End the input; an answer without its end marker is recorded as truncated."""
        if not self.ended:
            self.answer.on_failure(at_s, "truncated", "stream: ended before its end marker")

    def _handle_end(self, at_s: float, name: str, fields: Mapping[str, Any]) -> None:
        answer = self.answer
        if name in ("finish", "error", "cancelled"):
            if usage := fields.get("usage"):
                answer.usage = {key: usage.get(key) for key in USAGE_FIELDS}
            answer.cost_usd, answer.attempts = fields.get("cost_usd"), fields.get("attempts")
        if name == "finish":
            self._check_chars(at_s, fields.get("delivered_chars"))
            answer.on_finish(at_s, fields.get("finish_reason"))
            return
        if name == "done":
            answer.mark_complete() if answer.finish_reason else answer.on_failure(
                at_s, "protocol", "stream: [DONE] without a finish event"
            )
        elif name == "error":
            error = fields["error"]
            status = error.get("upstream_status") or fields.get("status")
            kind, message = error.get("type") or "error", error.get("message") or "no reason given"
            if not answer.record_stream_gone(at_s, kind, message):
                answer.on_failure(at_s, kind, message, status)
        elif name == "cancelled":
            answer.mark_cancelled()
        self.ended = self.ended or name in ("done", "error", "cancelled")

    def _check_chars(self, at_s: float, delivered_chars: int | None) -> None:
        """Record a failure unless all characters that the service delivered were received."""
        received = self.answer.chars
        if delivered_chars is not None and received != delivered_chars:
            self.answer.on_failure(at_s, "lost", f"text: {received} of {delivered_chars} delivered characters arrived")

    def _check_seq(self, at_s: float, frame_id: str) -> bool:
        """Check a frame's sequence number and return whether the frame is new; duplicates and gaps are failures."""
        number = frame_id.rpartition(":")[2]
        seq = int(number) if number.isdigit() else 0
        if seq <= self.last_seq:
            self.answer.on_failure(at_s, "twice", f"event {seq}: came after event {self.last_seq}")
            return False
        if seq > self.last_seq + 1:
            self.answer.on_failure(at_s, "lost", f"event {seq}: came after event {self.last_seq}")
        self.last_seq = seq
        return True
