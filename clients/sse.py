"""A client that sends chat requests over HTTP and reads Server-Sent Events; with `resume` it reconnects by itself.

async with SSEClient("http://127.0.0.1:7860") as client:
    async with client.stream(message="Name three colours.", resume=True) as answer:
        async for event in answer:
            ...
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, Unpack
from urllib.parse import quote, urlsplit

import httpx2

from clients.answer_reader import AnswerReader, NewEvent
from clients.answer_stream import BackgroundTasks, Callbacks, ChatParams, ClientAnswerStream, is_address
from clients.errors import (
    ClientError,
    ConnectionLostError,
    InvalidResponseError,
    RequestRejectedError,
    rejection_from_response,
    resume_error,
)
from clients.position import RETRYABLE_STATUSES, Backoff, StreamPosition
from clients.request import encode_request
from streaming.decompression import DecompressionError, decompressor
from streaming.errors import UsageError
from streaming.http.proxies import system_proxy_for
from streaming.limits import MAX_ERROR_BODY_BYTES, MAX_STREAM_BYTES, LimitExceededError, size_text
from streaming.sse import Decoder, EventTooLargeError, ServerSentEvent

PATH = "/api/chat/stream"
CONNECT_TIMEOUT_S = 10.0


class SSEClient:
    """A client of the service at the address `url`, for any number of concurrent requests, each on its own connection.

    A lost connection is retried after `reconnect_interval_s`, with exponential backoff and at most `max_retries` times
    without an event in between. The client follows the service's `retry:` field and `Retry-After` header. A connection
    counts as lost after `silence_s` without a byte (the service sends a comment every 15 s). `on_open` and `on_close`
    are called for every connection.
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
        if not url.startswith(("http://", "https://")) or not is_address(url):
            raise ClientError(f"url: {url!r} is not an address of the service (begin it with http:// or https://)")
        self._url = url.rstrip("/") + PATH
        self._backoff = (max_retries, reconnect_interval_s)
        self._listener = Callbacks(on_message, on_error)
        self._on_open, self._on_close = on_open, on_close
        self._open = 0
        self._silence_s = silence_s
        self._background = BackgroundTasks()
        own = {"accept-encoding": "identity"} | ({} if key is None else {"authorization": f"Bearer {key}"})
        self._http = httpx2.AsyncClient(
            headers={**own, **(headers or {})},
            timeout=httpx2.Timeout(silence_s, connect=CONNECT_TIMEOUT_S),
            # The transport is given, so that the library does not choose a proxy by rules of its own.
            transport=transport or _make_transport(url),
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
        """Disconnect, and close the connection pool."""
        await self.disconnect()
        await self._http.aclose()

    def stream(self, **params: Unpack[ChatParams]) -> ClientAnswerStream:
        """Return the answer stream of a chat request, which is sent when the stream is entered.

        A request that may have reached the service is never sent again. Raises ClientError for one that is not valid
        JSON or Unicode.
        """
        progress = StreamPosition(resumable=params.get("resume", False))
        body, headers = encode_request(params), {"content-type": "application/json"}
        return self._make_answer(self._http.build_request("POST", self._url, content=body, headers=headers), progress)

    def resume(self, stream_id: str, last_id: str | None = None) -> ClientAnswerStream:
        """Return the rest of an answer after `last_id`, or all of it.

        Reading it raises StreamGoneError when the service no longer has the stream. Raises ClientError when `last_id`
        is not an id of the stream.
        """
        progress = StreamPosition.from_last_id(stream_id, last_id)
        return self._make_answer(self._resume_request(progress), progress)

    def connect(self, **params: Unpack[ChatParams]) -> None:
        """Send a chat request, and read its answer in the background; the callbacks receive text and errors."""
        self._background.start(self.stream(**params))

    async def disconnect(self) -> None:
        """Close every answer that was started with `connect`."""
        await self._background.cancel_all()

    def _make_answer(self, request: httpx2.Request, progress: StreamPosition) -> ClientAnswerStream:
        return ClientAnswerStream(
            self._iter_new_events(request, progress), progress, self._cancel_stream, self._listener
        )

    def _resume_request(self, progress: StreamPosition) -> httpx2.Request:
        headers = {"last-event-id": progress.last_id} if progress.last_id else {}
        return self._http.build_request("GET", self._stream_url(progress), headers=headers)

    def _stream_url(self, progress: StreamPosition) -> str:
        return f"{self._url}/{quote(progress.stream_id or '', safe='')}"

    async def _cancel_stream(self, progress: StreamPosition) -> None:
        """Request that the answer be stopped. If it has ended already (404), its end is on the stream."""
        try:
            reply = await self._send(self._http.build_request("DELETE", self._stream_url(progress)))
            async with aclosing(reply):
                body = await _read_error(reply)
        except httpx2.RequestError as error:
            raise ConnectionLostError(f"answer: could not be cancelled ({_error_text(error)})") from None
        if reply.status_code not in (200, 404):
            raise rejection_from_response(reply.status_code, body, reply.headers.get("retry-after"))

    async def _iter_new_events(
        self, request: httpx2.Request, progress: StreamPosition
    ) -> AsyncGenerator[NewEvent, None]:
        """Yield the new events, over as many connections as necessary."""
        backoff = Backoff(*self._backoff)
        while True:
            broken = _ConnectionBrokenError(ConnectionLostError("connection: ended before the answer"))
            try:
                async with aclosing(self._iter_connection_events(request, progress, backoff)) as frames:
                    async for frame in frames:
                        yield frame
            except _ConnectionBrokenError as error:
                broken = error
            if progress.ended:
                return
            wait_s = backoff.next_delay_s(broken.wait_s) if progress.can_resume or broken.unsent else None
            if wait_s is None:
                raise broken.error
            await asyncio.sleep(wait_s)
            if progress.can_resume:
                request = self._resume_request(progress)

    async def _iter_connection_events(
        self, request: httpx2.Request, progress: StreamPosition, backoff: Backoff
    ) -> AsyncGenerator[NewEvent, None]:
        """Yield the new events of one connection.

        Raises _ConnectionBrokenError when it is lost, and ClientError when reconnecting would not help.
        """
        reader = AnswerReader(progress)
        try:
            async with aclosing(self._iter_sse_events(request, progress, backoff)) as events:
                async for event in events:
                    if (new := reader.read_sse(event)) is not None:
                        backoff.reset()
                        yield new
                    if progress.over:
                        return
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise _ConnectionBrokenError(
                ConnectionLostError(f"{self._url}: no connection ({_error_text(error)})"), unsent=True
            ) from None
        except httpx2.RequestError as error:
            raise _ConnectionBrokenError(ConnectionLostError(f"connection: lost ({_error_text(error)})")) from None
        except RequestRejectedError as refusal:
            if refusal.status not in RETRYABLE_STATUSES:
                raise resume_error(refusal, progress.stream_id) from None
            raise _ConnectionBrokenError(refusal, wait_s=refusal.retry_after_s) from None

    async def _iter_sse_events(
        self, request: httpx2.Request, progress: StreamPosition, backoff: Backoff
    ) -> AsyncGenerator[ServerSentEvent, None]:
        response = await self._send(request)
        try:
            await _raise_unless_event_stream(response)
            self._on_opened(progress)
            decoder = Decoder("strict")
            async for piece in _pieces(response, MAX_STREAM_BYTES):
                for event in _decode(decoder, piece):
                    yield event
                if decoder.retry_s is not None:
                    backoff.first_s = decoder.retry_s
        finally:
            self._on_closed(progress)
            await response.aclose()

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and wait for the head of its response, past any interim responses. Raises RequestError."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S + self._silence_s):
                return await self._http.send(request, stream=True)
        except TimeoutError:
            raise httpx2.ReadTimeout("no response in time", request=request) from None

    def _on_opened(self, progress: StreamPosition) -> None:
        progress.connected = True
        self._open += 1
        if self._on_open is not None:
            self._on_open()

    def _on_closed(self, progress: StreamPosition) -> None:
        if progress.connected:
            progress.connected = False
            self._open -= 1
            if self._on_close is not None:
                self._on_close()


class _ConnectionBrokenError(Exception):
    """A connection was lost or could not be opened.

    `unsent`: the request cannot have reached the service. `wait_s`: the delay that the service requests.
    """

    def __init__(self, error: ClientError, *, unsent: bool = False, wait_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.unsent = unsent
        self.wait_s = wait_s


def _make_transport(url: str) -> httpx2.AsyncBaseTransport:
    # With the connection pool's default limit of 100 the next request would wait silently.
    limits = httpx2.Limits(max_connections=None)
    # Loading certificates is slow and a plain HTTP address needs none: this context trusts nobody.
    verify = True if urlsplit(url).scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx2.AsyncHTTPTransport(verify=verify, limits=limits, proxy=system_proxy_for(url))
    except UsageError as error:
        raise ClientError(str(error)) from None
    except OSError as error:  # the library's own certificates are looked for before they are read
        reason = error.strerror or error
        raise ClientError(f"SSL_CERT_FILE: cannot be read: {reason} (name a PEM file, or unset it)") from None


async def _raise_unless_event_stream(response: httpx2.Response) -> None:
    """Raise ClientError unless the response is an event stream."""
    if response.status_code == 204:
        raise ConnectionLostError("stream: has no events after that id")
    if response.status_code != 200:
        body = await _read_error(response)
        raise rejection_from_response(response.status_code, body, response.headers.get("retry-after"))
    kind = response.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise InvalidResponseError(f"response: not an event stream (content type {kind or 'missing'})")


async def _read_error(response: httpx2.Response) -> bytes:
    """Return the body of an error response. Raises InvalidResponseError when it exceeds MAX_ERROR_BODY_BYTES."""
    return b"".join([piece async for piece in _pieces(response, MAX_ERROR_BODY_BYTES)])


async def _pieces(response: httpx2.Response, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a body as they arrive, decompressed in small steps.

    Raises InvalidResponseError when the body exceeds `max_bytes` or cannot be decompressed.
    """
    try:
        # A body that the transport has read completely is decompressed already.
        is_complete = response.is_stream_consumed
        codec = None if is_complete else decompressor(response.headers.get("content-encoding", ""), max_bytes)
        left = max_bytes
        async for data in response.aiter_bytes() if is_complete else response.aiter_raw():
            for piece in (data,) if codec is None else codec.feed(data):
                left -= len(piece)
                if left < 0:
                    raise LimitExceededError(f"response body: larger than {size_text(max_bytes)}")
                yield piece
                if codec is not None:
                    await asyncio.sleep(0)
    except LimitExceededError as error:
        raise InvalidResponseError(f"response: exceeds a size limit ({error})") from None
    except DecompressionError as error:
        raise InvalidResponseError(f"response: cannot be decompressed ({error})") from None


def _decode(decoder: Decoder, piece: bytes) -> Iterator[ServerSentEvent]:
    """Yield the events that a piece completes. Raises InvalidResponseError after the events before an invalid one."""
    try:
        yield from decoder.feed(piece)
    except UnicodeDecodeError:
        raise InvalidResponseError("response: not valid UTF-8") from None
    except EventTooLargeError as error:
        yield from error.events
        raise InvalidResponseError(f"response: exceeds a size limit ({error})") from None


def _error_text(error: Exception) -> str:
    return str(error) or type(error).__name__
