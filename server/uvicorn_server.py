"""What uvicorn runs: the server, its workers, and its settings with protocols of our own."""

import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from server.http_protocol import HttpProtocol
from server.request_bounds import ConnectionLimits
from server.websocket_protocol import WebSocketProtocol
from streaming.os_limits import raise_fd_limit

KEEP_ALIVE_TIMEOUT_S = 75
"""How long a silent connection is kept between requests: longer than a proxy does, which would send into its close."""
_READY_TIMEOUT_S = 120.0


class GracefulServer(uvicorn.Server):
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
            print_address(self._address, self._say)


class WorkerSupervisor(Multiprocess):
    """Several processes on one socket; says that they listen once all do. A second signal ends them at once."""

    address = ""

    @property
    def failed(self) -> bool:
        """Whether one of them could not start, which ends all."""
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)

    def init_processes(self) -> None:
        super().init_processes()
        if all(process.wait_until_ready(_READY_TIMEOUT_S, self.should_exit) for process in self.processes):
            print_address(self.address)

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


def print_address(address: str, say: Callable[[str], None] | None = None) -> None:
    """Print where the service is, or `say` it: the port may have been the system's choice."""
    line = f"Streamgauge is at {address}"
    if say is not None:
        say(line)
    else:
        print(line, flush=True)  # noqa: T201 - what a person who starts it waits for


def raise_worker_fd_limit() -> None:
    """Let this process and its workers have as many as the system allows: an answer takes two."""
    raise_fd_limit(None)


def uvicorn_config(
    app: object, *, grace_s: float, workers: int = 1, body_bytes: int = 0, limits: ConnectionLimits | None = None
) -> uvicorn.Config:
    """Return uvicorn's settings for `app`, or for a factory of it where there are workers.

    The address in X-Forwarded-For is the client's own word: uvicorn is not to believe it, the guard counts hops. Bodies
    and WebSocket messages are limited here at least four times as wide as the guard has it (`body_bytes`), which says
    so in its own words. Nothing is compressed: what a few bytes may become would need a bound of its own.
    """
    limits = limits or ConnectionLimits()
    limits = replace(limits, body_bytes=max(limits.body_bytes, 4 * body_bytes))
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's own type for applications knows fewer than it serves
        http=partial(HttpProtocol, limits=limits),  # type: ignore[arg-type]  # uvicorn only ever calls it
        ws=partial(WebSocketProtocol, limits=limits),  # type: ignore[arg-type]  # the same
        ws_max_size=max(limits.message_bytes, 4 * body_bytes),
        ws_per_message_deflate=False,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT_S,
        timeout_graceful_shutdown=int(grace_s) + 2,
        workers=workers,
        factory=workers > 1,
    )
