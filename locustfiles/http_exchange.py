"""One HTTP request over a timestamped socket; each part of the body has a timestamp."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import SplitResult

from answer_record import AnswerRecord
from timestamped_socket import GeventTimestampedSocket

from clients.errors import InvalidResponseError
from streaming.http.response_parser import HTTPLimitError, HTTPParseError, ResponseParser
from streaming.limits import MAX_BODY_BYTES, MAX_ERROR_BODY_BYTES, MAX_STREAM_BYTES, size_text

GRACE_S = 0.25
"""How long to wait for the end of the body after the protocol's end marker; the evaluation waits as long."""
_TAIL_BYTES = 64
"""The length of the tail that is searched for the marker: the last line, with any blank lines and a chunk's end."""


class HttpExchange:
    """An HTTP exchange as a context manager: it connects and sends on entry and closes on exit.

    The method is POST with a body and GET without one. `record_timings` copies the connect and sent timestamps. Raises
    OSError (including TimeoutError) and HTTPParseError.
    """

    def __init__(
        self, url: SplitResult, target: str, body: Mapping[str, Any] | None, headers: Mapping[str, str], **options: Any
    ) -> None:
        self._url, self._options = url, options
        self._request = _encode_request(url, target, body, headers)
        self._reader = ResponseParser()
        self.fault: Exception | None = None

    def __enter__(self) -> Self:
        self.socket = GeventTimestampedSocket(self._url, **self._options)
        try:
            self.socket.sendall(self._request)
        except OSError:
            self.socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def record_timings(self, answer: AnswerRecord) -> None:
        """Copy the connect time, the peer's address and the sent timestamp of an answer's first exchange."""
        answer.connect_s, answer.sent_s = self.socket.connect_s, self.socket.sent_s
        answer.peer_address = self.socket.peer_address

    @property
    def status(self) -> int | None:
        """The response's status, or None before its head has arrived."""
        return self._reader.head.status if self._reader.head else None

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream."""
        head = self._reader.head
        return head is not None and head.headers.get("content-type", "").startswith("text/event-stream")

    def iter_chunks(self, last: bytes | None = None) -> Iterator[tuple[float, bytes]]:
        """Yield (timestamp, part of the body) until the body ends, `complete` or not.

        After the line `last`, wait for the body's end no longer than `GRACE_S`: some servers keep the connection open.
        """
        marked = False
        size = 0
        while not self._reader.complete:
            try:
                data = self.socket.recv()
            except TimeoutError:
                if not marked:
                    raise
                return
            if not data:
                self._reader.flush()
                return
            part = self._reader.feed(data)
            size += len(part)
            if size > self._max_bytes:
                raise HTTPLimitError(f"response body: larger than {size_text(self._max_bytes)}")
            if last is not None and not marked and last in part[-_TAIL_BYTES:]:
                marked = True
                self.socket.settimeout(GRACE_S)
            if part or self._reader.head is not None:
                yield self.socket.at_s, part

    @property
    def _max_bytes(self) -> int:
        """The size limit of the body. The request accepts no compression, and none is decoded."""
        if self.status is not None and not 200 <= self.status < 300:
            return MAX_ERROR_BODY_BYTES
        return MAX_STREAM_BYTES if self.is_stream else MAX_BODY_BYTES

    def iter_chunks_safe(self, last: bytes | None = None) -> Iterator[tuple[float, bytes]]:
        """Yield the parts as `iter_chunks` does, but store an error in `fault` instead of raising it.

        The parts received before the error still count.
        """
        try:
            yield from self.iter_chunks(last)
        except ERRORS as error:
            self.fault = error
            if isinstance(error, HTTPParseError) and error.body:
                yield self.socket.at_s, error.body

    @property
    def complete(self) -> bool:
        """Whether the body reached its announced end."""
        return self._reader.complete


def record_rejection(answer: AnswerRecord, at_s: float, status: int | None, body: bytes) -> None:
    """Record a response that is not a stream: its error in one of the usual JSON shapes, or else its status."""
    kind = "protocol" if status == 200 else f"http_{status}"
    message = f"response: status {status}, not an event stream ({body[:80]!r})"
    try:
        data = json.loads(body)
        error = data.get("error") or data
        if isinstance(error, str):
            message = error
        else:
            kind = error.get("rule") or error.get("type") or kind
            message = error.get("message") or error.get("detail") or message
    except (ValueError, AttributeError):
        pass  # not JSON, or none of these shapes: the message above describes the response
    if not answer.record_stream_gone(at_s, str(kind), str(message)):
        answer.on_failure(at_s, str(kind), str(message), status)


def record_error(answer: AnswerRecord, at_s: float, error: Exception) -> None:
    """Record an error of the connection, or of data that cannot be parsed."""
    if isinstance(error, TimeoutError):
        answer.on_failure(at_s, "idle_timeout", "answer: no data for --idle-s seconds")
    elif isinstance(error, OSError):
        answer.on_failure(at_s, "network", str(error) or type(error).__name__)
    else:
        answer.on_failure(at_s, "protocol", f"{type(error).__name__}: {error}")


ERRORS = (OSError, HTTPParseError, InvalidResponseError, ValueError, KeyError, TypeError, AttributeError)
"""The exceptions of a failed connection and of invalid frames, such as bad JSON or a missing field."""


def _encode_request(url: SplitResult, target: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> bytes:
    payload = b"" if body is None else json.dumps(body).encode()
    fields = {"host": url.netloc.rpartition("@")[2], "accept-encoding": "identity", "connection": "close", **headers}
    if body is not None:
        fields |= {"content-type": "application/json", "content-length": str(len(payload))}
    lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + payload
