"""Ask over HTTP and read Server-Sent Events; a lost connection is made good where `resume` was asked.

async with SSEClient("http://127.0.0.1:7860") as client:
    async with client.ask(message="Name three colours.", resume=True) as answer:
        async for event in answer:
            ...
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, Unpack
from urllib.parse import quote

import httpx2

from clients.answer import Answer, Background, Listener, Question
from clients.errors import ClientError, ConnectionLost, Refused, WireError, refused_by, resume_error
from clients.events import Frame
from clients.progress import PASSING, Backoff, Progress
from streaming.decompression import DecompressionError, decompressor
from streaming.limits import MAX_ERROR_BODY_BYTES, MAX_STREAM_BYTES, LimitExceededError, size_text
from streaming.sse import Decoder, EventTooLargeError, ServerSentEvent

PATH = "/api/chat/stream"
CONNECT_S = 10.0


class SSEClient:
    """Asks the service at the address `url`; any number of questions at a time, each on a connection of its own.

    A lost connection is made good after `reconnect_interval_s`, twice that and so on, at most `max_retries` times in a
    row without an event between; the service's own `retry:` and `Retry-After` count. After `silence_s` without a byte a
    connection counts as lost (the service sends a comment every 15 s). `on_open` and `on_close` tell of every one.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_retries: int = 5,
        reconnect_interval_s: float = 1.0,
        silence_s: float = 60.0,
        on_message: Callable[[str], Any] | None = None,
        on_error: Callable[[ClientError], Any] | None = None,
        on_open: Callable[[], Any] | None = None,
        on_close: Callable[[], Any] | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"the service's address must begin with http:// or https://: {url!r}")
        self._url = url.rstrip("/") + PATH
        self._backoff = (max_retries, reconnect_interval_s)
        self._listener = Listener(on_message, on_error)
        self._on_open, self._on_close = on_open, on_close
        self._open = 0
        self._silence_s = silence_s
        self._background = Background()
        own = {"accept-encoding": "identity"} | ({} if key is None else {"authorization": f"Bearer {key}"})
        self._http = httpx2.AsyncClient(
            headers={**own, **(headers or {})},
            timeout=httpx2.Timeout(silence_s, connect=CONNECT_S),
            # The pool's limit of 100 would make the next question wait without a word.
            limits=httpx2.Limits(max_connections=None),
            transport=transport,
        )

    @property
    def is_connected(self) -> bool:
        """Whether any answer's connection is open now."""
        return self._open > 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Disconnect, and close what is kept open for the next question."""
        await self.disconnect()
        await self._http.aclose()

    def ask(self, **question: Unpack[Question]) -> Answer:
        """Give the answer to be entered; nothing is sent before. A question that may have arrived is not sent twice."""
        progress = Progress(resumable=question.get("resume", False))
        return self._answer(self._http.build_request("POST", self._url, json=question), progress)

    def resume(self, stream_id: str, last_id: str | None = None) -> Answer:
        """Give the rest of an answer after `last_id`, or all of it. Raises StreamGoneError when it is not kept."""
        progress = Progress.at(stream_id, last_id)
        return self._answer(self._resuming(progress), progress)

    def connect(self, **question: Unpack[Question]) -> None:
        """Ask, and read in the background: the callbacks tell."""
        self._background.start(self.ask(**question))

    async def disconnect(self) -> None:
        """Leave every answer that `connect` asked for."""
        await self._background.leave()

    def _answer(self, request: httpx2.Request, progress: Progress) -> Answer:
        return Answer(self._frames(request, progress), progress, self._stop, self._listener)

    def _resuming(self, progress: Progress) -> httpx2.Request:
        headers = {"last-event-id": progress.last_id} if progress.last_id else {}
        return self._http.build_request("GET", self._address(progress), headers=headers)

    def _address(self, progress: Progress) -> str:
        return f"{self._url}/{quote(progress.stream_id or '', safe='')}"

    async def _stop(self, progress: Progress) -> None:
        """Ask to stop it. One that has ended already (404) has its end on the stream."""
        try:
            reply = await self._send(self._http.build_request("DELETE", self._address(progress)))
            async with aclosing(reply):
                body = await _read_error(reply)
        except httpx2.RequestError as error:
            raise ConnectionLost(f"the answer could not be cancelled: {_words(error)}") from None
        if reply.status_code not in (200, 404):
            raise refused_by(reply.status_code, body, reply.headers.get("retry-after"))

    async def _frames(self, request: httpx2.Request, progress: Progress) -> AsyncGenerator[Frame, None]:
        """Give the frames that are new, over as many connections as it takes."""
        backoff = Backoff(*self._backoff)
        while True:
            cut = _Cut(ConnectionLost("the connection ended before the answer did"))
            try:
                async with aclosing(self._connection(request, progress, backoff)) as frames:
                    async for frame in frames:
                        yield frame
            except _Cut as found:
                cut = found
            if progress.ended:
                return
            wait_s = backoff.next_s(cut.wait_s) if progress.can_resume or cut.unsent else None
            if wait_s is None:
                raise cut.error
            await asyncio.sleep(wait_s)
            if progress.can_resume:
                request = self._resuming(progress)

    async def _connection(
        self, request: httpx2.Request, progress: Progress, backoff: Backoff
    ) -> AsyncGenerator[Frame, None]:
        """Give what is new on one connection. Raises _Cut when it breaks, ClientError when another would not help."""
        try:
            async with aclosing(self._events(request, progress, backoff)) as events:
                async for event in events:
                    frame = frame_of(event)
                    if progress.take(event.id, frame[0]):
                        backoff.reset()
                        yield frame
                    if progress.over:
                        return
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise _Cut(ConnectionLost(f"no connection to {self._url}: {_words(error)}"), unsent=True) from None
        except httpx2.RequestError as error:
            raise _Cut(ConnectionLost(f"the connection was lost: {_words(error)}")) from None
        except Refused as refusal:
            if refusal.status not in PASSING:
                raise resume_error(refusal, progress.stream_id) from None
            raise _Cut(refusal, wait_s=refusal.retry_after_s) from None

    async def _events(
        self, request: httpx2.Request, progress: Progress, backoff: Backoff
    ) -> AsyncGenerator[ServerSentEvent, None]:
        response = await self._send(request)
        try:
            await _accept(response)
            self._opened(progress)
            decoder = Decoder("strict")
            async for piece in _pieces(response, MAX_STREAM_BYTES):
                for event in _decoded(decoder, piece):
                    yield event
                if decoder.retry_s is not None:
                    backoff.first_s = decoder.retry_s
        finally:
            self._closed(progress)
            await response.aclose()

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        """Send, and wait for the head, however many interim ones come before it. Raises RequestError."""
        try:
            async with asyncio.timeout(CONNECT_S + self._silence_s):
                return await self._http.send(request, stream=True)
        except TimeoutError:
            raise httpx2.ReadTimeout("no answer in time", request=request) from None

    def _opened(self, progress: Progress) -> None:
        progress.connected = True
        self._open += 1
        if self._on_open is not None:
            self._on_open()

    def _closed(self, progress: Progress) -> None:
        if progress.connected:
            progress.connected = False
            self._open -= 1
            if self._on_close is not None:
                self._on_close()


class _Cut(Exception):
    """A connection broke, or was not had. `unsent`: the request cannot have arrived; `wait_s`: the service's wish."""

    def __init__(self, error: ClientError, *, unsent: bool = False, wait_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.unsent = unsent
        self.wait_s = wait_s


async def _accept(response: httpx2.Response) -> None:
    """Raise ClientError unless the response is a stream of events."""
    if response.status_code == 204:
        raise ConnectionLost("nothing is left of the answer after that id")
    if response.status_code != 200:
        body = await _read_error(response)
        raise refused_by(response.status_code, body, response.headers.get("retry-after"))
    kind = response.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise WireError(f"there is no event stream at this address, but {kind or 'something without a type'}")


async def _read_error(response: httpx2.Response) -> bytes:
    """Read the body of a refusal. Raises WireError when it is longer than is read."""
    return b"".join([piece async for piece in _pieces(response, MAX_ERROR_BODY_BYTES)])


async def _pieces(response: httpx2.Response, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield a body as it comes, decompressed a little at a time where it is compressed. Raises WireError."""
    try:
        # One that a transport gave whole is decompressed already.
        came_whole = response.is_stream_consumed
        codec = None if came_whole else decompressor(response.headers.get("content-encoding", ""), max_bytes)
        left = max_bytes
        async for data in response.aiter_bytes() if came_whole else response.aiter_raw():
            for piece in (data,) if codec is None else codec.feed(data):
                left -= len(piece)
                if left < 0:
                    raise LimitExceededError(f"a body of more than {size_text(max_bytes)}")
                yield piece
                if codec is not None:
                    await asyncio.sleep(0)
    except LimitExceededError as error:
        raise WireError(f"the service sent more than is read: {error}") from None
    except DecompressionError as error:
        raise WireError(f"the service sent a body that cannot be decompressed: {error}") from None


def _decoded(decoder: Decoder, piece: bytes) -> Iterator[ServerSentEvent]:
    """Yield the events that a piece completes. Raises WireError after those that came before the fault."""
    try:
        yield from decoder.feed(piece)
    except UnicodeDecodeError:
        raise WireError("the service sent bytes that are not UTF-8") from None
    except EventTooLargeError as error:
        yield from error.events
        raise WireError(f"the service sent more than is read: {error}") from None


def frame_of(event: ServerSentEvent) -> Frame:
    """Give the frame that an event carries. Raises WireError."""
    if event.event == "message" and event.data == "[DONE]":
        return "done", {}
    try:
        fields = json.loads(event.data)
    except ValueError:
        raise WireError(f"the service sent a {event.event!r} that is not JSON") from None
    return "chunk" if event.event == "message" else event.event, fields


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
