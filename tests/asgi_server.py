"""The service on a free port in the test's own loop, over an adapter that the test plays."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI

from guard import Guard, GuardConfig
from providers import ProviderRegistry
from server import uvicorn_server
from server.app import create_app
from server.hosts import AllowedHosts
from server.limits import DEFAULT_SERVICE_LIMITS, ServiceLimits
from server.offer import Offer
from server.request_bounds import ConnectionLimits
from settings import Settings
from streaming import sse
from streaming.adapter import Adapter
from streaming.clock import Clock
from streaming.meter import CostModel
from streaming.retry import NO_RETRY, RetryPolicy
from streaming.session import Route, Session


class SingleAdapterProviders(ProviderRegistry):
    """Providers that use one adapter for every name."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(Settings())
        self._adapter = adapter

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        return Session([Route(names[0], self._adapter, "m")], clock, policy=NO_RETRY)

    def cost_model(self, name: str) -> CostModel:
        return CostModel()

    def preload_local_model(self) -> None:
        """Nothing to load."""


UNLIMITED_VARIABLES = {"RATE_LIMIT": "off"}
"""Variables that lift the rate limit and the budgets."""


@asynccontextmanager
async def serve_providers(
    providers: ProviderRegistry,
    variables: Mapping[str, str] = UNLIMITED_VARIABLES,
    *,
    grace_s: float = 2,
    host: str = "127.0.0.1",
    limits: ConnectionLimits | None = None,
    hosts: AllowedHosts | None = None,
    service_limits: ServiceLimits = DEFAULT_SERVICE_LIMITS,
    add_routes: Callable[[FastAPI], None] = lambda app: None,
) -> AsyncIterator[int]:
    """Run the service over `providers`, configured by `variables`, and yield its port. `host`: its address."""
    settings = Settings(variables)
    configuration = GuardConfig.from_env(variables, settings.secrets())
    guard = Guard(configuration, redis_url=settings.redis_url, redis_timeout_s=settings.redis_timeout_s)
    app = create_app(
        providers,
        guard,
        settings,
        offer=Offer.from_settings(settings, host),
        grace_s=grace_s,
        hosts=hosts,
        limits=service_limits,
    )
    add_routes(app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn_server.uvicorn_config(app, grace_s=grace_s, limits=limits))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await wait_until(lambda: server.started)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def wait_until(true: Callable[[], bool], every_s: float = 0.005) -> None:
    """Wait for a condition of another party, looked at again and again. Raises TimeoutError after a minute."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - the other party sets no event
            await asyncio.sleep(every_s)


@dataclass
class HttpReply:
    """A server's response: status, headers, and body without chunk framing."""

    status: int
    headers: dict[str, str]
    body: bytes
    arrived_s: list[float] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.body)

    def sse_events(self) -> list[sse.ServerSentEvent]:
        return sse.Decoder().feed(self.body)


async def post_and_read(
    port: int, body: bytes | dict[str, Any], path: str = "/api/chat", content_type: str = "application/json"
) -> HttpReply:
    """Post over a plain socket and read to the end, noting when each piece arrived."""
    reader, writer = await open_request(port, body, path, content_type)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
    reply = HttpReply(int(head[0].split()[1]), headers, b"")
    clock = asyncio.get_running_loop().time
    while chunk := await _read_chunk(reader, headers):
        reply.body += chunk
        reply.arrived_s.append(clock())
    writer.close()
    await writer.wait_closed()
    return reply


async def open_request(
    port: int, body: bytes | dict[str, Any], path: str = "/api/chat", content_type: str = "application/json"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request and return the open connection."""
    payload = json.dumps(body).encode() if isinstance(body, dict) else body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {len(payload)}\r\n"
    )
    writer.write(f"{head}connection: close\r\n\r\n".encode() + payload)
    await writer.drain()
    return reader, writer


async def _read_chunk(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read(65536)
    size = int((await reader.readline()).strip() or b"0", 16)
    data = await reader.readexactly(size)
    await reader.readline()
    return data
