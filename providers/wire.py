"""What the dialects' decoders share: a reply's state, JSON, halves of characters, errors inside a stream. Pure.

A decoder is feed / flush. What either gives is to be iterated: it raises a fault after the events that came before it,
and any split of the bytes gives the same events and the same error. `Finish` comes from `flush` alone, when the bytes
are over: a later text would make it untrue.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import orjson

from streaming.errors import (
    ApiError,
    AuthError,
    BadRequest,
    NotFound,
    ProtocolError,
    RateLimited,
    ResponseTooLargeError,
    ServerError,
    TruncatedStream,
    api_error,
)
from streaming.events import Event, Finish, FinishReason, TextDelta, ThinkingDelta, Usage
from streaming.limits import MAX_ANSWER_CHARS, MAX_JSON_PARTS
from streaming.thinking import ThinkTags

LONG_BYTES = 65_536
"""A JSON text that is longer is looked at before it is read: it may hold a great many objects."""

_AFTER_THE_END = "the provider sent text after the end of its answer"
_SHOWN_CHARS = 300
_MOST_TOKENS = 10**12
"""More than any answer can have: such a number is a defect of the server, and would not fit a table."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_STREAM_ERRORS: tuple[tuple[str, type[ApiError]], ...] = (
    ("rate_limit", RateLimited),
    ("too_many_requests", RateLimited),
    ("quota", RateLimited),
    ("auth", AuthError),
    ("api_key", AuthError),
    ("permission", AuthError),
    ("not_found", NotFound),
    ("invalid_request", BadRequest),
    ("context_length", BadRequest),
    ("content_filter", BadRequest),
    ("too_large", BadRequest),
)
"""Parts of the names that vendors give to errors; any other error inside a stream may pass."""


class Decoder(Protocol):
    """Bytes of one response in, events out."""

    @property
    def over(self) -> bool:
        """True once the wire's own end marker came: nothing more is due but the end of the bytes."""

    def feed(self, data: bytes) -> Iterable[Event]:
        """Take the next bytes. Iterating raises StreamError, after what came before the fault; then all is over."""

    def flush(self) -> Iterable[Event]:
        """The bytes are over: give the rest and `Finish`. Raises TruncatedStream when no finish reason came."""


class Reply:
    """What one answer has come to; every dialect tells it what it read and passes on the events that it gives.

    `shows_thinking`: all thinking is in the stream, so that none seen is 0 thinking tokens and not an unknown number.
    """

    def __init__(self, *, think_tags: bool = False, shows_thinking: bool = False) -> None:
        self.over = False
        self._finish: Finish | None = None
        self._tags = ThinkTags() if think_tags else None
        self._shows_thinking = shows_thinking
        self._thought = False
        self._usage: Usage | None = None
        self._chars_left = MAX_ANSWER_CHARS
        self._text = Halves()
        self._thinking = Halves()

    def text(self, text: str) -> list[Event]:
        """A piece of the answer. Raises ProtocolError after the end."""
        if self.over or self._finish is not None:
            raise ProtocolError(_AFTER_THE_END)
        self._count(text)
        if self._text.held or not text.isascii():
            text = self._text.feed(text)
        if self._tags is not None and text:
            return self._split(self._tags, text)
        return [TextDelta(text)] if text else []

    def thinking(self, text: str) -> list[Event]:
        """A piece of thinking. Raises ProtocolError after the end."""
        if self.over or self._finish is not None:
            raise ProtocolError(_AFTER_THE_END)
        self._count(text)
        self._thought = True
        text = self._thinking.feed(text)
        return [ThinkingDelta(text)] if text else []

    def usage(self, usage: Usage) -> list[Event]:
        """Token counts; a repetition gives no event."""
        if usage.thinking_tokens is None and self._shows_thinking and not self._thought and self._finish is not None:
            usage = replace(usage, thinking_tokens=0)
        if (usage.input_tokens is None and usage.output_tokens is None) or usage == self._usage:
            return []
        self._usage = usage
        return [usage]

    def finish(self, reason: FinishReason, raw: str | None) -> None:
        """The provider says why it ended; a second time is harmless and changes nothing."""
        self._finish = self._finish or Finish(reason, raw)

    def held(self) -> list[Event]:
        """Give what was held back for its other half: nothing of it will come."""
        events: list[Event] = []
        if text := self._thinking.flush():
            events.append(ThinkingDelta(text))
        if text := self._text.flush():
            events += [TextDelta(text)] if self._tags is None else self._tags.feed(text)
        if self._tags is not None:
            events += self._tags.flush()
            self._tags = None
        return events

    def end(self) -> Iterator[Event]:
        """The bytes are over: what was held, then `Finish`. Raises TruncatedStream when no finish reason came."""
        yield from self.held()
        if self._finish is None:
            raise TruncatedStream("the stream ended without a finish reason: the answer is cut")
        if self._finish.reason == "error":
            raise ServerError("the provider says that its answer ended with an error")
        yield self._finish

    def _count(self, text: str) -> None:
        self._chars_left -= len(text)
        if self._chars_left < 0:
            raise ResponseTooLargeError(f"the provider sent an answer of more than {MAX_ANSWER_CHARS:,} characters")

    def _split(self, tags: ThinkTags, text: str) -> list[Event]:
        events: list[Event] = [*tags.feed(text)]
        if events and isinstance(events[0], ThinkingDelta):
            self._thought = True
        if events and isinstance(events[-1], TextDelta):
            # Tags count only where the answer begins with them.
            self._tags = None
        return events


class Halves:
    """Joins the two halves of a character that a provider escaped one by one and cut apart; feed / flush.

    Half a character whose other half does not come is U+FFFD.
    """

    def __init__(self) -> None:
        self.held = ""

    def feed(self, text: str) -> str:
        if not self.held and not _SURROGATES.search(text):
            return text
        text = self.held + text
        self.held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return whole_characters(text[: len(text) - len(self.held)])

    def flush(self) -> str:
        held, self.held = self.held, ""
        return whole_characters(held)


def whole_characters(text: str) -> str:
    """Give the text with its halves of characters joined, and lone ones as U+FFFD: it can be encoded."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def json_object(text: str | bytes) -> dict[str, Any]:
    """Read one JSON object. Raises ProtocolError."""
    if len(text) > LONG_BYTES:
        refuse_crowd(text)
    try:
        found = orjson.loads(text)
    except ValueError:
        found = _lenient(text)
    if not isinstance(found, dict):
        raise ProtocolError(f"the provider sent JSON that is not an object: {shown(text)}")
    return found


def refuse_crowd(text: str | bytes) -> None:
    """Raise ResponseTooLargeError for a JSON text of more values than are read: each is far larger as an object."""
    marks: tuple[Any, ...] = (",", "{", "[") if isinstance(text, str) else (b",", b"{", b"[")
    if sum(map(text.count, marks)) > MAX_JSON_PARTS:
        raise ResponseTooLargeError(f"the provider sent JSON of more than {MAX_JSON_PARTS:,} values")


def _lenient(text: str | bytes) -> object:
    # The quick parser refuses escaped halves of characters, which the standard's grammar allows.
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        raise ProtocolError(f"the provider sent malformed JSON: {shown(text)}") from None


def shown(text: object) -> str:
    """Give a text of the provider's as one short line that can be encoded."""
    if isinstance(text, bytes):
        text = text[: 4 * _SHOWN_CHARS].decode(errors="replace")
    line = " ".join(whole_characters(str(text)[: 4 * _SHOWN_CHARS]).split())
    line = "".join(c for c in line if c.isprintable())
    return line.rstrip(".") if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}…"


def stream_error(error: object) -> ApiError:
    """Give the error that a provider sent inside a stream: its class by the status or the name in it."""
    fields: Mapping[str, Any] = error if isinstance(error, dict) else {"message": error}
    names = " ".join(str(fields[key]) for key in ("type", "code", "status") if fields.get(key))
    message = f"the provider broke off with an error: {shown(fields.get('message') or names or 'no reason given')}"
    code = count(fields.get("code"))
    if code is not None and 400 <= code < 600:
        return api_error(code, message)
    return next((cls for part, cls in _STREAM_ERRORS if part in names.lower()), ServerError)(message)


def count(value: object) -> int | None:
    """Give a number of tokens as the provider reported it; None for anything that is not one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS else None


def fields_of(value: object) -> dict[str, Any]:
    """Give an object's fields; none where it is missing or null. Raises ProtocolError for anything else."""
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise ProtocolError(f"the provider sent something else than an object: {shown(value)}")


def text_of(value: object) -> str:
    """Give the text of a field that may be missing or null. Raises ProtocolError for anything else."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise ProtocolError(f"the provider sent something else than text: {shown(value)}")
