"""An incremental HTTP/1.1 response parser (feed / flush) without I/O. Source: RFC 9112.

Bodies may have chunks or a length, or end with the connection. `feed` returns at once the part of the body that is in
the bytes it receives, so the timestamp of those bytes is also the timestamp of that part.
"""

import re
from dataclasses import dataclass

from streaming.limits import (
    MAX_CHUNK_EXTENSION_BYTES,
    MAX_CHUNK_LINE_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADER_LINES,
    MAX_INTERIM_HEADS,
    LimitExceededError,
    size_text,
)

_SIZE_CHARS = 16
"""The longest chunk-size line without extensions."""
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\r\n]*)?")
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_CHUNK_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HEAD_END_BYTES = 4
_NO_VALUE = re.compile(rb"[\r\0]")


class HTTPParseError(Exception):
    """The bytes are not a valid HTTP/1.1 response; the message says why.

    `body` is the part of the body that preceded the fault in the same bytes.
    """

    body = b""


class HTTPLimitError(HTTPParseError, LimitExceededError):
    """A part of the response exceeds its size limit; the message names the part and the limit."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The status and the headers of a response; names in lower case, repeated headers joined by a comma."""

    status: int
    headers: dict[str, str]


class ResponseParser:
    """A parser for one response. Any split of the bytes returns the same body.

    `head` is None until it is complete; interim responses (1xx) are skipped. `complete` is true when the body has
    reached its announced end; a body without an announced end is complete at `flush`, when the connection was closed.
    `chunks` is the number of chunks of which the last `feed` had a part, None when the body is not chunked.
    """

    def __init__(self, *, has_body: bool = True) -> None:
        self.head: ResponseHead | None = None
        self.complete = False
        self.chunks: int | None = None
        self._has_body = has_body
        self._head_bytes = bytearray()
        self._searched = 0
        self._interim_heads = 0
        self._http_1_0 = False
        self._is_persistent = False
        self._partial = b""
        self._chunked = False
        self._left: int | None = None
        self._line_due = "size"
        self._whole_end = 0
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._trailer_lines = 0

    @property
    def allows_reuse(self) -> bool:
        """Whether the connection may carry another request: the response is complete and nothing came after it."""
        return self.complete and self._is_persistent

    def feed(self, data: bytes) -> bytes:
        """Parse the next bytes and return the part of the body in them; bytes after the end are dropped.

        Raises HTTPParseError.
        """
        if self.complete:
            return self._drop(data)
        if self.head is None:
            head = self._read_head(data)
            if head is None:
                return b""
            if self.complete:
                return self._drop(head)
            data = head
        if self._chunked:
            return self._read_chunks(data)
        if self._left is None:
            return data
        part = data[: self._left]
        self._left -= len(part)
        if self._left == 0:
            self.complete = True
            self._drop(data[len(part) :])
        return part

    def flush(self) -> bool:
        """End the input, as the connection was closed, and return whether the response is complete."""
        if self.head is not None and not self._chunked and self._left is None:
            self.complete = True
        return self.complete

    def _drop(self, surplus: bytes) -> bytes:
        """Drop bytes after the response's end. They belong to no request, so the connection must not be reused."""
        if surplus:
            self._is_persistent = False
        return b""

    def _read_head(self, data: bytes) -> bytes | None:
        """Parse the head up to the blank line; return the bytes after it, or None while it is incomplete."""
        buffer = self._head_bytes
        buffer += data
        while True:
            if not (buffer.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(buffer[:7])):
                raise HTTPParseError(f"status line: missing or invalid ({bytes(buffer[:80])!r})")
            end = _HEAD_END.search(buffer, max(0, self._searched - _HEAD_END_BYTES + 1))
            # Do not search the same bytes again: a head may arrive byte by byte.
            self._searched = len(buffer)
            size = len(buffer) - _HEAD_END_BYTES + 1 if end is None else end.start()
            if size > MAX_HEAD_BYTES:
                raise HTTPLimitError(f"response head: larger than {size_text(MAX_HEAD_BYTES)}")
            if end is None:
                return None
            head = self._parse_head(bytes(buffer[: end.start()]))
            del buffer[: end.end()]
            self._searched = 0
            if head.status >= 200 or head.status == 101:
                rest = bytes(buffer)
                buffer.clear()
                self._read_body_framing(head)
                self.head = head
                return rest
            self._interim_heads += 1
            if self._interim_heads > MAX_INTERIM_HEADS:
                raise HTTPLimitError(f"interim responses: more than {MAX_INTERIM_HEADS}")

    def _parse_head(self, data: bytes) -> ResponseHead:
        first, *lines = data.replace(b"\r\n", b"\n").split(b"\n")
        status = _STATUS_LINE.fullmatch(first)
        if status is None:
            raise HTTPParseError(f"status line: missing or invalid ({first[:80]!r})")
        if len(lines) > MAX_HEADER_LINES:
            raise HTTPLimitError(f"header lines: more than {MAX_HEADER_LINES}")
        self._http_1_0 = status[1] == b"0"
        headers: dict[str, str] = {}
        for line in _unfold(lines):
            name, colon, value = line.partition(b":")
            if not colon or _HEADER_NAME.fullmatch(name) is None or _NO_VALUE.search(value) is not None:
                raise HTTPParseError(f"header line: invalid ({line[:80]!r})")
            key, text = name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return ResponseHead(int(status[2]), headers)

    def _read_body_framing(self, head: ResponseHead) -> None:
        """Derive from the head where the body ends, and whether the connection may be reused."""
        coding = head.headers.get("transfer-encoding")
        length = head.headers.get("content-length")
        self._is_persistent = self._keeps_alive(head) and not (coding is not None and length is not None)
        if not self._has_body or head.status in (204, 304):
            self.complete = True
        elif coding is not None:
            if coding.lower() != "chunked":
                raise HTTPParseError(f"transfer encoding: {coding[:80]!r} is unknown")
            self._chunked, self.chunks, self._left = True, 0, 0
        elif length is not None:
            lengths = {text.strip() for text in length.split(",")}
            text = lengths.pop()
            if lengths or not (text.isascii() and text.isdigit()) or len(text) > 15:
                raise HTTPParseError(f"content length: {length[:80]!r} is not a number")
            self._left = int(text)
            self.complete = self._left == 0
        else:
            self._is_persistent = False  # the body ends with the connection

    def _keeps_alive(self, head: ResponseHead) -> bool:
        options = {option.strip().lower() for option in head.headers.get("connection", "").split(",")}
        if head.status == 101 or "close" in options:
            return False
        if self._http_1_0:
            # A chunked HTTP/1.0 response was forwarded by a proxy that does not understand chunks (RFC 9112, 6.1).
            return "keep-alive" in options and "transfer-encoding" not in head.headers
        return True

    def _read_chunks(self, data: bytes) -> bytes:
        """Parse the chunks in `data`. `_left` is the number of bytes missing from a chunk, 0 while a line is due."""
        if not self._partial and (part := self._find_whole_chunk(data, 0)) is not None and self._whole_end == len(data):
            self.chunks = 1
            return part
        if self._partial:
            data, self._partial = self._partial + data, b""
        parts: list[bytes] = []
        try:
            self._parse_chunks_into(parts, data)
        except HTTPParseError as error:
            error.body = b"".join(parts)
            raise
        self.chunks = len(parts)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _parse_chunks_into(self, parts: list[bytes], data: bytes) -> None:
        position, size = 0, len(data)
        while position < size and not self.complete:
            if (part := self._find_whole_chunk(data, position)) is not None:
                parts.append(part)
                position = self._whole_end
                continue
            if self._left:
                part = data[position : position + self._left]
                parts.append(part)
                position += len(part)
                self._left -= len(part)
                continue
            end = data.find(b"\n", position)
            if end < 0:
                self._hold_partial_line(data[position:])
                break
            self._parse_chunk_line(data[position : end - 1 if data[end - 1 : end] == b"\r" and end > position else end])
            position = end + 1
        if self.complete:
            self._drop(data[position:])

    def _find_whole_chunk(self, data: bytes, position: int) -> bytes | None:
        """Return the data of a chunk that is complete at `position`, the usual case, or None for anything else."""
        if self._left or self._line_due != "size":
            return None
        line_end = data.find(b"\r\n", position, position + 20)
        if (
            not 0 <= line_end <= position + _SIZE_CHARS
            or (match := _CHUNK_SIZE_LINE.fullmatch(data, position, line_end)) is None
        ):
            return None
        start = line_end + 2
        end = start + int(match[1], 16)
        if end == start or data[end : end + 2] != b"\r\n":
            return None
        self._whole_end = end + 2
        return data[start:end]

    def _hold_partial_line(self, rest: bytes) -> None:
        if len(rest) > MAX_CHUNK_LINE_BYTES + 1:  # the carriage return is not part of the line
            raise HTTPLimitError(f"line between chunks: longer than {size_text(MAX_CHUNK_LINE_BYTES)}")
        self._partial = rest

    def _parse_chunk_line(self, line: bytes) -> None:
        """Parse one line: a chunk's size, the empty line after a chunk, or a trailer, the last of which is empty."""
        if len(line) > MAX_CHUNK_LINE_BYTES:
            raise HTTPLimitError(f"line between chunks: longer than {size_text(MAX_CHUNK_LINE_BYTES)}")
        if self._line_due == "size":
            self._start_chunk(line)
        elif self._line_due == "end":
            if line:
                raise HTTPParseError("chunk: longer than its size")
            self._line_due = "size"
        elif line:
            self._count_trailer(line)
        else:
            self.complete = True

    def _start_chunk(self, line: bytes) -> None:
        match = _CHUNK_SIZE_LINE.fullmatch(line)
        if match is None:
            raise HTTPParseError(f"chunk size: missing or invalid ({line[:80]!r})")
        self._extension_bytes += max(len(line) - _SIZE_CHARS, 0)
        if self._extension_bytes > MAX_CHUNK_EXTENSION_BYTES:
            raise HTTPLimitError(f"chunk extensions: larger than {size_text(MAX_CHUNK_EXTENSION_BYTES)}")
        self._left = int(match[1], 16)
        self._line_due = "end" if self._left else "trailer"

    def _count_trailer(self, line: bytes) -> None:
        """Count a trailer line, which is otherwise ignored, towards the same limits as a head's."""
        self._trailer_lines += 1
        self._trailer_bytes += len(line)
        if self._trailer_lines > MAX_HEADER_LINES:
            raise HTTPLimitError(f"trailer lines: more than {MAX_HEADER_LINES}")
        if self._trailer_bytes > MAX_HEAD_BYTES:
            raise HTTPLimitError(f"trailers: larger than {size_text(MAX_HEAD_BYTES)}")


def _unfold(lines: list[bytes]) -> list[bytes]:
    """Join each continuation line (obs-fold) to the header before it with one space (RFC 9112, 5.2)."""
    if not any(line[:1] in (b" ", b"\t") for line in lines):
        return lines
    groups: list[list[bytes]] = []
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            groups.append([line])
        elif groups:
            groups[-1].append(line.strip(b" \t"))
        else:
            raise HTTPParseError(f"header line: invalid ({line[:80]!r})")
    return [b" ".join(group) for group in groups]
