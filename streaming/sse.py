"""Server-Sent Events: an encoder, and an incremental decoder (feed / flush) that follows the WHATWG HTML standard.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, "Interpreting an event stream".
"""

import codecs
import re
from dataclasses import dataclass

from streaming.limits import MAX_EVENT_BYTES, LimitExceededError, size_text

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One dispatched event. `id` is the last event id so far; `retry_s` is a reconnection time that came with it."""

    data: str
    event: str = "message"
    id: str = ""
    retry_s: float | None = None


class EventTooLargeError(LimitExceededError):
    """A line or an event's data exceeds the size limit; `events` are the earlier events of the same `feed` call."""

    def __init__(self) -> None:
        super().__init__(f"event: larger than {size_text(MAX_EVENT_BYTES)}")
        self.events: list[ServerSentEvent] = []


class Decoder:
    """An incremental decoder from bytes to events. Any split of the bytes returns the same events.

    A line, and the data of one event, may have at most `MAX_EVENT_BYTES`; beyond that, `feed` raises EventTooLargeError
    and must not be called again. `errors="replace"` handles bad UTF-8 as the standard requires; with `"strict"`, `feed`
    raises UnicodeDecodeError. `error_field`: a field named `error`, which the standard ignores, becomes an event of
    that name, because servers built on llama.cpp until late 2025 report failures in that field. After the end, a
    client reconnects with `last_event_id` and `retry_s`.
    """

    def __init__(self, errors: str = "replace", *, error_field: bool = False) -> None:
        self.last_event_id = ""
        self.retry_s: float | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)
        self._at_start = True
        self._skip_lf = False
        self._error_field = error_field
        self._partial: list[str] = []
        self._partial_bytes = 0
        self._data: list[str] = []
        self._data_bytes = 0
        self._event = ""
        self._id = ""
        self._new_retry_s: float | None = None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Decode the next bytes and return the events that they complete. Raises EventTooLargeError."""
        events: list[ServerSentEvent] = []
        try:
            for line in self._split_lines(self._utf8.decode(chunk)):
                if line[:1] == ":" and len(line) <= MAX_EVENT_BYTES // 4:
                    continue  # a comment
                if line:
                    self._process_field(line)
                elif (event := self._dispatch_event()) is not None:
                    events.append(event)
            if self._partial_bytes > MAX_EVENT_BYTES:
                raise EventTooLargeError
        except EventTooLargeError as error:
            error.events = events
            raise
        return events

    def flush(self) -> list[ServerSentEvent]:
        """End the input and drop an event without a closing blank line, as the standard requires.

        Raises UnicodeDecodeError with `errors="strict"` when the bytes end inside a character.
        """
        self._utf8.decode(b"", final=True)
        self._partial.clear()
        self._data.clear()
        self._partial_bytes = self._data_bytes = 0
        return []

    def _split_lines(self, text: str) -> list[str]:
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if text and self._skip_lf:
            self._skip_lf = False
            text = text.removeprefix("\n")
        if not text:
            return []
        self._skip_lf = text[-1] == "\r"
        *lines, rest = text.split("\n") if "\r" not in text else _LINE_END.split(text)
        if lines and self._partial:
            lines[0] = "".join(self._partial) + lines[0]
            self._partial.clear()
        if lines:
            self._partial_bytes = 0
        if rest:
            self._partial.append(rest)
            self._partial_bytes += _size(rest)
        return lines

    def _process_field(self, line: str) -> None:
        size = _size(line)
        if size > MAX_EVENT_BYTES:
            raise EventTooLargeError
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._add_data(value, size)
        elif name == "event":
            self._event = value
        elif name == "error" and self._error_field:
            self._event = name
            self._add_data(value, size)
        elif name == "id":
            if "\0" not in value:
                self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_s = self._new_retry_s = int(value[:15]) / 1000

    def _add_data(self, value: str, size: int) -> None:
        self._data_bytes += size
        if self._data_bytes > MAX_EVENT_BYTES:
            raise EventTooLargeError
        self._data.append(value)

    def _dispatch_event(self) -> ServerSentEvent | None:
        self.last_event_id = self._id
        data, self._data, self._data_bytes = self._data, [], 0
        kind, self._event = self._event or "message", ""
        if not data:
            return None
        retry_s, self._new_retry_s = self._new_retry_s, None
        return ServerSentEvent("\n".join(data), kind, self._id, retry_s)


def _size(text: str) -> int:
    """Return the length of a text in UTF-8 bytes; a lone surrogate, which cannot be encoded, counts as three bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def encode(data: str, *, event: str | None = None, id: str | None = None) -> bytes:
    """Return the bytes of one event, including the blank line; line breaks in `data` become several `data:` lines.

    Raises ValueError when `event` or `id` contains a line break or a NUL, because a decoder could not restore it.
    """
    head = ""
    if id is not None:
        head += f"id: {_require_one_line(id)}\n"
    if event is not None:
        head += f"event: {_require_one_line(event)}\n"
    if "\n" in data or "\r" in data:
        data = "\ndata: ".join(_LINE_END.split(data))
    return f"{head}data: {data}\n\n".encode()


def comment(text: str = "") -> bytes:
    """Return the bytes of a comment line. Clients ignore comments; they keep a silent connection open."""
    return f": {_require_one_line(text)}\n\n".encode()


def _require_one_line(text: str) -> str:
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"SSE field: {text!r} contains a line break or NUL")
    return text
