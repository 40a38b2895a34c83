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

from guard import Configuration, Guard
from providers import Providers
from providers.offer import Offer
from server import draining
from server.hosts import AllowedHosts
from server.request_bounds import ConnectionLimits
from server.service import create
from settings import Settings
from streaming import sse
from streaming.adapter import Adapter
from streaming.clock import Clock
from streaming.meter import Rates
from streaming.retry import NO_RECOVERY, Policy
from streaming.session import Route, Session


class Played(Providers):
    """Asks one given adapter, whatever the name."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(Settings())
        self._adapter = adapter

    def session(self, names: Sequence[str], *, clock: Clock, policy: Policy | None = None) -> Session:
        return Session([Route(names[0], self._adapter, "m")], clock, policy=NO_RECOVERY)

    def rates(self, name: str) -> Rates:
        return Rates()

    def warm(self) -> None:
        """Nothing to load."""


OPEN = {"RATE_LIMIT": "off"}
"""What lets all in."""


@asynccontextmanager
async def serving(
    providers: Providers,
    variables: Mapping[str, str] = OPEN,
    *,
    grace_s: float = 2,
    host: str = "127.0.0.1",
    limits: ConnectionLimits | None = None,
    hosts: AllowedHosts | None = None,
    add_routes: Callable[[FastAPI], None] = lambda app: None,
) -> AsyncIterator[int]:
    """Run the service over `providers`, set by `variables`; give its port. `host`: where it believes to listen."""
    settings = Settings(variables)
    guard = Guard(Configuration.from_variables(variables, settings.secrets()), redis_url=settings.redis_url)
    app = create(providers, guard, settings, offer=Offer.from_settings(settings, host), grace_s=grace_s, hosts=hosts)
    add_routes(app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(draining.config(app, grace_s=grace_s, limits=limits))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def until(true: Callable[[], bool], every_s: float = 0.005) -> None:
    """Wait for a condition of another party, looked at again and again. Raises TimeoutError after 10 s."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - the other party sets no event
            await asyncio.sleep(every_s)


@dataclass
class Reply:
    """What a server answered: the status, the headers and the body, unchunked."""

    status: int
    headers: dict[str, str]
    body: bytes
    arrived_s: list[float] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[sse.ServerSentEvent]:
        return sse.Decoder().feed(self.body)


async def post(
    port: int, body: bytes | dict[str, Any], path: str = "/api/chat", content_type: str = "application/json"
) -> Reply:
    """Post over a plain socket and read to the end, noting when each piece arrived."""
    reader, writer = await opened(port, body, path, content_type)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
    reply = Reply(int(head[0].split()[1]), headers, b"")
    clock = asyncio.get_running_loop().time
    while chunk := await _chunk(reader, headers):
        reply.body += chunk
        reply.arrived_s.append(clock())
    writer.close()
    await writer.wait_closed()
    return reply


async def opened(
    port: int, body: bytes | dict[str, Any], path: str = "/api/chat", content_type: str = "application/json"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request and give the open connection."""
    payload = json.dumps(body).encode() if isinstance(body, dict) else body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {len(payload)}\r\n"
    )
    writer.write(f"{head}connection: close\r\n\r\n".encode() + payload)
    await writer.drain()
    return reader, writer


async def _chunk(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read(65536)
    size = int((await reader.readline()).strip() or b"0", 16)
    data = await reader.readexactly(size)
    await reader.readline()
    return data
