"""A WebSocket connection that is opened, kept open, and opened again with backoff when it is lost."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from clients.errors import ClientError, ConnectionLostError, RequestRejectedError, rejection_from_response
from clients.position import RETRYABLE_STATUSES, Backoff
from streaming.errors import UsageError
from streaming.http.proxies import system_proxy_for
from streaming.http.resolver import Resolver
from streaming.http.socks import SocksProxy, open_socks_tunnel_on
from streaming.limits import MAX_EVENT_BYTES

MAX_QUEUED_FRAMES = 8
"""The number of frames buffered before reading is paused; each may have MAX_EVENT_BYTES."""
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
"""How long to wait for the service's close frame before the connection is dropped."""
_FATAL_CLOSE_CODES = (1007, 1008, 1009)
"""The codes with which the service closes after a rejection, when reconnecting would not help."""

ConnectionState = Literal["connecting", "open", "failed", "closing", "closed", "reconnecting"]
TRANSITIONS: dict[ConnectionState, tuple[ConnectionState, ...]] = {
    "closed": ("connecting", "reconnecting"),
    "connecting": ("open", "failed", "closed"),
    "open": ("closing", "closed"),
    "closing": ("closed",),
    "failed": ("connecting", "reconnecting"),
    "reconnecting": ("connecting", "closed"),
}
"""The allowed state transitions. A connection begins as `closed`; `failed` means that it could not be opened."""


class WebSocketConnection(Protocol):
    """The part of a `websockets` connection that the clients use; `close_code` is None while it is open."""

    @property
    def close_code(self) -> int | None: ...

    @property
    def close_reason(self) -> str | None: ...

    @property
    def remote_address(self) -> Any: ...

    async def send(self, message: str, /) -> None: ...

    async def recv(self) -> str | bytes: ...

    async def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


ConnectFunction = Callable[[], Awaitable[WebSocketConnection]]
"""Opens one connection. Raises RequestRejectedError or ConnectionLostError."""


class ReconnectingConnection:
    """A connection that stays open from the first `get_socket` on. `on_state` is called at every change of state."""

    def __init__(
        self,
        connect: ConnectFunction,
        backoff: Backoff,
        reconnect: bool,
        on_state: Callable[[ConnectionState], Any] | None,
    ) -> None:
        self.state: ConnectionState = "closed"
        self.socket: WebSocketConnection | None = None
        self._connect = connect
        self._backoff = backoff
        self._reconnect = reconnect
        self._on_state = on_state
        self._task: asyncio.Task[None] | None = None
        self._is_running = False
        self._closed_by_client: WebSocketConnection | None = None
        self._last_error: ClientError = ConnectionLostError("connection: closed")
        self._state_changed = asyncio.Event()

    async def get_socket(self, after: WebSocketConnection | None = None) -> WebSocketConnection:
        """Wait for an open socket and return it; with `after`, the socket that was lost, wait for another one.

        Raises the last ClientError when the connection attempts are exhausted. A new call without `after` starts new
        attempts.
        """
        tried = after is not None or (self._is_running and self.state != "open")
        while True:
            socket = self.socket if self.state == "open" else None
            if socket is not None and socket is not after and socket.close_code is None:
                return socket
            if not self._is_running:
                if tried:
                    raise self._last_error
                tried = True
                self._start_task()
            await self._state_changed.wait()

    async def disconnect(self, socket: WebSocketConnection) -> None:
        """Close this socket if it is the current one; another is opened only by the next `get_socket`."""
        if self.state == "open" and socket is self.socket and socket.close_code is None and self._task is not None:
            self._closed_by_client = socket
            self._set_state("closing")
            await socket.close()
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Close the open socket, and stop all connection attempts."""
        if self.socket is not None:
            await self.disconnect(self.socket)
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
            if self.state in ("connecting", "open", "reconnecting"):
                self._set_state("closed")

    def _start_task(self) -> None:
        self._backoff.reset()
        self._is_running = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while (wait_s := await self._run_once()) is not None:
                self._set_state("reconnecting")
                await asyncio.sleep(wait_s)
        finally:
            self._is_running = False
            self._notify_waiters()

    async def _run_once(self) -> float | None:
        """Open a socket, wait until it is closed, and return the delay before the next attempt; None to stop."""
        self._set_state("connecting")
        try:
            self.socket = await self._connect()
        except ClientError as error:
            self._last_error = error
            self._set_state("failed")
            return self._reconnect_delay_s(error)
        self._set_state("open")
        await self.socket.wait_closed()
        self._last_error = connection_lost_error(self.socket)
        self._set_state("closed")
        if self.socket is self._closed_by_client or self.socket.close_code in _FATAL_CLOSE_CODES:
            return None
        return self._reconnect_delay_s(self._last_error)

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
        changed, self._state_changed = self._state_changed, asyncio.Event()
        changed.set()


def connection_lost_error(socket: WebSocketConnection) -> ConnectionLostError:
    """Return the error for a closed socket, with its close code and reason."""
    reason = f": {socket.close_reason}" if socket.close_reason else ""
    return ConnectionLostError(f"connection: lost (code {socket.close_code}{reason})")


async def connect_websocket(
    address: str, headers: dict[str, str], resolver: Resolver | None = None
) -> WebSocketConnection:
    """Open a WebSocket and return it. Raises RequestRejectedError or ConnectionLostError."""
    try:
        proxy = system_proxy_for(address)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            sock = await _connect_socket(address, proxy, resolver or Resolver(cached=False))
        return await connect(
            address,
            additional_headers=headers,
            open_timeout=CONNECT_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_EVENT_BYTES,
            max_queue=MAX_QUEUED_FRAMES,
            compression=None,
            proxy=proxy if sock is None else None,
            sock=sock,
        )
    except InvalidStatus as error:
        response = error.response
        raise rejection_from_response(
            response.status_code, bytes(response.body or b""), response.headers.get("Retry-After")
        ) from None
    except (OSError, WebSocketException, UsageError) as error:
        raise ConnectionLostError(f"{address}: no connection ({str(error) or type(error).__name__})") from None


async def _connect_socket(address: str, proxy: str | None, resolver: Resolver) -> socket.socket | None:
    """Return a socket connected to the host of a WebSocket address, through the proxy if it is a SOCKS proxy.

    The library itself would wait for a silent address, and needs another package for SOCKS. None for an HTTP proxy,
    to which the library connects.
    """
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)
    if proxy is None:
        return await resolver.connect(host, port)
    if (socks := SocksProxy.from_url(proxy)) is None:
        return None
    sock = await resolver.connect(socks.host, socks.port)
    try:
        await open_socks_tunnel_on(sock, socks, host, port)
    except BaseException:
        sock.close()
        raise
    return sock
