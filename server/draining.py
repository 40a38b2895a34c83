"""What uvicorn runs: its own protocols, which let answers end when the service is told to stop, and wait for no caller
that sends nothing.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.supervisors import Multiprocess

from streaming.priority import allow_connections

HEAD_S = 20.0
"""How long a request's head may take to arrive."""
LINGER_S = 5.0
"""How long the rest of a body is taken that was refused before it was there, so that the refusal can be read."""
KEEP_ALIVE_S = 75
"""How long a silent connection is kept between requests: longer than a proxy does, which would send into its close."""
_PIPELINED = 8
"""So many requests may wait on one connection while it is still read."""
_LARGE_FRAMES = 1024 * 1024
_READY_S = 120.0


class _Patient:
    """A connection as the request that is answered on it closes it: not while its body still comes, because what is
    closed unread is reset, and the client would lose the answer that it has not read yet.
    """

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self._transport = transport
        self._cycle = cycle

    def close(self) -> None:
        if not (self._cycle.more_body and self._cycle.response_complete):
            self._transport.close()


class _Http(HttpToolsProtocol):
    _late: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)
        if self._running is not None and self._running is not self.cycle:
            # uvicorn tells the request that came last; the one that is being answered has to know.
            self._running.disconnected = True
            self._running.message_event.set()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= _PIPELINED:
            self.flow.resume_reading()  # else nobody would notice that the client leaves

    def handle_websocket_upgrade(self) -> None:
        if self._running is not None and not self._running.response_complete:
            self.transport.abort()  # what is being answered would run into the frames, and not learn who leaves
            return
        super().handle_websocket_upgrade()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._running is not None and self._running.more_body:
            self.loop.call_later(LINGER_S, self._leave_the_rest, self._running)

    def shutdown(self) -> None:
        self.app_state["drain"]()
        super().shutdown()

    def _leave_the_rest(self, refused: RequestResponseCycle) -> None:
        if self.cycle is refused:
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.transport = _Patient(self.transport, cycle)  # type: ignore[assignment]  # what a cycle uses of one
        super()._start_asgi_task(cycle, app)

    def _expect_head(self) -> None:
        self._head_came()
        self._late = self.loop.call_later(HEAD_S, self.transport.abort)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _WebSocket(WebSocketsSansIOProtocol):
    def handle_connect(self, event: Any) -> None:
        served = self.app

        async def answered(*asgi: Any) -> None:
            await served(*asgi)
            # uvicorn takes a refusal that has a body for one that never came, and logs it as an error.
            self.handshake_complete = self.handshake_complete or self.initial_response is not None

        self.app = answered
        super().handle_connect(event)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # The library gives up on a head that is too large without a word, and would keep the connection for ever.
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.curr_msg_data_type = "bytes"  # the conversation refuses it in a frame of its own
        super().send_receive_event_to_app()

    def shutdown(self) -> None:
        self.app_state["drain"]()
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        # Else the conversation closes it, after the answer that is under way.


class Server(uvicorn.Server):
    """Says that it listens once it does."""

    def __init__(self, config: uvicorn.Config, address: str, say: Callable[[str], None] | None = None) -> None:
        super().__init__(config)
        self._address = address
        self._say = say

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with suppress(KeyboardInterrupt):  # uvicorn raises it again when all has ended
            super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self.force_exit:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off now is no defect

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            tell(self._address, self._say)


class Workers(Multiprocess):
    """Several processes on one socket; says that they listen once all do. A second signal ends them at once."""

    address = ""

    @property
    def failed(self) -> bool:
        """Whether one of them could not start, which ends all."""
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)

    def init_processes(self) -> None:
        super().init_processes()
        if all(process.wait_until_ready(_READY_S, self.should_exit) for process in self.processes):
            tell(self.address)

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()  # while this process has it open, callers would be taken and never answered
        self.signal_queue.clear()
        super().terminate_all()

    def join_all(self) -> None:
        for process in self.processes:
            while process.exitcode is None:
                process.process.join(0.1)
                if {signal.SIGINT, signal.SIGTERM}.intersection(self.signal_queue):
                    process.process.kill()


def tell(address: str, say: Callable[[str], None] | None = None) -> None:
    """Print where the service is, or `say` it: the port may have been the system's choice."""
    line = f"Streamgauge is at {address}"
    if say is not None:
        say(line)
    else:
        print(line, flush=True)  # noqa: T201 - what a person who starts it waits for


def take_descriptors() -> None:
    """Let this process and its workers have as many as the system allows: an answer takes two."""
    allow_connections(None)


def config(app: object, *, grace_s: float, workers: int = 1, body_bytes: int = 0) -> uvicorn.Config:
    """Give uvicorn's settings for `app`, or for a factory's name where there are workers.

    The address in X-Forwarded-For is the client's own word: uvicorn is not to believe it, the guard counts hops. A
    WebSocket's frames are limited here at least four times as wide as the guard has it (`body_bytes`), which says so in
    a frame of its own.
    """
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's own type for applications knows fewer than it serves
        http=_Http,
        ws=_WebSocket,
        ws_max_size=max(_LARGE_FRAMES, 4 * body_bytes),
        ws_per_message_deflate=False,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(grace_s) + 2,
        workers=workers,
        factory=workers > 1,
    )
