"""How a response's bytes are cut into JSON texts: an event stream, lines, or one whole body. Pure.

Each framing is a `wire.Decoder` around a dialect, which only reads what stands in one JSON text.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import orjson

from providers.heads import head_of, refuse_head, refuse_html, utf8
from providers.vendor_errors import stream_error
from providers.wire import LONG_BYTES, Reply, json_object, refuse_crowd, shown
from streaming import sse
from streaming.errors import ProtocolError, ResponseTooLargeError, StreamError
from streaming.events import Event, TextDelta, ThinkingDelta
from streaming.limits import MAX_BODY_BYTES, MAX_EVENT_BYTES, size_text

_END = "[DONE]"
_SSE_STARTS = (b"data", b"event", b"error", b"id", b"retry", b":")


class Dialect(Protocol):
    """Reads the JSON objects of one reply."""

    reply: Reply

    def read(self, fields: dict[str, Any]) -> list[Event]:
        """Take one object of a streamed reply. Raises StreamError."""

    def read_whole(self, body: dict[str, Any]) -> list[Event]:
        """Take the body of a reply that was not streamed. Raises StreamError."""


class EventStream:
    """Server-Sent Events, strictly UTF-8; what is no event stream at all is told apart from one that was cut.

    An event in the shape that vendors send, whole in one piece of bytes, is read without the general decoder, which
    costs four times as much; everything else goes through it.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._sse = sse.Decoder(errors="strict", error_field=True)
        # A blank line changes nothing, but what follows is not the beginning any more: no mark is skipped there.
        self._begun = False
        self._between_events = True
        self._head: bytes | None = b""

    @property
    def over(self) -> bool:
        return self._dialect.reply.over

    def feed(self, data: bytes) -> Iterable[Event]:
        events: list[Event] = []
        whole_events = data[-2:] == b"\n\n"
        try:
            if self._head is not None:
                self._head = head_of(self._head, data)
            if whole_events and self._between_events and b"\r" not in data and len(data) <= MAX_EVENT_BYTES:
                self._blocks(data, events)
            else:
                self._general(data, events)
        except StreamError as error:
            return _then([*events, *self._dialect.reply.held()], error)
        self._between_events = whole_events
        return events

    def flush(self) -> Iterator[Event]:
        if self._head is not None:
            refuse_head(self._head, _SSE_STARTS)
        yield from _end(self._dialect.reply)

    def _blocks(self, data: bytes, events: list[Event]) -> None:
        read = self._dialect.read
        for block in data[:-2].split(b"\n\n"):
            fields = _usual(block)
            if fields is None:
                self._general(block + b"\n\n", events)
                continue
            if not self._begun:
                self._begun = True
                self._sse.feed(b"\n")
            self._head = None
            events += read(fields)

    def _general(self, data: bytes, events: list[Event]) -> None:
        self._begun = self._begun or bool(data)
        for event in self._events(data):
            self._head = None
            text = event.data.strip()
            if text == _END:
                self._dialect.reply.over = True
            elif event.event == "error" and text:
                raise stream_error(_error_in(text))
            elif text:
                events += self._dialect.read(json_object(text))

    def _events(self, data: bytes) -> Iterator[sse.ServerSentEvent]:
        try:
            yield from self._sse.feed(data)
        except UnicodeDecodeError as error:
            # What is sound before the bad byte counts; the decoder has kept what it held before this call.
            sound = error.start - (len(error.object) - len(data))
            yield from self._events(data[: max(sound, 0)])
            raise ProtocolError("the provider sent bytes that are not UTF-8") from None
        except sse.EventTooLargeError as error:
            yield from error.events
            raise ResponseTooLargeError(f"the provider sent {error}") from None


def _usual(block: bytes) -> dict[str, Any] | None:
    """Read `data: {…}`, with or without a line `event: …` before it; None for anything else."""
    if block.startswith(b"event: error"):
        return None
    if block.startswith(b"event: "):
        block = block[block.find(b"\n") + 1 :]
    if not block.startswith(b"data: {") or b"\n" in block:
        return None
    text = block[6:]
    if len(text) > LONG_BYTES:
        refuse_crowd(text)
    try:
        fields: dict[str, Any] = orjson.loads(text)
    except ValueError:
        return None
    return fields


class Lines:
    """JSON, one text a line (NDJSON). One whole line in one piece of bytes, the usual case, takes a short way."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._read = dialect.read
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._head: bytes | None = b""

    @property
    def over(self) -> bool:
        return self._dialect.reply.over

    def feed(self, data: bytes) -> Iterable[Event]:
        if self._partial or not data.endswith(b"}\n") or len(data) > LONG_BYTES:
            return self._general(data)
        try:
            fields = orjson.loads(data)
        except ValueError:
            return self._general(data)
        if not isinstance(fields, dict):
            return self._general(data)
        self._head = None
        try:
            return self._read(fields)
        except StreamError as error:
            return _then(self._dialect.reply.held(), error)

    def _general(self, data: bytes) -> Iterable[Event]:
        events: list[Event] = []
        try:
            if self._head is not None:
                self._head = head_of(self._head, data)
            for line in self._cut(data):
                _refuse_long_line(len(line))
                if line and not line.isspace():
                    self._head = None
                    events += self._read(_line(line))
            _refuse_long_line(self._partial_bytes)
        except StreamError as error:
            return _then([*events, *self._dialect.reply.held()], error)
        return events

    def _cut(self, data: bytes) -> list[bytes]:
        """Give the lines that the bytes complete; the beginning of the next is kept."""
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
            yield from self._last(rest)
        if self._head is not None:
            refuse_head(self._head, (b"{",))
        yield from _end(self._dialect.reply)

    def _last(self, rest: bytes) -> Iterator[Event]:
        """Read a last line without a line break; one that is no JSON was cut, which the end will say."""
        try:
            fields = _line(rest)
        except ProtocolError:
            return
        self._head = None
        try:
            yield from self._dialect.read(fields)
        except StreamError:
            yield from self._dialect.reply.held()
            raise


def _refuse_long_line(size: int) -> None:
    """Raise ResponseTooLargeError for a line of more bytes than are read."""
    if size > MAX_EVENT_BYTES:
        raise ResponseTooLargeError(f"the provider sent a line of more than {size_text(MAX_EVENT_BYTES)}")


def _line(line: bytes) -> dict[str, Any]:
    if len(line) > LONG_BYTES:
        refuse_crowd(line)
    try:
        fields = orjson.loads(line)
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else json_object(utf8(line.strip()))


class Whole:
    """One JSON body for the whole answer, read when it is complete."""

    over = False

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._parts: list[bytes] = []
        self._left = MAX_BODY_BYTES

    def feed(self, data: bytes) -> Iterable[Event]:
        self._left -= len(data)
        if self._left < 0:
            raise ResponseTooLargeError(f"the provider sent an answer of more than {size_text(MAX_BODY_BYTES)}")
        self._parts.append(data)
        return ()

    def flush(self) -> Iterator[Event]:
        body = b"".join(self._parts).strip()
        if not body:
            raise ProtocolError("the provider sent an empty answer")
        refuse_html(body)
        reply, fields = self._dialect.reply, json_object(utf8(body))
        try:
            events = self._dialect.read_whole(fields)
        except StreamError:
            yield from _joined(reply.held())
            raise
        if not reply.is_recognized:
            raise ProtocolError(f"the provider sent JSON that is no answer ({shown(body)}): check the base URL")
        yield from _joined([*events, *reply.held()])
        yield from reply.end()


def _end(reply: Reply) -> Iterator[Event]:
    """Yield the end of a stream. Raises ProtocolError where its events held nothing of an answer."""
    if not (reply.is_recognized or reply.over):
        raise ProtocolError("the provider sent events that are no answer: check the base URL")
    yield from reply.end()


def _error_in(text: str) -> object:
    """Return what an event named `error` says: the error of its JSON, or its text."""
    try:
        fields = json_object(text)
    except ProtocolError:
        return text
    return fields.get("error") or fields


def _then(events: list[Event], error: StreamError) -> Iterator[Event]:
    yield from events
    raise error


def _joined(events: list[Event]) -> Iterator[Event]:
    """Join all text to one delta and all thinking to one before it; the rest follows."""
    thinking = "".join(event.text for event in events if isinstance(event, ThinkingDelta))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    if thinking:
        yield ThinkingDelta(thinking)
    if text:
        yield TextDelta(text)
    yield from (event for event in events if not isinstance(event, (TextDelta, ThinkingDelta)))
