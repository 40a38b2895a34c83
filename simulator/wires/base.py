"""What every wire knows how to do. To speak a vendor's wire is two objects: a `Wire`, and an `Encoder` an answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from simulator.schedules import Schedule, StepKind
from streaming.errors import UsageError

PartKind = Literal["content", "thinking", "role", "start", "ping", "block", "finish", "usage", "end", "error", "fault"]
"""What an event is for: `content` and `thinking` are deltas, `finish` has the finish reason, `end` is the marker."""


class StreamPart(NamedTuple):
    """One event of a stream, in the wire's own framing (an SSE event, a line of JSON)."""

    kind: PartKind
    data: bytes


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """What a request wants. `prompt` is all of its text, `max_tokens` its limit, None for none."""

    model: str
    prompt: str
    streamed: bool
    max_tokens: int | None = None
    include_usage: bool = True


@dataclass(frozen=True, slots=True)
class EncodingContext:
    """All that an encoder needs. `serial` makes ids, `created_s` is Unix time.

    Of the input tokens, `cached_tokens` were read from the vendor's cache and `cache_write_tokens` written to it.
    `billed_usd` is the vendor's bill for the answer.
    """

    asked: ParsedRequest
    schedule: Schedule
    input_tokens: int
    serial: str
    created_s: float
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    billed_usd: float = 0.0


class Encoder(Protocol):
    """An encoder of one answer. `literal` is a text as JSON, so that a fault can hand over what is none."""

    def opening(self) -> list[StreamPart]:
        """Return what precedes the first token."""

    def delta(self, kind: StepKind, literal: bytes) -> list[StreamPart]:
        """Return one token, with whatever the wire puts before it when the kind changes."""

    def closing(self, *, marked: bool) -> list[StreamPart]:
        """Return the finish reason, the usage and, if `marked`, the end marker."""

    def error(self, message: str) -> StreamPart:
        """Return the error that the vendor sends inside a stream."""

    def keepalive(self) -> StreamPart:
        """Return what the wire sends to keep a silent connection open."""

    def body(self) -> bytes:
        """Return the body of the answer that is not streamed."""


class Wire(Protocol):
    """A vendor's wire."""

    @property
    def name(self) -> str: ...

    @property
    def media_type(self) -> str:
        """The content type of a stream."""

    @property
    def id_header(self) -> str:
        """The response header with the vendor's request id."""

    def parse_request(self, fields: Mapping[str, Any]) -> ParsedRequest:
        """Parse a request's JSON object. Raises UsageError for one that the vendor would refuse."""

    def encoder(self, answer: EncodingContext) -> Encoder: ...

    def error(self, status: int, message: str, serial: str) -> bytes:
        """Return the body of an error answer."""


def dumps(value: Any) -> bytes:
    """Return JSON without spaces, as the vendors send it."""
    return json.dumps(value, separators=(",", ":")).encode()


def parse_content_text(content: Any) -> str:
    """Return the text of a message's content: a string, or a list of parts of which the text ones count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    if content is None:
        return ""
    raise UsageError("a message's content must be a string or a list of parts")


def parse_prompt(fields: Mapping[str, Any]) -> str:
    """Return the text of all messages. Raises UsageError unless there is at least one, each with a role."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UsageError("messages must be a list with at least one message")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise UsageError("each message must be an object with a role")
    return "\n".join(parse_content_text(message.get("content")) for message in messages)


def parse_model(fields: Mapping[str, Any]) -> str:
    """Return the model's name. Raises UsageError for none."""
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise UsageError("model must be a string that is not empty")
    return model


def parse_flag(fields: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a boolean field. Raises UsageError for what is none."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false")
    return value


def parse_count(fields: Mapping[str, Any], name: str) -> int | None:
    """Return a count from 1; None when it is not set. Raises UsageError for anything else."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} must be a whole number of at least 1")
    return value
