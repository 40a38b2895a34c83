"""Fake WebSockets scripted by a test, and the fake network that connects them."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from websockets.exceptions import ConnectionClosedError

from clients.errors import ClientError, ConnectionLostError
from clients.reconnecting import ConnectionState, WebSocketConnection
from clients.websocket import WebSocketClient


class FakeWebSocket:
    """A WebSocket that receives the messages pushed by the test; `drop` ends the connection."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self.remote_address: Any = None
        self._inbox: asyncio.Queue[str | None] = asyncio.Queue()
        self._closed = asyncio.Event()

    def push_messages(self, messages: Sequence[str]) -> None:
        for message in messages:
            self._inbox.put_nowait(message)

    def drop(self, code: int = 1006, reason: str = "") -> None:
        """Close the socket; messages pushed before can still be received, as from a real socket."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self._closed.set()
            self._inbox.put_nowait(None)

    async def send(self, message: str, /) -> None:
        if self.close_code is not None:
            raise ConnectionClosedError(None, None)
        self.sent.append(json.loads(message))

    async def recv(self) -> str:
        result = await self._inbox.get()
        if result is None:
            self._inbox.put_nowait(None)
            raise ConnectionClosedError(None, None)
        return result

    async def close(self) -> None:
        self.drop(1000)

    async def wait_closed(self) -> None:
        await self._closed.wait()


ConnectResult = FakeWebSocket | ClientError


class FakeNetwork:
    """A network in which each connection attempt returns, or raises, the next of `ready`; then it is unreachable."""

    def __init__(self, *ready: ConnectResult) -> None:
        self.ready = list(ready)
        self.at_s: list[float] = []
        self.states: list[ConnectionState] = []

    async def connect(self) -> WebSocketConnection:
        self.at_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0)
        result = self.ready.pop(0) if self.ready else ConnectionLostError("unreachable")
        if isinstance(result, ClientError):
            raise result
        return result

    def make_client(self, **options: Any) -> WebSocketClient:
        return WebSocketClient("http://service", dialling=self.connect, on_state=self.states.append, **options)
