"""HTTP/1.1 in bytes: requests are read with h11, answers are put together here, because faults must break them."""

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
    """The bytes are no HTTP request that is served here; `status` is what to answer before closing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request. Header names are in lower case; `keep_open` is what the client wants of the connection."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    chunked: bool
    """Whether the client takes a chunked answer (HTTP/1.1)."""
    keep_open: bool

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def fields(self) -> dict[str, Any]:
        """Return the body's JSON object. Raises UsageError for anything else."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            raise UsageError("the request's body is not JSON") from None
        if not isinstance(found, dict):
            raise UsageError("the request's body must be a JSON object")
        return found


class RequestReader:
    """Bytes of one connection in, requests out, one at a time; what follows a request waits for the next `feed`."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Request | None:
        """Take bytes (none to continue with buffered ones); return the request that is complete with them.

        Raises BadRequest.
        """
        if data:
            self._http.receive_data(data)
        try:
            return self._next_request()
        except h11.RemoteProtocolError as error:
            raise InvalidRequestError(error.error_status_hint, f"not a valid HTTP request: {error}") from None

    def take_continue(self) -> bool:
        """Say, once, whether the client waits for `100 Continue` before it sends the body."""
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
            raise InvalidRequestError(413, f"the request's body is over {_MAX_BODY_BYTES} bytes")
        self._body.append(data)

    def _build_request(self) -> Request:
        head = self._request
        assert head is not None  # h11 gives no end without a beginning
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
    """Return a status line and headers, blank line included."""
    lines = [
        f"HTTP/1.1 {status} {_REASON_PHRASES.get(status, 'Unknown')}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def encode_chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
