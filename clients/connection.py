"""A WebSocket's life: opened, kept open, and opened again after ever longer waits when it is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from clients.errors import ClientError, ConnectionLost, Refused, refused_by
from clients.progress import PASSING, Backoff
from streaming.limits import MAX_EVENT_BYTES

MAX_QUEUED_FRAMES = 8
"""More are not read until these are taken: each may have MAX_EVENT_BYTES."""
CONNECT_S = 10.0
CLOSE_S = 1.0
"""How long the service has to answer a close before the connection is dropped."""
_POLICY = (1007, 1008, 1009)
"""The codes with which the service closes after a refusal: coming back by oneself would not help."""

State = Literal["connecting", "open", "failed", "closing", "closed", "reconnecting"]
TRANSITIONS: dict[State, tuple[State, ...]] = {
    "closed": ("connecting", "reconnecting"),
    "connecting": ("open", "failed", "closed"),
    "open": ("closing", "closed"),
    "closing": ("closed",),
    "failed": ("connecting", "reconnecting"),
    "reconnecting": ("connecting", "closed"),
}
"""Begins as `closed`; `failed` could not be opened. What is not here cannot happen."""


class Socket(Protocol):
    """What is used of a WebSocket of `websockets`; `close_code` is None while it is open."""

    @property
    def close_code(self) -> int | None: ...

    @property
    def close_reason(self) -> str | None: ...

    async def send(self, message: str, /) -> None: ...

    async def recv(self) -> str | bytes: ...

    async def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


Dial = Callable[[], Awaitable[Socket]]
"""Opens one connection. Raises Refused, ConnectionLost."""


class Connection:
    """Keeps one socket open from the first `opened` on. `on_state` is told of every step of its life."""

    def __init__(self, dial: Dial, backoff: Backoff, reconnect: bool, on_state: Callable[[State], Any] | None) -> None:
        self.state: State = "closed"
        self.socket: Socket | None = None
        self._dial = dial
        self._backoff = backoff
        self._reconnect = reconnect
        self._on_state = on_state
        self._keeper: asyncio.Task[None] | None = None
        self._keeping = False
        self._left: Socket | None = None
        self._why: ClientError = ConnectionLost("the connection is closed")
        self._moved = asyncio.Event()

    async def opened(self, after: Socket | None = None) -> Socket:
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
                self._start()
            await self._moved.wait()

    async def leave(self, socket: Socket) -> None:
        """Close this socket, if it is still the one, and open no other until it is asked for."""
        if self.state == "open" and socket is self.socket and socket.close_code is None and self._keeper is not None:
            self._left = socket
            self._enter("closing")
            await socket.close()
            await asyncio.wait([self._keeper])

    async def close(self) -> None:
        """Close what is open, and stop opening."""
        if self.socket is not None:
            await self.leave(self.socket)
        if self._keeper is not None and not self._keeper.done():
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            if self.state in ("connecting", "open", "reconnecting"):
                self._enter("closed")

    def _start(self) -> None:
        self._backoff.reset()
        self._keeping = True
        self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        try:
            while (wait_s := await self._live()) is not None:
                self._enter("reconnecting")
                await asyncio.sleep(wait_s)
        finally:
            self._keeping = False
            self._wake()

    async def _live(self) -> float | None:
        """Open a socket and see it to its end; give the wait before the next, None for no other."""
        self._enter("connecting")
        try:
            self.socket = await self._dial()
        except ClientError as error:
            self._why = error
            self._enter("failed")
            return self._wait_s(error)
        self._enter("open")
        await self.socket.wait_closed()
        self._why = lost(self.socket)
        self._enter("closed")
        if self.socket is self._left or self.socket.close_code in _POLICY:
            return None
        return self._wait_s(self._why)

    def _wait_s(self, error: ClientError) -> float | None:
        passing = not isinstance(error, Refused) or error.status in PASSING
        if not self._reconnect or not passing:
            return None
        return self._backoff.next_s(error.retry_after_s if isinstance(error, Refused) else None)

    def _enter(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} → {state}"
        self.state = state
        self._wake()
        if self._on_state is not None:
            self._on_state(state)

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def lost(socket: Socket) -> ConnectionLost:
    """Give the error that says how a socket was closed."""
    reason = f": {socket.close_reason}" if socket.close_reason else ""
    return ConnectionLost(f"the connection was lost (code {socket.close_code}{reason})")


async def dial(address: str, headers: dict[str, str]) -> Socket:
    """Open a WebSocket. Raises Refused, ConnectionLost."""
    try:
        return await connect(
            address,
            additional_headers=headers,
            open_timeout=CONNECT_S,
            close_timeout=CLOSE_S,
            max_size=MAX_EVENT_BYTES,
            max_queue=MAX_QUEUED_FRAMES,
            compression=None,
        )
    except InvalidStatus as error:
        response = error.response
        raise refused_by(
            response.status_code, bytes(response.body or b""), response.headers.get("Retry-After")
        ) from None
    except (OSError, WebSocketException) as error:
        raise ConnectionLost(f"no connection to {address}: {error or type(error).__name__}") from None
