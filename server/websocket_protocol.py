"""WebSocket connections: uvicorn's protocol with the limits and close behaviour that uvicorn cannot configure."""

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidMessage
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

from guard import RejectionError
from server.http_protocol import encode_rejection  # importing it checks uvicorn's version
from server.request_bounds import ConnectionLimits

_INVALID_HEAD = RejectionError("request.syntax", "invalid", "the request: not a valid WebSocket handshake")
_LARGE_HEAD = RejectionError(
    "request.head",
    "head_too_large",
    f"the head: more than {MAX_NUM_HEADERS} lines, or one of more than {MAX_LINE_LENGTH:,} bytes (send less)",
)
_TOO_BIG, _POLICY = 1009, 1008


class _HandshakeProtocol(WebSocketsSansIOProtocol):
    """Answers an invalid handshake with an error response, which uvicorn does not send, and closes the connection."""

    def handle_connect(self, event: Any) -> None:
        app = self.app

        async def run(*asgi: Any) -> None:
            await app(*asgi)
            # uvicorn takes a rejection with a body for a missing response, and would log it as an error.
            self.handshake_complete = self.handshake_complete or self.initial_response is not None

        self.app = run
        super().handle_connect(event)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            rejection = _INVALID_HEAD if isinstance(self.conn.handshake_exc, InvalidMessage) else _LARGE_HEAD
            self.app_state["record_rejection"](rejection.rule)
            self.transport.write(encode_rejection(rejection))
            self.transport.close()


class _BoundedMessageProtocol(_HandshakeProtocol):
    """Limits the fragments of a message, the time it may take, and the pongs buffered for a client that does not read.

    The library limits the size of a message (`ws_max_size`). A frame that never completes is detected by the keep-alive
    pings, which the client cannot answer inside a frame.
    """

    def __init__(self, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def handle_text(self, event: Any) -> None:
        self._begin_message(event)
        super().handle_text(event)

    def handle_bytes(self, event: Any) -> None:
        self._begin_message(event)
        super().handle_bytes(event)

    def handle_cont(self, event: Any) -> None:
        if self.close_sent:
            return
        if len(self.frames) >= self._limits.fragments:
            self._fail(_TOO_BIG, "too many fragments")
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # discard the pong: pongs would accumulate for a client that does not read

    def send_receive_event_to_app(self) -> None:
        self._cancel_deadline()
        super().send_receive_event_to_app()

    def _begin_message(self, event: Any) -> None:
        if not event.fin:
            self._arm_deadline()

    def _arm_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(self._limits.body_timeout_s, self._on_deadline)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        if self.read_paused:
            self._arm_deadline()  # the service itself has paused reading
        else:
            self._fail(_POLICY, "the message did not arrive in time")

    def _fail(self, code: int, reason: str) -> None:
        if not self.close_sent and not self.transport.is_closing():
            self.conn.fail(code, reason)
            self.handle_parser_exception()


class WebSocketProtocol(_BoundedMessageProtocol):
    """The protocol that uvicorn runs. The session rejects invalid text, and closes the connection on shutdown."""

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.curr_msg_data_type = "bytes"  # the session rejects binary messages with an error frame
        super().send_receive_event_to_app()

    def shutdown(self) -> None:
        self.app_state["drain"]()
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        # Otherwise the session closes the connection, after the answer under way.
