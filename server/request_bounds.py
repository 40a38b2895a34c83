"""The size and time limits of a connection's requests, and a counter that checks sizes while data arrives. No I/O."""

from dataclasses import dataclass

from guard import RejectionError

MAX_PIECE_BYTES = 4096
"""The number of bytes parsed at a time, and so how far a request can exceed a limit before it is rejected."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits on what one connection may send, and on how long it may take.

    `head_bytes` limits the request line with all header lines, the trailers after a chunked body, and the framing of
    each chunk. `body_bytes` and `body_timeout_s` apply to every route; on the routes of chat requests the guard has
    lower limits with more specific messages. `message_bytes` and `fragments` apply to one WebSocket message.
    """

    head_bytes: int = 65_536
    header_lines: int = 200
    body_bytes: int = 4 * 1024 * 1024
    waiting_requests: int = 100
    message_bytes: int = 1024 * 1024
    fragments: int = 1024
    header_timeout_s: float = 20.0
    body_timeout_s: float = 35.0
    lingering_timeout_s: float = 5.0
    """How long the rest of a rejected request is received and discarded, so that the client can read the rejection."""
    lingering_bytes: int = 1024 * 1024


class RequestSize:
    """The size of the request that is arriving, counted through the callbacks of an HTTP parser.

    All bytes are counted when they are received (`add_received`), before their meaning is known, and the bytes of the
    body are subtracted later. So an endless header line, for which the parser makes no callback, is counted too. The
    piece of data in which a request begins is not counted; the exact size is known at the end of the head.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._framing = 0
        self._head = 0
        self._lines = 0
        self._body = 0

    def begin(self) -> None:
        """Reset the counts at the beginning of a request."""
        self._framing = self._head = self._lines = self._body = 0

    def add_received(self, count: int) -> None:
        """Count bytes that are about to be parsed."""
        self._framing += count

    def check_received(self) -> None:
        """Raise RejectionError when the head, the framing of a chunk or the trailers exceed their limit."""
        if self._framing > self._limits.head_bytes:
            raise self._too_large()

    def add_header(self, name: bytes, value: bytes) -> None:
        """Count a header line or a trailer. Raises RejectionError when there are too many."""
        self._lines += 1
        self._head += len(name) + len(value) + len(": \r\n")
        if self._lines > self._limits.header_lines:
            raise RejectionError(
                "request.head",
                "head_too_large",
                f"the head: more than {self._limits.header_lines} header lines (send fewer)",
            )

    def end_head(self, method: bytes, target: bytes) -> None:
        """Check the size of the head at its end. Raises RejectionError when it is too large."""
        self._framing = 0
        if len(method) + len(target) + len("  HTTP/1.1\r\n\r\n") + self._head > self._limits.head_bytes:
            raise self._too_large()

    def begin_chunk(self) -> None:
        """Reset the count of framing bytes at the beginning of a chunk; trailers follow the last, empty chunk."""
        self._framing = 0

    def add_body(self, count: int, *, is_accepted: bool) -> None:
        """Count bytes of the body. Raises RejectionError when it is too large and the application still reads it."""
        self._framing -= count
        self._body += count
        if is_accepted and self._body > self._limits.body_bytes:
            raise RejectionError(
                "validation.size", "too_large", f"the body: larger than {self._limits.body_bytes:,} bytes (send less)"
            )

    def _too_large(self) -> RejectionError:
        limit = self._limits.head_bytes
        return RejectionError("request.head", "head_too_large", f"the head: larger than {limit:,} bytes (send less)")
