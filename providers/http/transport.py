"""What the SDKs' HTTP libraries send by: this project's own connections, behind the libraries' face for transports.

Reading by the libraries' own costs more for each chunk than all the rest of an answer's way.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import cache
from typing import Any, Protocol, cast

from providers.http.compression import decompressor
from streaming.decompression import DecompressionError, Decompressor
from streaming.http.connection import Origin
from streaming.http.connection_pool import ConnectError, ConnectionClosedError, ConnectionPool, Response
from streaming.http.response_parser import HTTPParseError
from streaming.limits import LimitExceededError, max_body_bytes, size_text

RAW_BODY_EXTENSION = "streamgauge.body"
"""Where a response has its body as it came."""
_FORBIDDEN_BYTES = re.compile(rb"[\r\n\0]")
"""The libraries take such a header, and leave it to who writes it to refuse it."""


class PooledTransport:
    """A transport of `httpx` (or of httpx2): its errors are that library's."""

    def __init__(self, httpx: Any, context: Any, connect_s: float) -> None:
        self._httpx = httpx
        self._context = context
        self._connect_s = connect_s
        self._pool = ConnectionPool()
        self._body = _stream_type(_ResponseBodyStream, httpx)

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request; give the response once its head has come."""
        httpx, url = self._httpx, request.url
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol(f"no address: {url}")
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
    """Puts the limits of `streaming.limits` on what a transport of `httpx` (or of httpx2) gives: through a proxy."""

    def __init__(self, httpx: Any, inner: Any) -> None:
        self._httpx = httpx
        self._inner = inner

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request; give the response once its head has come."""
        response = await self._inner.handle_async_request(request)
        return respond(self._httpx, response.status_code, response.headers.multi_items(), _Raw(response.stream))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> "BoundedTransport":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Source(Protocol):
    """A body as it came."""

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


class _Raw:
    """The body of a library's own transport."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._parts = cast("AsyncGenerator[bytes, None]", aiter(stream))

    async def __anext__(self) -> bytes:
        return await anext(self._parts)

    async def aclose(self) -> None:
        await self._parts.aclose()
        await self._stream.aclose()


class _ResponseBodyStream:
    """A response's body, read once."""

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
    """A body that is decompressed, or that may only have so many bytes, read once; over the limit it is left.

    It is decompressed a little at a time, and others have their turn between: a small body may stand for a huge one.
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
            return self._counted(await anext(self._source))
        while (piece := next(self._pieces, None)) is None:
            self._pieces = self._codec.feed(await anext(self._source))
        await asyncio.sleep(0)
        return self._counted(piece)

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            kind = "a body" if 200 <= self._status < 300 else f"an error body (status {self._status})"
            raise LimitExceededError(f"{kind} of more than {size_text(max_body_bytes(self._status))}")
        return data

    async def aclose(self) -> None:
        await self._source.aclose()


def respond(httpx: Any, status: int, headers: list[tuple[str, str]], source: Any) -> Any:
    """Give the library's response whose body is `source`, within its limits and decompressed where it is compressed.

    Raises DecodingError of the library for a success in a compression that is not read.
    """
    coding = ", ".join(value for name, value in headers if name.lower() == "content-encoding")
    succeeded = 200 <= status < 300
    try:
        codec = decompressor(coding, max_body_bytes(status))
    except DecompressionError as error:
        if succeeded:
            raise httpx.DecodingError(str(error)) from error
        codec = None  # the status says more than the body
    if coding:
        gone = ("content-encoding", "content-length")
        headers = [(name, value) for name, value in headers if name.lower() not in gone]
    if codec is not None or not isinstance(source, _ResponseBodyStream) or not succeeded:
        source = _stream_type(_BoundedBody, httpx)(source, httpx, status, codec)
    return httpx.Response(status, headers=headers, stream=source, extensions={RAW_BODY_EXTENSION: source})


@cache
def _stream_type(base: type, httpx: Any) -> Any:
    """Give `base` as the library's own kind of stream."""
    return type(base.__name__, (base, httpx.AsyncByteStream), {})


def raw_body(response: Any) -> AsyncGenerator[bytes, None]:
    """Give a response's bytes as they come, decompressed where the other side compressed them unasked."""
    return cast("AsyncGenerator[bytes, None]", response.extensions[RAW_BODY_EXTENSION])


async def _serialize_request(request: Any, httpx: Any) -> bytes:
    path = request.url.raw_path
    if any(_FORBIDDEN_BYTES.search(name + value) for name, value in request.headers.raw):
        raise httpx.LocalProtocolError("a header holds a line break")
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), path)]
    lines += [name + b": " + value for name, value in request.headers.raw]
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
