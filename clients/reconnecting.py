"""A WebSocket's life: opened, kept open, and opened again after ever longer waits when it is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from clients.errors import ClientError, ConnectionLostError, RequestRejectedError, rejection_from_response
from clients.position import RETRYABLE_STATUSES, Backoff
from streaming.limits import MAX_EVENT_BYTES

MAX_QUEUED_FRAMES = 8
"""More are not read until these are taken: each may have MAX_EVENT_BYTES."""
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
"""How long the service has to answer a close before the connection is dropped."""
_FATAL_CLOSE_CODES = (1007, 1008, 1009)
"""The codes with which the service closes after a refusal: coming back by oneself would not help."""

ConnectionState = Literal["connecting", "open", "failed", "closing", "closed", "reconnecting"]
TRANSITIONS: dict[ConnectionState, tuple[ConnectionState, ...]] = {
    "closed": ("connecting", "reconnecting"),
    "connecting": ("open", "failed", "closed"),
    "open": ("closing", "closed"),
    "closing": ("closed",),
    "failed": ("connecting", "reconnecting"),
    "reconnecting": ("connecting", "closed"),
}
"""Begins as `closed`; `failed` could not be opened. What is not here cannot happen."""


class WebSocketProtocol(Protocol):
    """What is used of a WebSocket of `websockets`; `close_code` is None while it is open."""

    @property
    def close_code(self) -> int | None: ...

    @property
    def close_reason(self) -> str | None: ...

    async def send(self, message: str, /) -> None: ...

    async def recv(self) -> str | bytes: ...

    async def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


ConnectFunction = Callable[[], Awaitable[WebSocketProtocol]]
"""Opens one connection. Raises Refused, ConnectionLost."""


class ReconnectingConnection:
    """Keeps one socket open from the first `get_socket` on. `on_state` is told of every step of its life."""

    def __init__(
        self,
        dial: ConnectFunction,
        backoff: Backoff,
        reconnect: bool,
        on_state: Callable[[ConnectionState], Any] | None,
    ) -> None:
        self.state: ConnectionState = "closed"
        self.socket: WebSocketProtocol | None = None
        self._dial = dial
        self._backoff = backoff
        self._reconnect = reconnect
        self._on_state = on_state
        self._keeper: asyncio.Task[None] | None = None
        self._keeping = False
        self._left: WebSocketProtocol | None = None
        self._why: ClientError = ConnectionLostError("the connection is closed")
        self._moved = asyncio.Event()

    async def get_socket(self, after: WebSocketProtocol | None = None) -> WebSocketProtocol:
        """Give the open socket, waiting for it; another than `after`, which was lost.

        Raises what it was given up for. When it was given up before and nothing was lost, it is tried anew.
        """
        tried = after is not None or (self._keeping and self.state != "open")
        while True:
            socket = self.socket if self.state == "open" else None
            if socket is not None and socket is not after and socket.close_code is None:
                return socket
            if not self._keeping:
                if tried:
                    raise self._why
                tried = True
                self._start_keeper()
            await self._moved.wait()

    async def disconnect(self, socket: WebSocketProtocol) -> None:
        """Close this socket, if it is still the one, and open no other until it is asked for."""
        if self.state == "open" and socket is self.socket and socket.close_code is None and self._keeper is not None:
            self._left = socket
            self._set_state("closing")
            await socket.close()
            await asyncio.wait([self._keeper])

    async def close(self) -> None:
        """Close what is open, and stop opening."""
        if self.socket is not None:
            await self.disconnect(self.socket)
        if self._keeper is not None and not self._keeper.done():
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            if self.state in ("connecting", "open", "reconnecting"):
                self._set_state("closed")

    def _start_keeper(self) -> None:
        self._backoff.reset()
        self._keeping = True
        self._keeper = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while (wait_s := await self._run_once()) is not None:
                self._set_state("reconnecting")
                await asyncio.sleep(wait_s)
        finally:
            self._keeping = False
            self._notify_waiters()

    async def _run_once(self) -> float | None:
        """Open a socket and see it to its end; give the wait before the next, None for no other."""
        self._set_state("connecting")
        try:
            self.socket = await self._dial()
        except ClientError as error:
            self._why = error
            self._set_state("failed")
            return self._reconnect_delay_s(error)
        self._set_state("open")
        await self.socket.wait_closed()
        self._why = connection_lost_error(self.socket)
        self._set_state("closed")
        if self.socket is self._left or self.socket.close_code in _FATAL_CLOSE_CODES:
            return None
        return self._reconnect_delay_s(self._why)

    def _reconnect_delay_s(self, error: ClientError) -> float | None:
        passing = not isinstance(error, RequestRejectedError) or error.status in RETRYABLE_STATUSES
        if not self._reconnect or not passing:
            return None
        return self._backoff.next_delay_s(error.retry_after_s if isinstance(error, RequestRejectedError) else None)

    def _set_state(self, state: ConnectionState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} → {state}"
        self.state = state
        self._notify_waiters()
        if self._on_state is not None:
            self._on_state(state)

    def _notify_waiters(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def connection_lost_error(socket: WebSocketProtocol) -> ConnectionLostError:
    """Give the error that says how a socket was closed."""
    reason = f": {socket.close_reason}" if socket.close_reason else ""
    return ConnectionLostError(f"the connection was lost (code {socket.close_code}{reason})")


async def connect_websocket(address: str, headers: dict[str, str]) -> WebSocketProtocol:
    """Open a WebSocket. Raises Refused, ConnectionLost."""
    try:
        return await connect(
            address,
            additional_headers=headers,
            open_timeout=CONNECT_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_EVENT_BYTES,
            max_queue=MAX_QUEUED_FRAMES,
            compression=None,
        )
    except InvalidStatus as error:
        response = error.response
        raise rejection_from_response(
            response.status_code, bytes(response.body or b""), response.headers.get("Retry-After")
        ) from None
    except (OSError, WebSocketException) as error:
        raise ConnectionLostError(f"no connection to {address}: {error or type(error).__name__}") from None
