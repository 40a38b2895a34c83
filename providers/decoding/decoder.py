"""Code shared by the dialects' decoders: the state of an answer, JSON parsing, joining of surrogates. Pure.

A decoder has the methods `feed` and `flush`. The caller must iterate over what they return: an error is raised after
the events that preceded it. The events and the error do not depend on how the bytes are split. `Finish` comes from
`flush` only, at the end of the body, because more text may follow a finish reason.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import orjson

from streaming.errors import ApiError, ProtocolError, ResponseTooLargeError, ServerError, TruncatedStreamError
from streaming.events import Event, Finish, FinishReason, Notice, TextDelta, ThinkingDelta, Usage
from streaming.limits import MAX_ANSWER_CHARS, MAX_JSON_PARTS
from streaming.thinking import ThinkTagParser

LONG_BYTES = 65_536
"""A longer JSON text is checked before it is parsed, because it may contain a very large number of values."""

_MAX_SHOWN_CHARS = 300
_MAX_TOKENS = 10**12
"""A higher token count is a defect of the server, and too wide for the tables."""
_MAX_TIER_CHARS = 40
_MAX_DURATION_S = 86_400.0
"""A longer duration of a server's own is a defect of the server."""
_SURROGATES = re.compile("[\ud800-\udfff]")


class StreamDecoder(Protocol):
    """A decoder of one response's bytes to events."""

    @property
    def done(self) -> bool:
        """True after the dialect's end marker, when only the end of the body is still expected."""

    def feed(self, data: bytes) -> Iterable[Event]:
        """Decode the next bytes. Iteration raises StreamError after the preceding events, and the decoder has ended."""

    def flush(self) -> Iterable[Event]:
        """Return the remaining events and `Finish` at the end of the body.

        Iteration raises TruncatedStreamError when no finish reason has arrived.
        """


class AnswerBuilder:
    """The state of one answer. Each dialect's parser calls its methods and passes on the events that they return.

    `shows_thinking`: the service streams all thinking, so a stream without thinking means 0 thinking tokens instead of
    an unknown number. `max_chars` bounds the text and the thinking together.
    """

    def __init__(
        self, *, think_tags: bool = False, shows_thinking: bool = False, max_chars: int = MAX_ANSWER_CHARS
    ) -> None:
        self.over = False
        self.refused = False
        """Whether the model refused to answer; its explanation, if any, is the text."""
        self._finish: Finish | None = None
        self._unknown_end: str | None = None
        self._error: ApiError | None = None
        self._tags = ThinkTagParser() if think_tags else None
        self._shows_thinking = shows_thinking
        self._thought = False
        self._wrote = False
        self._usage: Usage | None = None
        self._max_chars = self._chars_left = max_chars
        self._late_usage: Usage | None = None
        self._text = SurrogateJoiner()
        self._thinking = SurrogateJoiner()
        self._origin: dict[str, str] = {}
        self._reported_origin: dict[str, str] = {}

    @property
    def is_recognized(self) -> bool:
        """Whether any part of an answer has been decoded."""
        return self._wrote or self._thought or self._usage is not None or self._ended

    @property
    def _ended(self) -> bool:
        return self._finish is not None or self._unknown_end is not None

    def add_text(self, text: str) -> list[Event]:
        """Add text to the answer and return its events.

        Text after a finish reason cancels that reason, because some gateways send the reason with every chunk. Raises
        ProtocolError after the dialect's end marker.
        """
        left = self._chars_left = self._chars_left - len(text)
        if left < 0 or self.over:
            raise self._unacceptable()
        if not text:
            return []
        self._wrote = True
        self._finish = self._unknown_end = None
        if self._text.held or not text.isascii():
            text = self._text.feed(text)
            if not text:
                return []
        return [TextDelta(text)] if self._tags is None else self._split_thinking(self._tags, text)

    def add_thinking(self, text: str) -> list[Event]:
        """Add thinking to the answer and return its events. Raises ProtocolError after the dialect's end marker."""
        left = self._chars_left = self._chars_left - len(text)
        if left < 0 or self.over:
            raise self._unacceptable()
        self._thought = True
        if text:
            self._finish = self._unknown_end = None
        text = self._thinking.feed(text)
        return [ThinkingDelta(text)] if text else []

    def add_usage(self, usage: Usage) -> list[Event]:
        """Record token counts and return their event, none when they repeat the last ones.

        Counts that arrive while text is held back are returned after that text, so that they cover the whole answer.
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
        """Record token counts that arrived with an error; `flush_held` returns them."""
        if usage is not None:
            self._late_usage = self._usage = self._plausible(usage)

    def record_origin(self, **found: object) -> None:
        """Record what the provider says about who answers; `streaming.origin.ResponseOrigin` has the names."""
        for name, value in found.items():
            if isinstance(value, str) and (text := excerpt(value)):
                self._origin[name] = text

    def finish(self, reason: FinishReason, raw: str | None) -> None:
        """Record the finish reason. A second reason without text in between is ignored."""
        self._finish = self._finish or Finish(reason, raw)

    def finish_with_error(self, error: ApiError) -> None:
        """Record that the provider ended the answer with an error; `end` raises it after the text."""
        self._error = error
        self._finish = Finish("error")

    def finish_unknown(self, raw: str) -> None:
        """Record a finish reason that is not known to be a success: the answer counts as incomplete."""
        self._unknown_end = raw

    def flush_held(self) -> list[Event]:
        """Return the events of all text, thinking and token counts that were held back, and of the answer's origin."""
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
        if self._origin != self._reported_origin:
            self._reported_origin = dict(self._origin)
            events.append(_origin_notice(self._reported_origin))
        return events

    def end(self) -> Iterator[Event]:
        """Yield the events that were held back, then `Finish`, at the end of the body.

        Raises TruncatedStreamError when neither a known finish reason nor the dialect's end marker has arrived, and
        ServerError when the finish reason is an error.
        """
        yield from self.flush_held()
        if self._unknown_end is not None:
            raise TruncatedStreamError(
                f"answer: the provider ended it with {excerpt(self._unknown_end)!r} (the text may be incomplete)"
            )
        finish = self._finish
        if finish is None and self.over and (self._wrote or self._thought):
            finish = Finish("other")
        if finish is None:
            raise TruncatedStreamError("answer: the stream ended without a finish reason (the text may be incomplete)")
        if finish.reason == "error":
            raise self._error or ServerError("answer: the provider reported that it ended with an error")
        yield replace(finish, refused=self.refused) if self.refused else finish

    @property
    def _holds_text(self) -> bool:
        return bool(self._text.held or self._thinking.held or (self._tags is not None and self._tags.holds_text))

    def _plausible(self, usage: Usage) -> Usage:
        """Return the counts with impossible ones set to unknown.

        Impossible are 0 tokens for some text, more cached tokens than input, and more thinking than output.
        """
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
            # All thinking would have been in the stream, except when the total contains tokens of an unknown kind.
            usage = usage if usage.is_lower_bound else replace(usage, thinking_tokens=0)
        return usage

    def _unacceptable(self) -> ProtocolError | ResponseTooLargeError:
        """Return the error of a piece that comes after the end marker, or above the size limit."""
        if self.over:
            return ProtocolError("response: text after the end of the answer")
        return ResponseTooLargeError(f"the provider sent an answer of more than {self._max_chars:,} characters")

    def _split_thinking(self, tags: ThinkTagParser, text: str) -> list[Event]:
        events: list[Event] = [*tags.feed(text)]
        if events and isinstance(events[0], ThinkingDelta):
            self._thought = True
        if events and isinstance(events[-1], TextDelta):
            # Tags mark thinking only at the beginning of an answer.
            self._tags = None
        return events


def _origin_notice(origin: dict[str, str]) -> Notice:
    where = f" at {origin['upstream']}" if "upstream" in origin else ""
    return Notice("answered_by", f"Answered by {origin.get('model', 'an unnamed model')}{where}.", origin)


def timings_notice(durations_s: dict[str, float | None]) -> list[Event]:
    """Return a notice with the server's own timings that are known, none when it has none."""
    detail = {name: value for name, value in durations_s.items() if value is not None}
    return [Notice("timings", "The server's own timings.", detail)] if detail else []


def parse_tier(value: object) -> str | None:
    """Return a reported service tier, None for a value that cannot be one."""
    return value.lower() if isinstance(value, str) and 0 < len(value) <= _MAX_TIER_CHARS else None


def parse_duration_s(value: object, per_s: float = 1.0) -> float | None:
    """Return a reported duration in seconds, None for a value that cannot be one. `per_s`: its units in a second."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value / per_s < _MAX_DURATION_S:
        return None
    return value / per_s


class SurrogateJoiner:
    r"""A joiner of surrogate pairs that a provider escaped as `\uXXXX` and split between two chunks.

    A surrogate without its other half becomes U+FFFD.
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
    """Return the text with surrogate pairs joined and lone surrogates replaced by U+FFFD, so that it can be encoded."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Parse one JSON object. Raises ProtocolError for anything else, and ResponseTooLargeError for too many values."""
    if len(text) > LONG_BYTES:
        raise_for_too_many_values(text)
    try:
        data = orjson.loads(text)
    except ValueError:
        data = _parse_json_leniently(text)
    if not isinstance(data, dict):
        raise ProtocolError(f"response: not a JSON object ({excerpt(text)})")
    return data


def raise_for_too_many_values(text: str | bytes) -> None:
    """Raise ResponseTooLargeError for a JSON text of more than MAX_JSON_PARTS values.

    Parsed values take much more memory than their text.
    """
    marks: tuple[Any, ...] = (",", "{", "[") if isinstance(text, str) else (b",", b"{", b"[")
    if sum(map(text.count, marks)) > MAX_JSON_PARTS:
        raise ResponseTooLargeError(f"response: JSON with more than {MAX_JSON_PARTS:,} values")


def _parse_json_leniently(text: str | bytes) -> object:
    # orjson rejects escaped lone surrogates, which the JSON standard allows.
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        raise ProtocolError(f"response: malformed JSON ({excerpt(text)})") from None


def excerpt(text: object) -> str:
    """Return a provider's text as one short printable line, for error messages."""
    if isinstance(text, bytes):
        text = text[: 4 * _MAX_SHOWN_CHARS].decode(errors="replace")
    line = " ".join(join_surrogates(str(text)[: 4 * _MAX_SHOWN_CHARS]).split())
    line = line if line.isprintable() else "".join(c for c in line if c.isprintable())
    return line.rstrip(".") if len(line) <= _MAX_SHOWN_CHARS else f"{line[:_MAX_SHOWN_CHARS]}…"


def parse_token_count(value: object) -> int | None:
    """Return a reported number of tokens, None for a value that cannot be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS else None


def as_object(value: object) -> dict[str, Any]:
    """Return the fields of an object, none when it is missing or null. Raises ProtocolError for any other value."""
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise ProtocolError(f"response: a value is not an object ({excerpt(value)})")


def as_text(value: object) -> str:
    """Return the text of a field, "" when it is missing or null. Raises ProtocolError for any other value."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise ProtocolError(f"response: a value is not text ({excerpt(value)})")
