"""How large a request may be and how long it may take to arrive, counted while it arrives. Pure."""

from dataclasses import dataclass

from guard import RejectionError

MAX_PIECE_BYTES = 4096
"""How much is parsed at a time, and so how far beyond a bound a request may be before it is noticed."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may send, and how slowly.

    `head_bytes` bounds the request line with all header lines, the trailers behind a chunked body, and the framing of
    each chunk. `body_bytes` and `body_timeout_s` hold for every route; where a question is asked the guard's are
    smaller, and its words better. `message_bytes` and `fragments` are of one
    WebSocket message.
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
    """How long the rest is taken of what was rejected, so that the rejection can be read."""
    lingering_bytes: int = 1024 * 1024


class RequestSize:
    """The size of the request that is arriving, as a parser's callbacks delimit it.

    Bytes are counted as they are received (`add_received`), before it is known what they are; those of the body are
    taken off again. So what a parser holds back without a callback, an endless header line, is counted too. Where a
    request begins inside a piece, the piece is not counted; at the head's end its exact size is known.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._framing = 0
        self._head = 0
        self._lines = 0
        self._body = 0

    def begin(self) -> None:
        """Begin a request."""
        self._framing = self._head = self._lines = self._body = 0

    def add_received(self, count: int) -> None:
        """Count bytes that are about to be parsed."""
        self._framing += count

    def check_received(self) -> None:
        """Raise Refusal when more was received than a head, a chunk's framing or the trailers may be."""
        if self._framing > self._limits.head_bytes:
            raise self._too_large()

    def add_header(self, name: bytes, value: bytes) -> None:
        """Count a header line, or a trailer. Raise Refusal when it is one too many."""
        self._lines += 1
        self._head += len(name) + len(value) + len(": \r\n")
        if self._lines > self._limits.header_lines:
            raise RejectionError(
                "request.head", "head_too_large", f"more than {self._limits.header_lines} header lines: send fewer"
            )

    def end_head(self, method: bytes, target: bytes) -> None:
        """End the head. Raise Refusal when it was too large."""
        self._framing = 0
        if len(method) + len(target) + len("  HTTP/1.1\r\n\r\n") + self._head > self._limits.head_bytes:
            raise self._too_large()

    def begin_chunk(self) -> None:
        """Begin a chunk of the body; after the last one, which is empty, come the trailers."""
        self._framing = 0

    def add_body(self, count: int, *, wanted: bool) -> None:
        """Count bytes of the body. Raise Refusal when they are too many and still `wanted`."""
        self._framing -= count
        self._body += count
        if wanted and self._body > self._limits.body_bytes:
            raise RejectionError(
                "validation.size", "too_large", f"the body is larger than {self._limits.body_bytes:,} bytes: send less"
            )

    def _too_large(self) -> RejectionError:
        limit = self._limits.head_bytes
        return RejectionError("request.head", "head_too_large", f"the head is larger than {limit:,} bytes: send less")
