"""One HTTP request over a stamped socket: the body's parts as they come, each with its moment."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import SplitResult

from answers import Answer
from stamped_socket import StampedSocket

from streaming.http1 import Http1Error, ResponseReader


class HttpExchange:
    """Sends on entry and closes on exit; what came before is in `answer`: connect, sent and head moments.

    A body or its absence tells the method: POST, GET. Raises OSError (TimeoutError too) and Http1Error.
    """

    def __init__(
        self, url: SplitResult, target: str, body: Mapping[str, Any] | None, headers: Mapping[str, str], **options: Any
    ) -> None:
        self._url, self._options = url, options
        self._request = _request(url, target, body, headers)
        self._reader = ResponseReader()
        self.merged = False

    def __enter__(self) -> Self:
        self.socket = StampedSocket(self._url, **self._options)
        try:
            self.socket.sendall(self._request)
        except OSError:
            self.socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def note(self, answer: Answer) -> None:
        """Write how it was sent into the first exchange of an answer."""
        answer.connect_s, answer.sent_s = self.socket.connect_s, self.socket.sent_s

    @property
    def status(self) -> int | None:
        """Give the response's status; None before its head came."""
        return self._reader.head.status if self._reader.head else None

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream."""
        head = self._reader.head
        return head is not None and head.headers.get("content-type", "").startswith("text/event-stream")

    def parts(self) -> Iterator[tuple[float, bytes]]:
        """Give the body's parts with their moments; ends with the body, `complete` or not."""
        while not self._reader.complete:
            data = self.socket.recv()
            if not data:
                self._reader.flush()
                return
            part = self._reader.feed(data)
            if part or self._reader.head is not None:
                yield self.socket.at_s, part

    @property
    def complete(self) -> bool:
        """Whether the body came to the end that it announced."""
        return self._reader.complete


def refused(answer: Answer, at_s: float, status: int | None, body: bytes) -> None:
    """Take a response that is no stream: its error, or that it was none."""
    try:
        error = json.loads(body)["error"]
        kind, message = error.get("rule") or error["type"], error["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        kind = "protocol" if status == 200 else f"http_{status}"
        message = f"status {status}, no event stream: {body[:80]!r}"
    answer.failed(at_s, str(kind), str(message), status)


def broke(answer: Answer, at_s: float, error: Exception) -> None:
    """Take what ended the connection, or what came and cannot be read."""
    if isinstance(error, TimeoutError):
        answer.failed(at_s, "idle_timeout", "nothing came for longer than --idle-s")
    elif isinstance(error, OSError):
        answer.failed(at_s, "network", str(error) or type(error).__name__)
    else:
        answer.failed(at_s, "protocol", f"{type(error).__name__}: {error}")


ERRORS = (OSError, Http1Error, ValueError, KeyError, TypeError, AttributeError)
"""What a broken connection raises, and what frames raise that are not as they should be: bad JSON, a field missing."""


def _request(url: SplitResult, target: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> bytes:
    payload = b"" if body is None else json.dumps(body).encode()
    fields = {"host": url.netloc.rpartition("@")[2], "accept-encoding": "identity", "connection": "close", **headers}
    if body is not None:
        fields |= {"content-type": "application/json", "content-length": str(len(payload))}
    lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + payload
