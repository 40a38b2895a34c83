"""Framing: decoders that split a response's bytes into JSON texts, from SSE, from lines or from one body. Pure.

Each class here is a `StreamDecoder` around a dialect's `PayloadParser`, which only parses single JSON objects.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import orjson

from providers.decoding.decoder import LONG_BYTES, AnswerBuilder, excerpt, parse_json_object, raise_for_too_many_values
from providers.decoding.vendor_errors import error_from_payload
from streaming import sse
from streaming.errors import ProtocolError, ResponseTooLargeError, StreamError, TruncatedStreamError
from streaming.events import Event, TextDelta, ThinkingDelta
from streaming.limits import MAX_BODY_BYTES, MAX_EVENT_BYTES, size_text

_MAX_PREFIX_BYTES = 16_384


def collect_prefix(head: bytes, data: bytes) -> bytes:
    """Return the first bytes of a body, extended by `data` up to a limit. Raises ProtocolError for a web page.

    They are collected until something could be decoded, for the error message when nothing can.
    """
    if len(head) < _MAX_PREFIX_BYTES:
        head += data[: _MAX_PREFIX_BYTES - len(head)]
    raise_if_html(head)
    return head


def raise_if_html(head: bytes) -> None:
    """Raise ProtocolError when a body begins like a web page."""
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        raise ProtocolError("response: a web page instead of an answer (check the base URL)")


def raise_for_undecodable_body(head: bytes, starts: tuple[bytes, ...]) -> None:
    """Raise the error of a response in which nothing could be decoded. `starts` are the prefixes of a valid body.

    Raises TruncatedStreamError when the body began validly, else ProtocolError or the error in its JSON.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").strip()
    if not text:
        raise ProtocolError("response: empty")
    if text.startswith(b"{") and b"{" not in starts:
        if error := parse_json_object(decode_utf8(text)).get("error"):
            raise error_from_payload(error)
        raise ProtocolError("response: not streamed, although a stream was requested")
    if not text.startswith(starts):
        raise ProtocolError(f"response: not an answer ({excerpt(text)})")
    raise TruncatedStreamError("answer: the stream ended before any content arrived")


def decode_utf8(data: bytes) -> str:
    """Decode UTF-8 strictly. Raises ProtocolError for invalid bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError("response: not valid UTF-8") from None


_DONE_MARKER = "[DONE]"
_SSE_FIELD_PREFIXES = (b"data", b"event", b"error", b"id", b"retry", b":")


class PayloadParser(Protocol):
    """A dialect's parser of the JSON objects of one answer."""

    answer: AnswerBuilder

    def parse_chunk(self, fields: dict[str, Any]) -> list[Event]:
        """Return the events of one object of a streamed answer. Raises StreamError."""

    def parse_body(self, body: dict[str, Any]) -> list[Event]:
        """Return the events of the body of an answer that was not streamed. Raises StreamError."""


class SSEDecoder:
    """A decoder of Server-Sent Events in strict UTF-8. A body that is no event stream has another error than a cut one.

    Complete events in the form that vendors send are parsed on a fast path, at a quarter of the cost of the general SSE
    decoder, which handles everything else.
    """

    def __init__(self, dialect: PayloadParser) -> None:
        self._dialect = dialect
        self._sse = sse.Decoder(errors="strict", error_field=True)
        # Before the first event of the fast path, the general decoder is fed a blank line. It has no effect except that
        # a later byte order mark is no longer at the beginning, where it would be skipped.
        self._begun = False
        self._between_events = True
        self._head: bytes | None = b""

    @property
    def done(self) -> bool:
        return self._dialect.answer.over

    def feed(self, data: bytes) -> Iterable[Event]:
        events: list[Event] = []
        whole_events = data[-2:] == b"\n\n"
        try:
            if self._head is not None:
                self._head = collect_prefix(self._head, data)
            if whole_events and self._between_events and b"\r" not in data and len(data) <= MAX_EVENT_BYTES:
                self._decode_blocks(data, events)
            else:
                self._decode_any(data, events)
        except StreamError as error:
            return _yield_then_raise([*events, *self._dialect.answer.flush_held()], error)
        self._between_events = whole_events
        return events

    def flush(self) -> Iterator[Event]:
        if self._head is not None:
            raise_for_undecodable_body(self._head, _SSE_FIELD_PREFIXES)
        yield from _finish_stream(self._dialect.answer)

    def _decode_blocks(self, data: bytes, events: list[Event]) -> None:
        read = self._dialect.parse_chunk
        for block in data[:-2].split(b"\n\n"):
            fields = _parse_common_block(block)
            if fields is None:
                self._decode_any(block + b"\n\n", events)
                continue
            if not self._begun:
                self._begun = True
                self._sse.feed(b"\n")
            self._head = None
            events += read(fields)

    def _decode_any(self, data: bytes, events: list[Event]) -> None:
        self._begun = self._begun or bool(data)
        for event in self._read_events(data):
            self._head = None
            text = event.data.strip()
            if text == _DONE_MARKER:
                self._dialect.answer.over = True
            elif event.event == "error" and text:
                raise error_from_payload(_error_payload(text))
            elif text:
                events += self._dialect.parse_chunk(parse_json_object(text))

    def _read_events(self, data: bytes) -> Iterator[sse.ServerSentEvent]:
        try:
            yield from self._sse.feed(data)
        except UnicodeDecodeError as error:
            # The valid bytes before the bad one are decoded; the decoder still holds what it held before this call.
            valid = error.start - (len(error.object) - len(data))
            yield from self._read_events(data[: max(valid, 0)])
            raise ProtocolError("response: not valid UTF-8") from None
        except sse.EventTooLargeError as error:
            yield from error.events
            raise ResponseTooLargeError(f"response: exceeds a size limit ({error})") from None


def _parse_common_block(block: bytes) -> dict[str, Any] | None:
    """Parse a block of `data: {…}` with or without an `event: …` line before it. Return None for any other block."""
    if block.startswith(b"event: error"):
        return None
    if block.startswith(b"event: "):
        block = block[block.find(b"\n") + 1 :]
    if not block.startswith(b"data: {") or b"\n" in block:
        return None
    text = block[6:]
    if len(text) > LONG_BYTES:
        raise_for_too_many_values(text)
    try:
        fields: dict[str, Any] = orjson.loads(text)
    except ValueError:
        return None
    return fields


class NDJSONDecoder:
    """A decoder of newline-delimited JSON. One complete line in one read, the usual case, is parsed on a fast path."""

    def __init__(self, dialect: PayloadParser) -> None:
        self._dialect = dialect
        self._read = dialect.parse_chunk
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._head: bytes | None = b""

    @property
    def done(self) -> bool:
        return self._dialect.answer.over

    def feed(self, data: bytes) -> Iterable[Event]:
        if self._partial or len(data) > LONG_BYTES:
            return self._decode_any(data)
        try:
            fields = orjson.loads(data)
        except ValueError:
            return self._decode_any(data)
        if not isinstance(fields, dict):  # an object is complete even without its line break, a number is not
            return self._decode_any(data)
        self._head = None
        try:
            return self._read(fields)
        except StreamError as error:
            return _yield_then_raise(self._dialect.answer.flush_held(), error)

    def _decode_any(self, data: bytes) -> Iterable[Event]:
        events: list[Event] = []
        try:
            if self._head is not None:
                self._head = collect_prefix(self._head, data)
            for line in self._split_lines(data):
                _raise_for_long_line(len(line))
                if line and not line.isspace():
                    self._head = None
                    events += self._read(_parse_line(line))
            _raise_for_long_line(self._partial_bytes)
        except StreamError as error:
            return _yield_then_raise([*events, *self._dialect.answer.flush_held()], error)
        return events

    def _split_lines(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes complete, and keep the beginning of the next line."""
        *lines, rest = data.split(b"\n")
        if self._partial and lines:
            lines[0] = b"".join((*self._partial, lines[0]))
            self._partial.clear()
        if lines:
            self._partial_bytes = 0
        if rest:
            self._partial.append(rest)
            self._partial_bytes += len(rest)
        return lines

    def flush(self) -> Iterator[Event]:
        rest = b"".join(self._partial).strip()
        self._partial.clear()
        if rest.endswith(b"}"):
            yield from self._decode_last_line(rest)
        if self._head is not None:
            raise_for_undecodable_body(self._head, (b"{",))
        yield from _finish_stream(self._dialect.answer)

    def _decode_last_line(self, rest: bytes) -> Iterator[Event]:
        """Yield the events of a last line without a line break. An invalid line was cut, which `answer.end` reports."""
        try:
            fields = _parse_line(rest)
        except ProtocolError:
            return
        self._head = None
        try:
            yield from self._dialect.parse_chunk(fields)
        except StreamError:
            yield from self._dialect.answer.flush_held()
            raise


def _raise_for_long_line(size: int) -> None:
    """Raise ResponseTooLargeError for a line of more than MAX_EVENT_BYTES."""
    if size > MAX_EVENT_BYTES:
        raise ResponseTooLargeError(f"response: a line is longer than {size_text(MAX_EVENT_BYTES)}")


def _parse_line(line: bytes) -> dict[str, Any]:
    if len(line) > LONG_BYTES:
        raise_for_too_many_values(line)
    try:
        fields = orjson.loads(line)
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else parse_json_object(decode_utf8(line.strip()))


class JSONBodyDecoder:
    """A decoder of one JSON body that holds the whole answer. It is parsed when it is complete."""

    done = False

    def __init__(self, dialect: PayloadParser) -> None:
        self._dialect = dialect
        self._parts: list[bytes] = []
        self._left = MAX_BODY_BYTES

    def feed(self, data: bytes) -> Iterable[Event]:
        self._left -= len(data)
        if self._left < 0:
            raise ResponseTooLargeError(f"response: larger than {size_text(MAX_BODY_BYTES)}")
        self._parts.append(data)
        return ()

    def flush(self) -> Iterator[Event]:
        body = b"".join(self._parts).strip()
        if not body:
            raise ProtocolError("response: empty")
        raise_if_html(body)
        answer, fields = self._dialect.answer, parse_json_object(decode_utf8(body))
        try:
            events = self._dialect.parse_body(fields)
        except StreamError:
            yield from _join_deltas(answer.flush_held())
            raise
        if not answer.is_recognized:
            raise ProtocolError(f"response: JSON that is not an answer, {excerpt(body)} (check the base URL)")
        yield from _join_deltas([*events, *answer.flush_held()])
        yield from answer.end()


def _finish_stream(answer: AnswerBuilder) -> Iterator[Event]:
    """Yield the last events of a stream. Raises ProtocolError when its events contained no part of an answer."""
    if not (answer.is_recognized or answer.over):
        raise ProtocolError("response: events that are not an answer (check the base URL)")
    yield from answer.end()


def _error_payload(text: str) -> object:
    """Return the payload of an event named `error`: the error in its JSON, else its text."""
    try:
        fields = parse_json_object(text)
    except ProtocolError:
        return text
    return fields.get("error") or fields


def _yield_then_raise(events: list[Event], error: StreamError) -> Iterator[Event]:
    yield from events
    raise error


def _join_deltas(events: list[Event]) -> Iterator[Event]:
    """Yield all thinking as one delta, all text as one delta, then the other events."""
    thinking = "".join(event.text for event in events if isinstance(event, ThinkingDelta))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    if thinking:
        yield ThinkingDelta(thinking)
    if text:
        yield TextDelta(text)
    yield from (event for event in events if not isinstance(event, (TextDelta, ThinkingDelta)))
