"""A client that sends chat requests one after another over a WebSocket, and reconnects when it is lost.

async with WebSocketClient("http://127.0.0.1:7860") as client:
    async with client.stream(message="Name three colours.", resume=True) as answer:
        async for event in answer:
            ...
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self, Unpack

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from clients.answer_reader import STRAY_END_EVENT, AnswerReader, NewEvent, decode_frame
from clients.answer_stream import BackgroundTasks, Callbacks, ChatParams, ClientAnswerStream, is_address
from clients.errors import (
    UNAVAILABLE_KIND,
    ClientError,
    ConnectionLostError,
    InvalidResponseError,
    RequestRejectedError,
    rejection_from_fields,
    resume_error,
)
from clients.events import WireEvent
from clients.position import Backoff, StreamPosition
from clients.reconnecting import (
    ConnectFunction,
    ConnectionState,
    ReconnectingConnection,
    WebSocketConnection,
    connect_websocket,
    connection_lost_error,
)
from clients.request import encode_request
from streaming.http.resolver import Resolver
from streaming.limits import MAX_EVENT_BYTES, size_text

PATH = "/api/chat/ws"
_MAX_FRAME = size_text(MAX_EVENT_BYTES)
_CANCEL_FRAME = '{"type": "cancel"}'


class WebSocketClient:
    """A client of the service at the address `url` (http, https, ws or wss), which sends one request at a time.

    A lost connection is retried after `reconnect_interval_s`, with exponential backoff and at most `max_retries` times
    without an event in between; after that the client connects again only for the next request. With `reconnect=False`
    it never reconnects by itself.
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
        address, resolver = _websocket_url(url), Resolver(cached=False)
        sent = {**({} if key is None else {"Authorization": f"Bearer {key}"}), **(headers or {})}
        self._backoff = Backoff(max_retries, reconnect_interval_s)
        self._connection = ReconnectingConnection(
            dialling or (lambda: connect_websocket(address, sent, resolver)), self._backoff, reconnect, on_state
        )
        self._listener = Callbacks(on_message, on_error)
        self._background = BackgroundTasks()
        self._turn = asyncio.Lock()

    @property
    def state(self) -> ConnectionState:
        """The current state of the connection."""
        return self._connection.state

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open now."""
        return self.state == "open"

    @property
    def peer_address(self) -> str | None:
        """The IP address at the other end of the open connection, the proxy's if there is one; None without one."""
        remote = None if self._connection.socket is None else self._connection.socket.remote_address
        return str(remote[0]) if remote else None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def connect(self) -> None:
        """Open the connection, which otherwise the first request opens.

        Raises RequestRejectedError or ConnectionLostError.
        """
        await self._connection.get_socket()

    async def aclose(self) -> None:
        """Close the answers that were started with `send`, and close the connection."""
        await self._background.cancel_all()
        await self._connection.close()

    def stream(self, **params: Unpack[ChatParams]) -> ClientAnswerStream:
        """Return the answer stream of a chat request, which is sent when the stream is entered and earlier ones ended.

        A request that may have reached the service is never sent again. Leaving an answer before its end closes the
        connection, and the next request opens another. Raises ClientError for a request that is not valid JSON or
        Unicode.
        """
        encode_request(params)
        return self._make_answer(dict(params), StreamPosition(resumable=params.get("resume", False)))

    def resume(self, stream_id: str, last_id: str | None = None) -> ClientAnswerStream:
        """Return the rest of an answer after `last_id`, or all of it.

        Reading it raises StreamGoneError when the service no longer has the stream. Raises ClientError when `last_id`
        is not an id of the stream.
        """
        progress = StreamPosition.from_last_id(stream_id, last_id)
        return self._make_answer(_resume_message(progress), progress)

    def send(self, **params: Unpack[ChatParams]) -> None:
        """Send a chat request, and read its answer in the background; the callbacks receive text and errors."""
        self._background.start(self.stream(**params))

    def _make_answer(self, message: dict[str, Any], progress: StreamPosition) -> ClientAnswerStream:
        return ClientAnswerStream(
            self._iter_new_events(message, progress), progress, self._cancel_stream, self._listener
        )

    async def _cancel_stream(self, progress: StreamPosition) -> None:
        """Request that the answer be stopped; without a connection this is done once there is one again."""
        if progress.connected and self._connection.socket is not None:
            with suppress(ConnectionClosed):
                await self._connection.socket.send(_CANCEL_FRAME)

    async def _iter_new_events(
        self, message: dict[str, Any], progress: StreamPosition
    ) -> AsyncGenerator[NewEvent, None]:
        """Yield the new events, over as many connections as necessary."""
        socket: WebSocketConnection | None = None
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
                            raise InvalidResponseError(f"frame: larger than {_MAX_FRAME}") from None
                        if not (progress.can_resume or progress.ended):
                            raise connection_lost_error(socket) from None
                    except RequestRejectedError as refusal:
                        await self._wait_before_resuming(refusal, progress)
                        socket = None  # the connection is still open
                    message = _resume_message(progress)
            finally:
                if socket is not None and not progress.over:
                    await self._connection.disconnect(socket)

    async def _wait_before_resuming(self, refusal: RequestRejectedError, progress: StreamPosition) -> None:
        """Wait when the service cannot look up a stream now; otherwise raise the refusal."""
        can_retry = refusal.kind == UNAVAILABLE_KIND and progress.can_resume
        wait_s = self._backoff.next_delay_s(refusal.retry_after_s) if can_retry else None
        if wait_s is None:
            raise refusal
        progress.over = False
        await asyncio.sleep(wait_s)

    async def _iter_connection_events(
        self, socket: WebSocketConnection, message: dict[str, Any], progress: StreamPosition
    ) -> AsyncGenerator[NewEvent, None]:
        """Send the request on this connection, and yield the new events. Raises ConnectionClosed when it is lost."""
        reader = AnswerReader(progress)
        await socket.send(encode_request(message))
        progress.connected = True
        try:
            if progress.cancelling:
                await socket.send(_CANCEL_FRAME)
            while not progress.over:
                id, frame = decode_frame(await socket.recv())
                if id is None:
                    raise _stray_frame_error(frame, progress)
                if (new := reader.read(id, frame)) is not None:
                    self._backoff.reset()
                    yield new
        finally:
            progress.connected = False


def _is_too_large(closed: ConnectionClosed) -> bool:
    """Return whether the client closed the connection because it received a frame that is too large.

    False when the service closed it because of a frame that the client sent.
    """
    return closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG and not closed.rcvd_then_sent


def _resume_message(progress: StreamPosition) -> dict[str, Any]:
    return {"type": "resume", "stream_id": progress.stream_id, "last_id": progress.seq}


def _stray_frame_error(frame: WireEvent, progress: StreamPosition) -> ClientError:
    """Return the error for a frame that belongs to no stream.

    The service keeps the connection open after errors without a rule; the request is then over.
    """
    name, fields = frame
    if name == STRAY_END_EVENT:
        return ConnectionLostError("stream: has no events after that id")
    if name != "error":
        return InvalidResponseError(f"frame {name!r}: has no id")
    refusal = rejection_from_fields(fields)
    progress.over = refusal.rule is None
    return resume_error(refusal, progress.stream_id)


def _websocket_url(url: str) -> str:
    scheme, result, rest = url.rstrip("/").partition("://")
    if not result or scheme not in ("http", "https", "ws", "wss") or not is_address(url):
        raise ClientError(
            f"url: {url!r} is not an address of the service (begin it with http://, https://, ws:// or wss://)"
        )
    return f"{scheme.replace('http', 'ws')}://{rest}{PATH}"
