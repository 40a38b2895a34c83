"""What uvicorn runs: its own protocols, which let answers end when the service is told to stop."""

import socket

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.supervisors import Multiprocess


class _Http(HttpToolsProtocol):
    def shutdown(self) -> None:
        self.app_state["drain"]()
        super().shutdown()


class _WebSocket(WebSocketsSansIOProtocol):
    def shutdown(self) -> None:
        self.app_state["drain"]()
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        # Else the conversation closes it, after the answer that is under way.


class Server(uvicorn.Server):
    """Says that it listens once it does."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            tell(self._address)


class Workers(Multiprocess):
    """Several processes on one socket; says that they listen once all do."""

    address = ""

    def init_processes(self) -> None:
        super().init_processes()
        if all(process.wait_until_ready(_READY_S, self.should_exit) for process in self.processes):
            tell(self.address)


_READY_S = 120.0


def tell(address: str) -> None:
    """Print where the service is: the port may have been the system's choice."""
    print(f"Streamgauge is at {address}", flush=True)  # noqa: T201 - what a person who starts it waits for


def config(app: object, *, grace_s: float, workers: int = 1) -> uvicorn.Config:
    """Give uvicorn's settings for `app`, or for a factory's name where there are workers.

    The address in X-Forwarded-For is the client's own word: uvicorn is not to believe it, the guard counts hops. A
    WebSocket's frames are limited here four times as wide as the guard has it, which says so in a frame of its own.
    """
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's own type for applications knows fewer than it serves
        http=_Http,
        ws=_WebSocket,
        ws_max_size=1024 * 1024,
        ws_per_message_deflate=False,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(grace_s) + 2,
        workers=workers,
        factory=workers > 1,
    )
