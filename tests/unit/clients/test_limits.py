"""The limits on how much of a response the clients read."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx2
import pytest
import websockets

from clients.errors import InvalidResponseError
from clients.sse import SSEClient
from clients.websocket import WebSocketClient
from streaming.limits import MAX_EVENT_BYTES

STREAM = {"content-type": "text/event-stream"}


class Pieces(httpx2.AsyncByteStream):
    """A body that repeats its pieces endlessly; `given` counts them."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        while self.given < 4000:
            self.given += 1
            yield b"A" * 65_536


def ask(status: int, headers: dict[str, str], body: Pieces) -> int:
    requests = 0

    async def main() -> None:
        def answer(_: httpx2.Request) -> httpx2.Response:
            nonlocal requests
            requests += 1
            return httpx2.Response(status, headers=headers, stream=body)

        client = SSEClient("http://service", transport=httpx2.MockTransport(answer))
        async with client, client.stream(message="Hi", resume=True) as stream:
            async for _ in stream:
                pass

    with pytest.raises(InvalidResponseError, match=r"(larger|longer|more) than"):
        asyncio.run(main())
    return requests


@pytest.mark.parametrize(
    ("status", "headers", "most"),
    [(200, STREAM, 66), (500, {"content-type": "text/html"}, 18), (401, {}, 18)],
    ids=["a line", "an error", "a rejection"],
)
def test_endless_body_raises_and_is_not_requested_again(status: int, headers: dict[str, str], most: int) -> None:
    body = Pieces(b"data: ")
    assert ask(status, headers, body) == 1
    assert body.given <= most


def test_decompression_bomb_raises() -> None:
    assert ask(200, {**STREAM, "content-encoding": "gzip"}, Pieces(gzip.compress(b"A" * 80_000_000))) == 1


def test_unrequested_compression_raises() -> None:
    async def main() -> None:
        def answer(_: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, headers={**STREAM, "content-encoding": "gzip, gzip"}, stream=Pieces())

        client = SSEClient("http://service", transport=httpx2.MockTransport(answer))
        async with client, client.stream(message="Hi"):
            pass

    with pytest.raises(InvalidResponseError, match="cannot be decompressed"):
        asyncio.run(main())


@pytest.mark.parametrize("fragments", [1, 40])
def test_frame_over_limit_raises_and_request_is_not_sent_again(fragments: int) -> None:
    requests: list[str | bytes] = []

    async def serve(socket: websockets.ServerConnection) -> None:
        async for message in socket:
            requests.append(message)
            part = "A" * (MAX_EVENT_BYTES // fragments + 1)
            await socket.send([part] * fragments if fragments > 1 else part)

    async def main() -> None:
        async with websockets.serve(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = WebSocketClient(f"http://127.0.0.1:{port}", reconnect_interval_s=0.01)
            async with client, client.stream(message="Hi", resume=True) as stream:
                async for _ in stream:
                    pass

    with pytest.raises(InvalidResponseError, match="larger than 4 MB"):
        asyncio.run(main())
    assert len(requests) == 1
