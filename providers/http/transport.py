"""Transports for the SDKs' HTTP libraries, built on this project's own connection pool.

The libraries' own transports need more CPU time for each chunk than the rest of the streaming path together.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Any, Protocol, cast

from providers.http.compression import decompressor
from streaming.decompression import DecompressionError, Decompressor
from streaming.http.connection import Origin
from streaming.http.connection_pool import ConnectError, ConnectionClosedError, ConnectionPool, Response
from streaming.http.response_parser import HTTPParseError
from streaming.limits import LimitExceededError, max_body_bytes, size_text

REQUEST_ID_HEADER = "X-Client-Request-Id"
RAW_BODY_EXTENSION = "streamgauge.body"
"""The key of a response's extension that holds its body stream."""
_FORBIDDEN_BYTES = re.compile(rb"[\r\n\0]")
"""Bytes that no header may contain. The libraries accept them and leave the check to the transport."""


class PooledTransport:
    """A transport for `httpx` (or httpx2) on our own connection pool. It raises that library's exceptions."""

    def __init__(self, httpx: Any, context: Any, connect_s: float) -> None:
        self._httpx = httpx
        self._context = context
        self._connect_s = connect_s
        self._pool = ConnectionPool()
        self._body = _stream_type(_ResponseBodyStream, httpx)

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request and return the response as soon as its headers have arrived."""
        httpx, url = self._httpx, request.url
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol(f"{url}: not an HTTP address (write it like https://example.com)")
        secure = url.scheme == "https"
        target = Origin(url.host, url.port or (443 if secure else 80), self._context if secure else None)
        try:
            response = await self._pool.send(target, await _serialize_request(request, httpx), self._connect_s)
        except ConnectError as error:
            raise httpx.ConnectError(str(error)) from error.__cause__
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except (ConnectionClosedError, HTTPParseError) as error:
            raise _to_httpx_error(error, httpx, "Server disconnected without sending a response.") from error
        head = response.head
        try:
            return respond(httpx, head.status, list(head.headers.items()), self._body(response, httpx))
        except httpx.DecodingError:
            await response.aclose()
            raise

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def __aenter__(self) -> "PooledTransport":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class BoundedTransport:
    """A wrapper that applies `streaming.limits` to the responses of the library's own transport, used for proxies."""

    def __init__(self, httpx: Any, inner: Any) -> None:
        self._httpx = httpx
        self._inner = inner

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request and return the response as soon as its headers have arrived."""
        response = await self._inner.handle_async_request(request)
        return respond(self._httpx, response.status_code, response.headers.multi_items(), _Raw(response.stream))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> "BoundedTransport":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class CapturingTransport:
    """A wrapper that keeps chosen requests, answering them with an empty 200, and sends all others with `inner`."""

    def __init__(self, httpx: Any, inner: Any) -> None:
        self._httpx = httpx
        self._inner = inner
        self._captured: dict[str, Any] = {}

    async def capture(self, opening: Callable[[str], AbstractAsyncContextManager[Any]]) -> Any:
        """Return the library's request that `opening` sends, called with the request id that it must send."""
        token = secrets.token_hex(16)
        self._captured[token] = None
        try:
            async with opening(token):
                pass
        finally:
            request = self._captured.pop(token)
        if request is None:
            raise RuntimeError(f"no request had the header {REQUEST_ID_HEADER}: {token}")
        return request

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request and return the response as soon as its headers have arrived."""
        token = request.headers.get(REQUEST_ID_HEADER) if self._captured else None
        if token not in self._captured:
            return await self._inner.handle_async_request(request)
        self._captured[token] = request
        return respond(self._httpx, 200, [], _EmptyBody())

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> "CapturingTransport":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Source(Protocol):
    """A source of body bytes as they arrive."""

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


class _EmptyBody:
    """A response body without bytes."""

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None: ...


class _Raw:
    """The response body of a library's own transport."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._parts = cast("AsyncGenerator[bytes, None]", aiter(stream))

    async def __anext__(self) -> bytes:
        return await anext(self._parts)

    async def aclose(self) -> None:
        await self._parts.aclose()
        await self._stream.aclose()


class _ResponseBodyStream:
    """The body of a response of our own pool. It can be read once."""

    def __init__(self, response: Response, httpx: Any) -> None:
        self._response = response
        self._httpx = httpx

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await self._response.more()
        except (ConnectionClosedError, HTTPParseError) as error:
            raise _to_httpx_error(error, self._httpx, "peer closed connection in the middle of the body") from error
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        await self._response.aclose()


class _BoundedBody:
    """A body with a limit on its size and optional decompression. It can be read once and is closed over the limit.

    Decompression yields to the event loop after every piece, because a small body may decompress to a very large one.
    """

    def __init__(self, source: _Source, httpx: Any, status: int, codec: Decompressor | None) -> None:
        self._source = source
        self._httpx = httpx
        self._status = status
        self._codec = codec
        self._left = max_body_bytes(status)
        self._pieces: Iterator[bytes] = iter(())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._next()
        except DecompressionError as error:
            await self.aclose()
            raise self._httpx.DecodingError(str(error)) from error
        except LimitExceededError as error:
            await self.aclose()
            raise self._httpx.RemoteProtocolError(str(error)) from error

    async def _next(self) -> bytes:
        if self._codec is None:
            return self._check_limit(await anext(self._source))
        while (piece := next(self._pieces, None)) is None:
            self._pieces = self._codec.feed(await anext(self._source))
        await asyncio.sleep(0)
        return self._check_limit(piece)

    def _check_limit(self, data: bytes) -> bytes:
        """Return the bytes after subtracting them from the limit. Raises LimitExceededError."""
        self._left -= len(data)
        if self._left < 0:
            kind = "response body" if 200 <= self._status < 300 else f"error body (status {self._status})"
            raise LimitExceededError(f"{kind}: larger than {size_text(max_body_bytes(self._status))}")
        return data

    async def aclose(self) -> None:
        await self._source.aclose()


def respond(httpx: Any, status: int, headers: list[tuple[str, str]], source: Any) -> Any:
    """Return the library's response object whose body is `source`, limited in size and decompressed if necessary.

    Raises the library's DecodingError when a successful response has an unsupported compression.
    """
    coding = ", ".join(value for name, value in headers if name.lower() == "content-encoding")
    succeeded = 200 <= status < 300
    try:
        codec = decompressor(coding, max_body_bytes(status))
    except DecompressionError as error:
        if succeeded:
            raise httpx.DecodingError(str(error)) from error
        codec = None  # the error status is worth more than the unreadable body
    if coding:
        gone = ("content-encoding", "content-length")
        headers = [(name, value) for name, value in headers if name.lower() not in gone]
    if codec is not None or not isinstance(source, _ResponseBodyStream) or not succeeded:
        source = _stream_type(_BoundedBody, httpx)(source, httpx, status, codec)
    return httpx.Response(status, headers=headers, stream=source, extensions={RAW_BODY_EXTENSION: source})


@cache
def _stream_type(base: type, httpx: Any) -> Any:
    """Return a subclass of `base` that is also the library's `AsyncByteStream`."""
    return type(base.__name__, (base, httpx.AsyncByteStream), {})


def raw_body(response: Any) -> AsyncGenerator[bytes, None]:
    """Return a response's body as it arrives, decompressed if the server compressed it despite `identity`."""
    return cast("AsyncGenerator[bytes, None]", response.extensions[RAW_BODY_EXTENSION])


async def _serialize_request(request: Any, httpx: Any) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [name + b": " + value for name, value in request.headers.raw]
    if _FORBIDDEN_BYTES.search(b"".join(lines)):
        raise httpx.LocalProtocolError("request header: contains a line break")
    body: bytes = await request.aread()
    return b"\r\n".join([*lines, b"", body])


def _to_httpx_error(error: Exception, httpx: Any, closed: str) -> Exception:
    fault: Exception
    if isinstance(error, HTTPParseError):
        fault = httpx.RemoteProtocolError(str(error))
    elif isinstance(error.__cause__, OSError):
        fault = httpx.ReadError(str(error))
    else:
        fault = httpx.RemoteProtocolError(closed)
    return fault
