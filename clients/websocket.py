"""Ask over a WebSocket that is kept open, question after question; a lost connection is opened again.

async with WebSocketClient("http://127.0.0.1:7860") as client:
    async with client.ask(message="Name three colours.", resume=True) as answer:
        async for event in answer:
            ...
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self, Unpack

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from clients.answer_stream import BackgroundTasks, Callbacks, ChatParams, ClientAnswerStream
from clients.errors import ClientError, ConnectionLostError, InvalidResponseError, rejection_from_fields, resume_error
from clients.events import WireEvent
from clients.position import Backoff, StreamPosition
from clients.reconnecting import (
    ConnectFunction,
    ConnectionState,
    ReconnectingConnection,
    WebSocketProtocol,
    connect_websocket,
    connection_lost_error,
)
from streaming.limits import MAX_EVENT_BYTES, size_text

PATH = "/api/chat/ws"
_MAX_FRAME = size_text(MAX_EVENT_BYTES)
_CANCEL_FRAME = '{"type": "cancel"}'


class WebSocketClient:
    """Asks the service at the address `url` (http, https, ws or wss), one question after another on one connection.

    A lost connection is opened again after `reconnect_interval_s`, twice that and so on, at most `max_retries` times in
    a row without an event between, then again for the next question only; never by itself with `reconnect=False`.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        reconnect: bool = True,
        max_retries: int = 5,
        reconnect_interval_s: float = 1.0,
        on_state: Callable[[ConnectionState], Any] | None = None,
        on_message: Callable[[str], Any] | None = None,
        on_error: Callable[[ClientError], Any] | None = None,
        dialling: ConnectFunction | None = None,
    ) -> None:
        address = _websocket_url(url)
        sent = {**({} if key is None else {"Authorization": f"Bearer {key}"}), **(headers or {})}
        self._backoff = Backoff(max_retries, reconnect_interval_s)
        self._connection = ReconnectingConnection(
            dialling or (lambda: connect_websocket(address, sent)), self._backoff, reconnect, on_state
        )
        self._listener = Callbacks(on_message, on_error)
        self._background = BackgroundTasks()
        self._turn = asyncio.Lock()

    @property
    def state(self) -> ConnectionState:
        """Where the connection is in its life."""
        return self._connection.state

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open now."""
        return self.state == "open"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def connect(self) -> None:
        """Open the connection, as the first question does else. Raises Refused, ConnectionLost."""
        await self._connection.get_socket()

    async def aclose(self) -> None:
        """Leave what `send` asked for, and close the connection."""
        await self._background.cancel_all()
        await self._connection.close()

    def stream(self, **question: Unpack[ChatParams]) -> ClientAnswerStream:
        """Give the answer to be entered, which waits for its turn; a question that may have arrived is not sent twice.

        An answer that is left before its end takes the connection with it; the next question opens another.
        """
        return self._make_answer(dict(question), StreamPosition(resumable=question.get("resume", False)))

    def resume(self, stream_id: str, last_id: str | None = None) -> ClientAnswerStream:
        """Give the rest of an answer after `last_id`, or all of it. Raises StreamGoneError when it is not kept."""
        progress = StreamPosition.from_last_id(stream_id, last_id)
        return self._make_answer(_resume_message(progress), progress)

    def send(self, **question: Unpack[ChatParams]) -> None:
        """Ask, and read in the background: the callbacks tell."""
        self._background.start(self.stream(**question))

    def _make_answer(self, message: dict[str, Any], progress: StreamPosition) -> ClientAnswerStream:
        return ClientAnswerStream(
            self._iter_new_events(message, progress), progress, self._cancel_stream, self._listener
        )

    async def _cancel_stream(self, progress: StreamPosition) -> None:
        """Ask to stop it; without a connection that is done as soon as there is one again."""
        if progress.connected and self._connection.socket is not None:
            with suppress(ConnectionClosed):
                await self._connection.socket.send(_CANCEL_FRAME)

    async def _iter_new_events(
        self, message: dict[str, Any], progress: StreamPosition
    ) -> AsyncGenerator[WireEvent, None]:
        """Give the frames that are new, over as many connections as it takes."""
        socket: WebSocketProtocol | None = None
        async with self._turn:
            try:
                while not progress.ended:
                    socket = await self._connection.get_socket(socket)
                    try:
                        async with aclosing(self._iter_connection_events(socket, message, progress)) as frames:
                            async for frame in frames:
                                yield frame
                    except ConnectionClosed as closed:
                        if _is_too_large(closed):
                            raise InvalidResponseError(f"the service sent a frame of more than {_MAX_FRAME}") from None
                        if not (progress.can_resume or progress.ended):
                            raise connection_lost_error(socket) from None
                    message = _resume_message(progress)
            finally:
                if socket is not None and not progress.over:
                    await self._connection.disconnect(socket)

    async def _iter_connection_events(
        self, socket: WebSocketProtocol, message: dict[str, Any], progress: StreamPosition
    ) -> AsyncGenerator[WireEvent, None]:
        """Ask on this connection, and give what is new. Raises ConnectionClosed when it is lost."""
        await socket.send(json.dumps(message))
        progress.connected = True
        try:
            if progress.cancelling:
                await socket.send(_CANCEL_FRAME)
            while not progress.over:
                id, frame = _parse_frame(await socket.recv())
                if id is None:
                    raise _stray_frame_error(frame, progress)
                if progress.advance(id, frame[0]):
                    self._backoff.reset()
                    yield frame
        finally:
            progress.connected = False


def _is_too_large(closed: ConnectionClosed) -> bool:
    """Return whether this side closed because of a frame that it would not read, not the service because of ours."""
    return closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG and not closed.rcvd_then_sent


def _resume_message(progress: StreamPosition) -> dict[str, Any]:
    return {"type": "resume", "stream_id": progress.stream_id, "last_id": progress.seq}


def _parse_frame(message: str | bytes) -> tuple[str | None, WireEvent]:
    try:
        fields = json.loads(message)
        return fields.pop("id", None), (fields.pop("type"), fields)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidResponseError("the service sent a frame that is not a JSON object with a type") from None


def _stray_frame_error(frame: WireEvent, progress: StreamPosition) -> ClientError:
    """Give the error of a frame that belongs to no stream; the service closes after what a rule refused, else not."""
    name, fields = frame
    if name == "ended":
        return ConnectionLostError("nothing is left of the answer after that id")
    if name != "error":
        return InvalidResponseError(f"the service sent a {name!r} without an id")
    refusal = rejection_from_fields(fields)
    progress.over = refusal.rule is None
    return resume_error(refusal, progress.stream_id)


def _websocket_url(url: str) -> str:
    scheme, found, rest = url.rstrip("/").partition("://")
    if not found or scheme not in ("http", "https", "ws", "wss"):
        raise ClientError(f"the service's address must begin with http://, https://, ws:// or wss://: {url!r}")
    return f"{scheme.replace('http', 'ws')}://{rest}{PATH}"
