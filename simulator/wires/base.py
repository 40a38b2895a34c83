"""The interfaces of a wire format: a `Wire` for each vendor and an `Encoder` for each answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from simulator.schedules import Schedule, StepKind
from streaming.errors import UsageError

PartKind = Literal["content", "thinking", "role", "start", "ping", "block", "finish", "usage", "end", "error", "fault"]
"""The purpose of an event: `content` and `thinking` are deltas, `finish` has the finish reason, `end` is the marker."""


class StreamPart(NamedTuple):
    """An event of a stream in the wire format's framing, such as an SSE event or a line of JSON."""

    kind: PartKind
    data: bytes


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A parsed chat request. `prompt` is its entire text. `max_tokens` is None for unlimited output."""

    model: str
    prompt: str
    streamed: bool
    max_tokens: int | None = None
    include_usage: bool = True


@dataclass(frozen=True, slots=True)
class EncodingContext:
    """The input of an encoder. `serial` is used in IDs, and `created_s` is a Unix timestamp.

    Of the input tokens, `cached_tokens` were read from the vendor's cache and `cache_write_tokens` written to it.
    `billed_usd` is the cost that the vendor reports for the answer.
    """

    request: ParsedRequest
    schedule: Schedule
    input_tokens: int
    serial: str
    created_s: float
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    billed_usd: float = 0.0


class Encoder(Protocol):
    """An encoder of one answer. `literal` is a JSON string as bytes, so that a fault can inject invalid JSON."""

    def opening(self) -> list[StreamPart]:
        """Return the events before the first token."""

    def delta(self, kind: StepKind, literal: bytes) -> list[StreamPart]:
        """Return the events for one token, including those that the wire format requires when the kind changes."""

    def closing(self, *, marked: bool) -> list[StreamPart]:
        """Return the events with the finish reason, the usage and, if `marked`, the end marker."""

    def error(self, message: str) -> StreamPart:
        """Return the vendor's error event within a stream."""

    def keepalive(self) -> StreamPart:
        """Return the event that keeps an idle connection open."""

    def body(self) -> bytes:
        """Return the body of a non-streamed answer."""


class Wire(Protocol):
    """A vendor's wire format."""

    @property
    def name(self) -> str: ...

    @property
    def media_type(self) -> str:
        """The content type of a stream."""

    @property
    def id_header(self) -> str:
        """The name of the response header with the vendor's request ID."""

    def parse_request(self, fields: Mapping[str, Any]) -> ParsedRequest:
        """Parse a request's JSON object. Raises UsageError when the vendor would reject it."""

    def encoder(self, answer: EncodingContext) -> Encoder: ...

    def error(self, status: int, message: str, serial: str, code: str | None = None) -> bytes:
        """Return the body of an error response. `code` replaces the one that follows from the status."""


def dumps(value: Any) -> bytes:
    """Encode a value as JSON without spaces, as the vendors do."""
    return json.dumps(value, separators=(",", ":")).encode()


def parse_content_text(content: Any) -> str:
    """Return the text of a message's content, which is a string or a list of parts; non-text parts are ignored.

    Raises UsageError when the content has another type.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    if content is None:
        return ""
    raise UsageError("content: neither a string nor a list of parts")


def parse_prompt(fields: Mapping[str, Any]) -> str:
    """Return the text of all messages. Raises UsageError when there are none or a message has no role."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UsageError("messages: not a list with at least one message")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise UsageError("messages: a message is not an object with a role")
    return "\n".join(parse_content_text(message.get("content")) for message in messages)


def parse_model(fields: Mapping[str, Any]) -> str:
    """Return the model name. Raises UsageError when it is missing or empty."""
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise UsageError("model: missing or empty")
    return model


def parse_flag(fields: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a boolean field, or `default` if it is not set. Raises UsageError when it is not a boolean."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UsageError(f"{name}: neither true nor false")
    return value


def parse_count(fields: Mapping[str, Any], name: str) -> int | None:
    """Return a count of at least 1, or None if it is not set. Raises UsageError when the value is invalid."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name}: not a whole number of at least 1")
    return value
