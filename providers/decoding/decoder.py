"""What the dialects' decoders share: a reply's state, JSON, halves of characters, errors inside a stream. Pure.

A decoder is feed / flush. What either gives is to be iterated: it raises a fault after the events that came before it,
and any split of the bytes gives the same events and the same error. `Finish` comes from `flush` alone, when the bytes
are over: a later text would make it untrue.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import orjson

from streaming.errors import ProtocolError, ResponseTooLargeError, ServerError, TruncatedStreamError
from streaming.events import Event, Finish, FinishReason, TextDelta, ThinkingDelta, Usage
from streaming.limits import MAX_ANSWER_CHARS, MAX_JSON_PARTS
from streaming.thinking import ThinkTagParser

LONG_BYTES = 65_536
"""A JSON text that is longer is looked at before it is read: it may hold a great many objects."""

_TEXT_AFTER_END_ERROR = "the provider sent text after the end of its answer"
_MAX_SHOWN_CHARS = 300
_MAX_TOKENS = 10**12
"""More than any answer can have: such a number is a defect of the server, and would not fit a table."""
_SURROGATES = re.compile("[\ud800-\udfff]")


class StreamDecoder(Protocol):
    """Bytes of one response in, events out."""

    @property
    def done(self) -> bool:
        """True once the wire's own end marker came: nothing more is due but the end of the bytes."""

    def feed(self, data: bytes) -> Iterable[Event]:
        """Take the next bytes. Iterating raises StreamError, after what came before the fault; then all is over."""

    def flush(self) -> Iterable[Event]:
        """The bytes are over: give the rest and `Finish`. Raises TruncatedStream when no finish reason came."""


class ReplyBuilder:
    """What one answer has come to; every dialect tells it what it read and passes on the events that it gives.

    `shows_thinking`: all thinking is in the stream, so that none seen is 0 thinking tokens and not an unknown number.
    """

    def __init__(self, *, think_tags: bool = False, shows_thinking: bool = False) -> None:
        self.over = False
        self.refused = False
        """The model declined to answer; its words, if any, are the text."""
        self._finish: Finish | None = None
        self._unknown_end: str | None = None
        self._tags = ThinkTagParser() if think_tags else None
        self._shows_thinking = shows_thinking
        self._thought = False
        self._wrote = False
        self._usage: Usage | None = None
        self._chars_left = MAX_ANSWER_CHARS
        self._late_usage: Usage | None = None
        self._text = SurrogateJoiner()
        self._thinking = SurrogateJoiner()

    @property
    def is_recognized(self) -> bool:
        """Whether anything of an answer was read."""
        return self._wrote or self._thought or self._usage is not None or self._ended

    @property
    def _ended(self) -> bool:
        return self._finish is not None or self._unknown_end is not None

    def text(self, text: str) -> list[Event]:
        """Take a piece of the answer; one after a finish reason un-ends the answer, as gateways repeat the reason.

        Raises ProtocolError after the wire's own end marker.
        """
        if self.over:
            raise ProtocolError(_TEXT_AFTER_END_ERROR)
        self._count(text)
        if text:
            self._wrote = True
            self._finish = self._unknown_end = None
        if self._text.held or not text.isascii():
            text = self._text.feed(text)
        if self._tags is not None and text:
            return self._split_thinking(self._tags, text)
        return [TextDelta(text)] if text else []

    def thinking(self, text: str) -> list[Event]:
        """Take a piece of thinking. Raises ProtocolError after the wire's own end marker."""
        if self.over:
            raise ProtocolError(_TEXT_AFTER_END_ERROR)
        self._count(text)
        self._thought = True
        if text:
            self._finish = self._unknown_end = None
        text = self._thinking.feed(text)
        return [ThinkingDelta(text)] if text else []

    def usage(self, usage: Usage) -> list[Event]:
        """Take token counts; a repetition yields no event.

        Counts that come while text is held back follow that text, so that they still cover the whole answer.
        """
        usage = self._plausible(usage)
        if usage.input_tokens is None and usage.output_tokens is None and usage.billed_usd is None:
            return []
        if usage == self._usage:
            return []
        self._usage = usage
        if self._holds_text:
            self._late_usage = usage
            return []
        self._late_usage = None
        return [usage]

    def hold_usage(self, usage: Usage | None) -> None:
        """Keep the token counts that came with an error; `flush_held` returns them."""
        if usage is not None:
            self._late_usage = self._usage = self._plausible(usage)

    def finish(self, reason: FinishReason, raw: str | None) -> None:
        """Note why the provider ended; a second reason without text between changes nothing."""
        self._finish = self._finish or Finish(reason, raw)

    def finish_unknown(self, raw: str) -> None:
        """Note an end that is on no list of successes: what came so far is not a finished answer."""
        self._unknown_end = raw

    def flush_held(self) -> list[Event]:
        """Return what was held back for its other half: nothing of it will come."""
        events: list[Event] = []
        if text := self._thinking.flush():
            events.append(ThinkingDelta(text))
        if text := self._text.flush():
            events += [TextDelta(text)] if self._tags is None else self._tags.feed(text)
        if self._tags is not None:
            events += self._tags.flush()
            self._tags = None
        if self._late_usage is not None:
            events.append(self._late_usage)
            self._late_usage = None
        return events

    def end(self) -> Iterator[Event]:
        """Yield what was held, then `Finish`: the bytes are over.

        Raises TruncatedStream where neither a finish reason on the list of successes nor the wire's end marker came.
        """
        yield from self.flush_held()
        if self._unknown_end is not None:
            raise TruncatedStreamError(
                f"the provider ended with {excerpt(self._unknown_end)!r}: the answer is not complete"
            )
        finish = self._finish
        if finish is None and self.over and (self._wrote or self._thought):
            finish = Finish("other")
        if finish is None:
            raise TruncatedStreamError("the stream ended without a finish reason: the answer is cut")
        if finish.reason == "error":
            raise ServerError("the provider says that its answer ended with an error")
        yield replace(finish, refused=self.refused) if self.refused else finish

    @property
    def _holds_text(self) -> bool:
        return bool(self._text.held or self._thinking.held or (self._tags is not None and self._tags.holds_text))

    def _plausible(self, usage: Usage) -> Usage:
        """Make unknown what cannot be: no tokens for a text, more cached than sent, more thinking than all output."""
        wrote = self._wrote or self._thought
        if usage.output_tokens == 0 and wrote:
            usage = replace(usage, output_tokens=None, thinking_tokens=None)
            if usage.input_tokens == 0:
                usage = replace(usage, input_tokens=None, cached_tokens=None)
        if usage.input_tokens is not None and (usage.cached_tokens or 0) > usage.input_tokens:
            usage = replace(usage, cached_tokens=None)
        if usage.output_tokens is not None and (usage.thinking_tokens or 0) > usage.output_tokens:
            usage = replace(usage, thinking_tokens=None)
        elif usage.thinking_tokens is None and self._shows_thinking and not self._thought and self._ended:
            # All thinking would have been in the stream, unless the vendor used tokens that it does not explain.
            usage = usage if usage.is_lower_bound else replace(usage, thinking_tokens=0)
        return usage

    def _count(self, text: str) -> None:
        self._chars_left -= len(text)
        if self._chars_left < 0:
            raise ResponseTooLargeError(f"the provider sent an answer of more than {MAX_ANSWER_CHARS:,} characters")

    def _split_thinking(self, tags: ThinkTagParser, text: str) -> list[Event]:
        events: list[Event] = [*tags.feed(text)]
        if events and isinstance(events[0], ThinkingDelta):
            self._thought = True
        if events and isinstance(events[-1], TextDelta):
            # Tags count only where the answer begins with them.
            self._tags = None
        return events


class SurrogateJoiner:
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
        return join_surrogates(text[: len(text) - len(self.held)])

    def flush(self) -> str:
        held, self.held = self.held, ""
        return join_surrogates(held)


def join_surrogates(text: str) -> str:
    """Give the text with its halves of characters joined, and lone ones as U+FFFD: it can be encoded."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Read one JSON object. Raises ProtocolError."""
    if len(text) > LONG_BYTES:
        refuse_crowd(text)
    try:
        found = orjson.loads(text)
    except ValueError:
        found = _parse_json_leniently(text)
    if not isinstance(found, dict):
        raise ProtocolError(f"the provider sent JSON that is not an object: {excerpt(text)}")
    return found


def refuse_crowd(text: str | bytes) -> None:
    """Raise ResponseTooLargeError for a JSON text of more values than are read: each is far larger as an object."""
    marks: tuple[Any, ...] = (",", "{", "[") if isinstance(text, str) else (b",", b"{", b"[")
    if sum(map(text.count, marks)) > MAX_JSON_PARTS:
        raise ResponseTooLargeError(f"the provider sent JSON of more than {MAX_JSON_PARTS:,} values")


def _parse_json_leniently(text: str | bytes) -> object:
    # The quick parser refuses escaped halves of characters, which the standard's grammar allows.
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        raise ProtocolError(f"the provider sent malformed JSON: {excerpt(text)}") from None


def excerpt(text: object) -> str:
    """Give a text of the provider's as one short line that can be encoded."""
    if isinstance(text, bytes):
        text = text[: 4 * _MAX_SHOWN_CHARS].decode(errors="replace")
    line = " ".join(join_surrogates(str(text)[: 4 * _MAX_SHOWN_CHARS]).split())
    line = "".join(c for c in line if c.isprintable())
    return line.rstrip(".") if len(line) <= _MAX_SHOWN_CHARS else f"{line[:_MAX_SHOWN_CHARS]}…"


def parse_token_count(value: object) -> int | None:
    """Give a number of tokens as the provider reported it; None for anything that is not one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS else None


def as_object(value: object) -> dict[str, Any]:
    """Give an object's fields; none where it is missing or null. Raises ProtocolError for anything else."""
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise ProtocolError(f"the provider sent something else than an object: {excerpt(value)}")


def as_text(value: object) -> str:
    """Give the text of a field that may be missing or null. Raises ProtocolError for anything else."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise ProtocolError(f"the provider sent something else than text: {excerpt(value)}")
