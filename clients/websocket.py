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

from clients.answer import Answer, Background, Listener, Question
from clients.connection import Connection, Dial, Socket, State, dial, lost
from clients.errors import ClientError, ConnectionLost, WireError, refused, resume_error
from clients.events import Frame
from clients.progress import Backoff, Progress
from streaming.limits import MAX_EVENT_BYTES, size_text

PATH = "/api/chat/ws"
_MAX_FRAME = size_text(MAX_EVENT_BYTES)
_CANCEL = '{"type": "cancel"}'


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
        on_state: Callable[[State], Any] | None = None,
        on_message: Callable[[str], Any] | None = None,
        on_error: Callable[[ClientError], Any] | None = None,
        dialling: Dial | None = None,
    ) -> None:
        address = _address(url)
        sent = {**({} if key is None else {"Authorization": f"Bearer {key}"}), **(headers or {})}
        self._backoff = Backoff(max_retries, reconnect_interval_s)
        self._connection = Connection(dialling or (lambda: dial(address, sent)), self._backoff, reconnect, on_state)
        self._listener = Listener(on_message, on_error)
        self._background = Background()
        self._turn = asyncio.Lock()

    @property
    def state(self) -> State:
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
        await self._connection.opened()

    async def aclose(self) -> None:
        """Leave what `send` asked for, and close the connection."""
        await self._background.leave()
        await self._connection.close()

    def ask(self, **question: Unpack[Question]) -> Answer:
        """Give the answer to be entered, which waits for its turn; a question that may have arrived is not sent twice.

        An answer that is left before its end takes the connection with it; the next question opens another.
        """
        return self._answer(dict(question), Progress(resumable=question.get("resume", False)))

    def resume(self, stream_id: str, last_id: str | None = None) -> Answer:
        """Give the rest of an answer after `last_id`, or all of it. Raises StreamGoneError when it is not kept."""
        progress = Progress.at(stream_id, last_id)
        return self._answer(_resuming(progress), progress)

    def send(self, **question: Unpack[Question]) -> None:
        """Ask, and read in the background: the callbacks tell."""
        self._background.start(self.ask(**question))

    def _answer(self, message: dict[str, Any], progress: Progress) -> Answer:
        return Answer(self._frames(message, progress), progress, self._stop, self._listener)

    async def _stop(self, progress: Progress) -> None:
        """Ask to stop it; without a connection that is done as soon as there is one again."""
        if progress.connected and self._connection.socket is not None:
            with suppress(ConnectionClosed):
                await self._connection.socket.send(_CANCEL)

    async def _frames(self, message: dict[str, Any], progress: Progress) -> AsyncGenerator[Frame, None]:
        """Give the frames that are new, over as many connections as it takes."""
        socket: Socket | None = None
        async with self._turn:
            try:
                while not progress.ended:
                    socket = await self._connection.opened(socket)
                    try:
                        async with aclosing(self._exchange(socket, message, progress)) as frames:
                            async for frame in frames:
                                yield frame
                    except ConnectionClosed as closed:
                        if _is_too_large(closed):
                            raise WireError(f"the service sent a frame of more than {_MAX_FRAME}") from None
                        if not (progress.can_resume or progress.ended):
                            raise lost(socket) from None
                    message = _resuming(progress)
            finally:
                if socket is not None and not progress.over:
                    await self._connection.leave(socket)

    async def _exchange(
        self, socket: Socket, message: dict[str, Any], progress: Progress
    ) -> AsyncGenerator[Frame, None]:
        """Ask on this connection, and give what is new. Raises ConnectionClosed when it is lost."""
        await socket.send(json.dumps(message))
        progress.connected = True
        try:
            if progress.cancelling:
                await socket.send(_CANCEL)
            while not progress.over:
                id, frame = _read(await socket.recv())
                if id is None:
                    raise _told(frame, progress)
                if progress.take(id, frame[0]):
                    self._backoff.reset()
                    yield frame
        finally:
            progress.connected = False


def _is_too_large(closed: ConnectionClosed) -> bool:
    """Return whether this side closed because of a frame that it would not read, not the service because of ours."""
    return closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG and not closed.rcvd_then_sent


def _resuming(progress: Progress) -> dict[str, Any]:
    return {"type": "resume", "stream_id": progress.stream_id, "last_id": progress.seq}


def _read(message: str | bytes) -> tuple[str | None, Frame]:
    try:
        fields = json.loads(message)
        return fields.pop("id", None), (fields.pop("type"), fields)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise WireError("the service sent a frame that is not a JSON object with a type") from None


def _told(frame: Frame, progress: Progress) -> ClientError:
    """Give the error of a frame that belongs to no stream; the service closes after what a rule refused, else not."""
    name, fields = frame
    if name == "ended":
        return ConnectionLost("nothing is left of the answer after that id")
    if name != "error":
        return WireError(f"the service sent a {name!r} without an id")
    refusal = refused(fields)
    progress.over = refusal.rule is None
    return resume_error(refusal, progress.stream_id)


def _address(url: str) -> str:
    scheme, found, rest = url.rstrip("/").partition("://")
    if not found or scheme not in ("http", "https", "ws", "wss"):
        raise ClientError(f"the service's address must begin with http://, https://, ws:// or wss://: {url!r}")
    return f"{scheme.replace('http', 'ws')}://{rest}{PATH}"
