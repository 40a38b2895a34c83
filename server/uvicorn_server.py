"""The uvicorn server, its worker supervisor, and its configuration with this service's protocols."""

import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from server.http_protocol import HttpProtocol
from server.request_bounds import ConnectionLimits
from server.websocket_protocol import WebSocketProtocol
from streaming.os_limits import raise_fd_limit

KEEP_ALIVE_TIMEOUT_S = 75
"""How long an idle connection is kept open between requests.

Longer than proxies keep one, so that a proxy does not send a request on a connection that is being closed here.
"""
_READY_TIMEOUT_S = 120.0
_HEALTH_TIMEOUT_S = 60
"""How long a worker may take to answer the supervisor before it is replaced and its answers are lost: on a busy machine
one takes many seconds.
"""
_log = logging.getLogger(__name__)


class GracefulServer(uvicorn.Server):
    """A server that announces its address once it listens."""

    def __init__(self, config: uvicorn.Config, address: str, announce: Callable[[str], None] | None = None) -> None:
        super().__init__(config)
        self._address = address
        self._announce = announce

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean shutdown
            super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self.force_exit:
            logging.getLogger("uvicorn.error").setLevel(
                logging.CRITICAL
            )  # answers cut off by a forced exit are not errors

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print_address(self._address, self._announce)


class WorkerSupervisor(Multiprocess):
    """A supervisor of several worker processes on one socket, which announces the address once all listen.

    A second signal kills the workers at once. One that does not end within `cleanup_timeout_s` after the grace time of
    its answers is aborted; this service's own ones then write the stacks of their threads to standard error.
    """

    address = ""
    cleanup_timeout_s = 15.0

    @property
    def failed(self) -> bool:
        """Whether a worker could not start, which ends all of them."""
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)

    def init_processes(self) -> None:
        super().init_processes()
        if all(process.wait_until_ready(_READY_TIMEOUT_S, self.should_exit) for process in self.processes):
            print_address(self.address)

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()  # an open listener here would accept connections that nobody serves
        self.signal_queue.clear()
        super().terminate_all()

    def join_all(self) -> None:
        until_s = monotonic() + (self.config.timeout_graceful_shutdown or 0) + self.cleanup_timeout_s
        for process in self.processes:
            while process.exitcode is None:
                process.process.join(0.1)
                if {signal.SIGINT, signal.SIGTERM}.intersection(self.signal_queue):
                    process.process.kill()
                elif monotonic() > until_s and process.pid is not None and process.exitcode is None:
                    _log.error("worker %s did not end in time, so it is aborted", process.pid)
                    os.kill(process.pid, signal.SIGABRT)
                    process.process.join()


def print_address(address: str, announce: Callable[[str], None] | None = None) -> None:
    """Print the address of the service, or pass it to `announce`: the port may have been chosen by the system."""
    line = f"Streamgauge listens at {address}"
    if announce is not None:
        announce(line)
    else:
        print(line, flush=True)  # noqa: T201 - the operator waits for this line


def raise_worker_fd_limit() -> None:
    """Raise the limit of open file descriptors to the system's maximum; each answer takes two."""
    raise_fd_limit(None)


def uvicorn_config(
    app: object, *, grace_s: float, workers: int = 1, body_bytes: int = 0, limits: ConnectionLimits | None = None
) -> uvicorn.Config:
    """Return uvicorn's configuration for `app`, which is a factory when there are several workers.

    uvicorn does not trust X-Forwarded-For, which a client can forge; the guard evaluates it by the number of trusted
    hops. Bodies and WebSocket messages may be at least four times as large here as in the guard (`body_bytes`), so that
    usually the guard rejects them, with its more specific message. WebSocket compression is off: it would need another
    limit, on the decompressed size.
    """
    limits = limits or ConnectionLimits()
    limits = replace(limits, body_bytes=max(limits.body_bytes, 4 * body_bytes))
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's type of applications is narrower than what it serves
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
        timeout_worker_healthcheck=_HEALTH_TIMEOUT_S,
        workers=workers,
        factory=workers > 1,
    )
