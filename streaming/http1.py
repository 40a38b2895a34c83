"""An HTTP/1.1 response read from bytes as they come (feed / flush), pure: head, chunks, length, or until the close.

Nothing is waited for: what `feed` gives is the part of the body that came with those bytes, so that whoever knows when
they came knows it of the part as well. Source: RFC 9112.
"""

import re
from dataclasses import dataclass

_HEAD_BYTES = 100_000
_LINE_BYTES = 16_384
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\r\n]*)?")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class Http1Error(Exception):
    """The bytes are no HTTP/1.1 response; the message says why. `body` is the part of the body that came before."""

    body = b""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers; names in lower case, repeated ones joined by a comma."""

    status: int
    headers: dict[str, str]


class ResponseReader:
    """Reads one response; any split of the bytes gives the same body.

    `head` is None until it is complete; heads of interim responses (1xx) are passed over. `complete` says that the
    body came to the end that it announced; one without an announcement is complete when `flush` says that the
    connection was closed. `chunks` is how many chunks the last `feed` held any part of, None where the body has none.
    """

    def __init__(self, *, has_body: bool = True) -> None:
        self.head: Head | None = None
        self.complete = False
        self.chunks: int | None = None
        self._has_body = has_body
        self._partial = b""
        self._chunked = False
        self._left: int | None = None
        self._line_due = "size"
        self._whole_end = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and give the part of the body in them; what follows the end is dropped.

        Raises Http1Error.
        """
        if self.complete:
            return b""
        if self.head is None:
            found = self._read_head(self._partial + data)
            if found is None or self.complete:
                return b""
            data = found
        if self._chunked:
            return self._read_chunks(data)
        if self._left is None:
            return data
        part = data[: self._left]
        self._left -= len(part)
        self.complete = self._left == 0
        return part

    def flush(self) -> bool:
        """The connection was closed: say whether the response is complete."""
        if self.head is not None and not self._chunked and self._left is None:
            self.complete = True
        return self.complete

    def _read_head(self, data: bytes) -> bytes | None:
        """Read up to the blank line; give what follows, None while it has not come."""
        while (end := _HEAD_END.search(data)) is not None:
            head = _head(data[: end.start()])
            data = data[end.end() :]
            if head.status >= 200 or head.status == 101:
                self.head, self._partial = head, b""
                self._frame(head)
                return data
        if len(data) > _HEAD_BYTES:
            raise Http1Error("the head of the response is too long")
        if not (data.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(data[:7])):
            raise Http1Error(f"no status line: {data[:80]!r}")
        self._partial = data
        return None

    def _frame(self, head: Head) -> None:
        """Learn from the head where the body will end."""
        coding = head.headers.get("transfer-encoding", "").lower()
        if not self._has_body or head.status in (204, 304):
            self.complete = True
        elif coding:
            if coding != "chunked":
                raise Http1Error(f"the transfer encoding {coding!r} is not known")
            self._chunked, self.chunks, self._left = True, 0, 0
        elif (length := head.headers.get("content-length")) is not None:
            lengths = {text.strip() for text in length.split(",")}
            text = lengths.pop()
            if lengths or not (text.isascii() and text.isdigit()) or len(text) > 15:
                raise Http1Error(f"the content length {length!r} is not a number")
            self._left = int(text)
            self.complete = self._left == 0

    def _read_chunks(self, data: bytes) -> bytes:
        """Read chunk after chunk. `_left` counts what a chunk still owes, 0 while a line is due."""
        if not self._partial and (part := self._whole_chunk(data, 0)) is not None and self._whole_end == len(data):
            self.chunks = 1
            return part
        if self._partial:
            data, self._partial = self._partial + data, b""
        parts: list[bytes] = []
        try:
            self._read_into(parts, data)
        except Http1Error as error:
            error.body = b"".join(parts)
            raise
        self.chunks = len(parts)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_into(self, parts: list[bytes], data: bytes) -> None:
        position, size = 0, len(data)
        while position < size and not self.complete:
            if (part := self._whole_chunk(data, position)) is not None:
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
                self._keep(data[position:])
                break
            self._line(data[position : end - 1 if data[end - 1 : end] == b"\r" and end > position else end])
            position = end + 1

    def _whole_chunk(self, data: bytes, position: int) -> bytes | None:
        """Give a chunk that stands here from its size to its end, the usual case; None for anything else."""
        if self._left or self._line_due != "size":
            return None
        line_end = data.find(b"\r\n", position, position + 20)
        if line_end < 0 or (found := _SIZE.fullmatch(data, position, line_end)) is None:
            return None
        start = line_end + 2
        end = start + int(found[1], 16)
        if end == start or data[end : end + 2] != b"\r\n":
            return None
        self._whole_end = end + 2
        return data[start:end]

    def _keep(self, rest: bytes) -> None:
        if len(rest) > _LINE_BYTES:
            raise Http1Error("a line between the chunks is too long")
        self._partial = rest

    def _line(self, line: bytes) -> None:
        """Take the line before a chunk (its size), after it (empty), or one of the trailer's, whose last is empty."""
        if self._line_due == "size":
            found = _SIZE.fullmatch(line)
            if found is None:
                raise Http1Error(f"no chunk size: {line[:80]!r}")
            self._left = int(found[1], 16)
            self._line_due = "end" if self._left else "trailer"
        elif self._line_due == "end":
            if line:
                raise Http1Error("a chunk is longer than its size")
            self._line_due = "size"
        elif not line:
            self.complete = True


def _head(data: bytes) -> Head:
    first, *lines = data.replace(b"\r\n", b"\n").split(b"\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise Http1Error(f"no status line: {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None:
            raise Http1Error(f"no header: {line[:80]!r}")
        key, text = name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Head(int(status[2]), headers)
