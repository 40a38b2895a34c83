"""HTTP connections: uvicorn's protocol with size limits, deadlines and close behaviour that uvicorn cannot configure.

Each class adds one subject to the class above it; uvicorn runs `HttpProtocol`. The classes depend on the internals of
uvicorn's protocol, so uvicorn's version is checked at import.
"""

import asyncio
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from guard import RejectionError
from server.error_shapes import OWN_SHAPE, ErrorReport, ErrorShape
from server.request_bounds import MAX_PIECE_BYTES, ConnectionLimits, RequestSize

UVICORN_VERSION = "0.54"
_MAX_PIPELINED = 8
"""The number of requests that may wait on a connection before reading from it is paused."""
_AUTHORITY = re.compile(rb"[^/?#]*")

if not uvicorn.__version__.startswith(f"{UVICORN_VERSION}."):
    raise ImportError(
        f"uvicorn {uvicorn.__version__}: this project supports only version {UVICORN_VERSION} "
        "(install the version that requirements.txt names)"
    )


class _OriginFormProtocol(HttpToolsProtocol):
    """Replaces an absolute URL in the request line by its path, and the Host header by the URL's host.

    RFC 9112, section 3.2.2.
    """

    def on_headers_complete(self) -> None:
        _, is_absolute, rest = self.url.partition(b"://")
        if is_absolute and not self.url.startswith(b"/"):
            match = _AUTHORITY.match(rest)
            authority = match[0] if match is not None else b""
            target = rest[len(authority) :]
            self.url = target if target.startswith(b"/") else b"/" + target
            places = [place for place, (name, _) in enumerate(self.headers) if name == b"host"]
            if len(places) == 1:
                self.headers[places[0]] = (b"host", authority)
        super().on_headers_complete()


class _PipelinedProtocol(_OriginFormProtocol):
    """Tracks which of several pipelined requests is being answered, and reports a disconnect to that one."""

    _running: RequestResponseCycle | None = None

    @property
    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None and self._running is not self.cycle:
            # uvicorn reports the disconnect to the latest request only; the one being answered must know too.
            self._running.disconnected = True
            self._running.message_event.set()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= _MAX_PIPELINED:
            self.flow.resume_reading()  # a disconnect is noticed only while the connection is read

    def handle_websocket_upgrade(self) -> None:
        if self._is_answering:
            # The answer under way would be written among the WebSocket frames, and would not notice a disconnect.
            self.transport.abort()
            return
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)


class _BoundedProtocol(_PipelinedProtocol):
    """Rejects a request that exceeds a size limit while it arrives, before it is stored.

    Data is parsed in small pieces, so that parsing can stop soon after a limit is exceeded. After a rejection the rest
    of the request is received and discarded for a limited time: closing a connection with unread data resets it, and
    the client would lose the response.
    """

    def __init__(self, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._size = RequestSize(limits)
        self._in_head = False
        self._rejection: RejectionError | None = None
        self._rejected = False
        self._dropped = 0
        self.url = b""

    def data_received(self, data: bytes) -> None:
        if self._rejected:
            self._drop(data)
            return
        for piece in _pieces(data):
            self._size.add_received(len(piece))
            super().data_received(piece)
            if self._rejected or self.transport.is_closing() or self.transport.get_protocol() is not self:
                return
            try:
                self._size.check_received()
            except RejectionError as rejection:
                self._reject(rejection)
                return

    def on_message_begin(self) -> None:
        self._in_head = True
        self._size.begin()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        try:
            self._size.add_header(name, value)
        except RejectionError as rejection:
            self._rejection = rejection
            raise
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        try:
            self._size.end_head(self.parser.get_method(), self.url)
        except RejectionError as rejection:
            self._rejection = rejection
            raise
        if len(self.pipeline) >= self._limits.waiting_requests:
            self._rejection = RejectionError(
                "request.pipeline",
                "invalid",
                "pipelining: too many requests are waiting on this connection (wait for responses)",
            )
            raise self._rejection
        super().on_headers_complete()
        self._in_head = False

    def on_chunk_header(self) -> None:
        """Begin a chunk. The parser calls this when it has read the size and the extensions of the chunk."""
        self._size.begin_chunk()

    def on_body(self, body: bytes) -> None:
        try:
            self._size.add_body(len(body), is_accepted=self.cycle is None or not self.cycle.response_complete)
        except RejectionError as rejection:
            self._rejection = rejection
            raise
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        self._reject(self._rejection or RejectionError("request.syntax", "invalid", "the request: not valid HTTP/1.1"))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._rejected and not self._is_answering and not self.transport.is_closing():
            self._send_rejection()

    def _reject(self, rejection: RejectionError) -> None:
        """Accept no more data, and send the rejection after the responses to earlier requests on the connection."""
        self._rejection = rejection
        self._rejected = True
        self.app_state["record_rejection"](rejection.rule)
        if self._in_head:
            if not self._is_answering:
                self._send_rejection()
        elif self._is_answering:
            if self._running is not self.cycle or self.cycle.response_started:
                self.transport.abort()
                return
            self._send_rejection()
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self.transport.abort()  # this request has been answered already
        else:
            self._send_rejection()

    def _send_rejection(self) -> None:
        if self._rejection is not None:
            shape = self.app_state["error_shapes"].find_by_target(self.url)
            self.transport.write(encode_rejection(self._rejection, shape))
            self.transport.write_eof()
            self.loop.call_later(self._limits.lingering_timeout_s, self.transport.abort)
            self._rejection = None

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > self._limits.lingering_bytes:
            self.transport.abort()


class _TimedProtocol(_BoundedProtocol):
    """Limits how long the head of a request, or the rest of its body, may take to arrive."""

    def __init__(self, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(limits=limits, **options)
        self._number = 0
        self._part: str | None = None
        self._awaited: tuple[int, str] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own signature
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_deadline()

    def on_message_begin(self) -> None:
        self._number += 1
        self._part = "head"
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._part = "body"

    def on_message_complete(self) -> None:
        self._part = None
        super().on_message_complete()

    def _set_deadline(self) -> None:
        """Start the timer for the part that is awaited now, unless it is running for that part already."""
        part = self._part
        if part is None and (self.cycle is None or self.cycle.response_complete):
            part = "next head"  # empty lines between requests must not keep a connection open indefinitely
        if self._rejected or self.transport.is_closing() or self.transport.get_protocol() is not self:
            part = None
        awaited = None if part is None else (self._number, part)
        if awaited != self._awaited:
            self._cancel_deadline()
            self._awaited = awaited
            self._arm_deadline()

    def _arm_deadline(self) -> None:
        if self._awaited is not None:
            is_body = self._awaited[1] == "body"
            timeout_s = self._limits.body_timeout_s if is_body else self._limits.header_timeout_s
            self._deadline = self.loop.call_later(timeout_s, self._on_deadline, is_body)

    def _cancel_deadline(self) -> None:
        self._awaited = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self, is_body: bool) -> None:
        if self.flow.read_paused:
            self._arm_deadline()  # the service itself has paused reading
        elif is_body:
            timeout_s = self._limits.body_timeout_s
            self._reject(
                RejectionError(
                    "body.time",
                    "timeout",
                    f"the body: did not arrive within {timeout_s:g} s (send it faster, or send less)",
                )
            )
        else:
            self.transport.abort()


class HttpProtocol(_TimedProtocol):
    """Closes connections so that clients can read each response to its end, even one sent before the body arrived."""

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._running is not None and self._running.more_body:
            self.loop.call_later(self._limits.lingering_timeout_s, self._abort_unfinished, self._running)

    def shutdown(self) -> None:
        self.app_state["drain"]()
        super().shutdown()

    def _abort_unfinished(self, refused_cycle: RequestResponseCycle) -> None:
        if self.cycle is refused_cycle and refused_cycle.more_body:
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.transport = _PatientTransport(self.transport, cycle)  # type: ignore[assignment]  # what a cycle uses of one
        super()._start_asgi_task(cycle, app)


class _PatientTransport:
    """The transport of one request, whose `close` waits while the body of the request is still arriving.

    Closing a connection with unread data resets it, and the client would lose the response it has not read yet.
    """

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self._transport = transport
        self._cycle = cycle

    def close(self) -> None:
        if not (self._cycle.more_body and self._cycle.response_complete):
            self._transport.close()


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), MAX_PIECE_BYTES):
        yield data[start : start + MAX_PIECE_BYTES]


def encode_rejection(rejection: RejectionError, shape: ErrorShape = OWN_SHAPE) -> bytes:
    """Return the HTTP response, in bytes, to a request that is rejected before it reaches the application.

    The response announces that the connection is closed.
    """
    response = shape.response(ErrorReport.from_rejection(rejection))
    lines = [
        f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}".encode(),
        *(name + b": " + value for name, value in response.raw_headers),
        b"connection: close\r\n\r\n",
    ]
    return b"\r\n".join(lines) + bytes(response.body)
