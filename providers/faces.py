"""What the SDKs' HTTP libraries send by: this project's own connections, behind the libraries' face for transports.

Reading by the libraries' own costs more for each chunk than all the rest of an answer's way.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

from streaming.connecting import Target
from streaming.http1 import Http1Error
from streaming.pool import Ended, NoConnection, Pool, Response

BODY = "streamgauge.body"
"""Where a response has its body as it came."""
_FORBIDDEN = re.compile(rb"[\r\n\0]")
"""The libraries take such a header, and leave it to who writes it to refuse it."""


class Face:
    """A transport of `httpx` (or of httpx2): its errors are that library's."""

    def __init__(self, httpx: Any, context: Any, connect_s: float) -> None:
        self._httpx = httpx
        self._context = context
        self._connect_s = connect_s
        self._pool = Pool()
        self._body = type("Body", (_Body, httpx.AsyncByteStream), {})

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request; give the response once its head has come."""
        httpx, url = self._httpx, request.url
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol(f"no address: {url}")
        secure = url.scheme == "https"
        target = Target(url.host, url.port or (443 if secure else 80), self._context if secure else None)
        try:
            response = await self._pool.ask(target, await _written(request, httpx), self._connect_s)
        except NoConnection as error:
            raise httpx.ConnectError(str(error)) from error.__cause__
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except (Ended, Http1Error) as error:
            raise _fault(error, httpx, "Server disconnected without sending a response.") from error
        head = response.head
        body = self._body(response, httpx)
        return httpx.Response(head.status, headers=head.headers, stream=body, extensions={BODY: body})

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def __aenter__(self) -> "Face":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Body:
    """A response's body, read once."""

    def __init__(self, response: Response, httpx: Any) -> None:
        self._response = response
        self._httpx = httpx

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await self._response.more()
        except (Ended, Http1Error) as error:
            raise _fault(error, self._httpx, "peer closed connection in the middle of the body") from error
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        await self._response.aclose()


def body_of(response: Any) -> AsyncGenerator[bytes, None]:
    """Give a response's bytes as they come, decompressed where the other side compressed them unasked."""
    body = response.extensions.get(BODY)
    if body is None or response.headers.get("content-encoding", "identity").lower() != "identity":
        body = response.aiter_bytes()
    return cast("AsyncGenerator[bytes, None]", body)


async def _written(request: Any, httpx: Any) -> bytes:
    path = request.url.raw_path
    if any(_FORBIDDEN.search(name + value) for name, value in request.headers.raw):
        raise httpx.LocalProtocolError("a header holds a line break")
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), path)]
    lines += [name + b": " + value for name, value in request.headers.raw]
    body: bytes = await request.aread()
    return b"\r\n".join([*lines, b"", body])


def _fault(error: Exception, httpx: Any, closed: str) -> Exception:
    fault: Exception
    if isinstance(error, Http1Error):
        fault = httpx.RemoteProtocolError(str(error))
    elif isinstance(error.__cause__, OSError):
        fault = httpx.ReadError(str(error))
    else:
        fault = httpx.RemoteProtocolError(closed)
    return fault
