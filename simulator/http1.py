"""HTTP/1.1 parsing with h11 and custom response encoding, because faults require invalid responses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11

from streaming.errors import UsageError

CONTINUE_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_MAX_BODY_BYTES = 32_000_000
_REASON_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}


class InvalidRequestError(Exception):
    """Invalid or unsupported HTTP request. `status` is the response status to send before closing the connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A complete HTTP request. Header names are in lower case. `keep_open` is whether the client wants keep-alive."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    chunked: bool
    """Whether the client supports chunked responses (HTTP/1.1)."""
    keep_open: bool

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def fields(self) -> dict[str, Any]:
        """Parse the body as a JSON object. Raises UsageError when it is not one."""
        try:
            data = json.loads(self.body)
        except (ValueError, RecursionError):
            raise UsageError("request body: not JSON") from None
        if not isinstance(data, dict):
            raise UsageError("request body: not a JSON object")
        return data


class RequestReader:
    """A parser that turns the bytes of a connection into requests, one per `feed`. It buffers bytes after a request."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Request | None:
        """Parse bytes and return the next complete request, or None. Pass no bytes to continue with the buffer.

        Raises InvalidRequestError when the bytes are not a valid HTTP request or the body is too large.
        """
        if data:
            self._http.receive_data(data)
        try:
            return self._next_request()
        except h11.RemoteProtocolError as error:
            raise InvalidRequestError(error.error_status_hint, f"request: not valid HTTP ({error})") from None

    def take_continue(self) -> bool:
        """Return whether the client is waiting for `100 Continue`. Later calls for the same request return False."""
        if not self._http.they_are_waiting_for_100_continue:
            return False
        self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
        return True

    def _next_request(self) -> Request | None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request = event
            elif isinstance(event, h11.Data):
                self._add_body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return self._build_request()
            else:
                return None

    def _add_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > _MAX_BODY_BYTES:
            raise InvalidRequestError(413, f"request body: larger than {_MAX_BODY_BYTES:,} bytes")
        self._body.append(data)

    def _build_request(self) -> Request:
        head = self._request
        assert head is not None  # h11 emits EndOfMessage only after a Request
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        version_1_1 = head.http_version == b"1.1"
        wishes = headers.get("connection", "" if version_1_1 else "close").lower()
        request = Request(
            method=head.method.decode("latin-1"),
            target=head.target.decode("latin-1"),
            headers=headers,
            body=b"".join(self._body),
            chunked=version_1_1,
            keep_open="close" not in wishes,
        )
        waiting, _ = self._http.trailing_data
        self._http = h11.Connection(h11.SERVER)
        if waiting:
            self._http.receive_data(waiting)
        self._request, self._body, self._size = None, [], 0
        return request


def encode_head(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    """Encode a status line and headers, including the blank line."""
    lines = [
        f"HTTP/1.1 {status} {_REASON_PHRASES.get(status, 'Unknown')}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def encode_chunk(data: bytes) -> bytes:
    """Encode one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
