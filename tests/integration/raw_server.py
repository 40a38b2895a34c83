"""A raw HTTP/1.1 server with scripted bytes and pauses, which records when its clients disconnect."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

WAIT_TIMEOUT_S = 60.0
"""The timeout for events that should occur at once."""


@dataclass
class RawConnection:
    """One request on its connection, and the means to answer it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    path: str
    headers: dict[str, str]
    body: bytes
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def start(self, content_type: str, status: str = "200 OK", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-type: {content_type}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Send one chunk, which a client may read alone."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    def send_response(self, content_type: str, body: bytes, status: str = "200 OK", **headers: str) -> None:
        self.start(content_type, status, **headers)
        if body:
            self.send(body)
        self.end()

    def cut(self) -> None:
        """Close in the middle of the body."""
        self.writer.close()

    def reset(self) -> None:
        """Throw the connection away (RST)."""
        result = self.writer.get_extra_info("socket")
        result.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def wait_client_left(self) -> None:
        """Wait until the client has closed the connection."""
        await asyncio.wait_for(self.closed.wait(), WAIT_TIMEOUT_S)


Script = Callable[[RawConnection], Awaitable[None]]


class RawServer:
    """A server that responds to every request by the script; it records connections and requests."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.port = 0
        self.opened = 0
        self.open = 0
        self.requests: list[RawConnection] = []
        self.idle = asyncio.Event()
        self._asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def next_request(self) -> RawConnection:
        """Wait for the next request and return it."""
        await asyncio.wait_for(self._asked.wait(), WAIT_TIMEOUT_S)
        self._asked.clear()
        return self.requests[-1]

    async def wait_idle(self) -> None:
        """Wait until no connection is open."""
        await asyncio.wait_for(self.idle.wait(), WAIT_TIMEOUT_S)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        self.idle.clear()
        try:
            while (connection := await _read_request(reader, writer)) is not None:
                self.requests.append(connection)
                self._asked.set()
                watch = asyncio.create_task(_watch_client(connection))
                self._tasks.add(watch)
                try:
                    await self.script(connection)
                    await writer.drain()
                finally:
                    watch.cancel()
                    await asyncio.wait([watch])
                    self._tasks.discard(watch)
                if writer.is_closing() or connection.closed.is_set():
                    return
        except ConnectionError:
            return
        finally:
            writer.close()
            self.open -= 1
            if self.open == 0:
                self.idle.set()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> RawConnection | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return RawConnection(reader, writer, first.split(" ")[1], headers, body)


async def _watch_client(connection: RawConnection) -> None:
    """Record the client's disconnect: it sends nothing else before its request has a response."""
    with suppress(ConnectionError):
        await connection.reader.read(1)
    connection.closed.set()


@asynccontextmanager
async def run_raw_server(script: Script) -> AsyncIterator[RawServer]:
    """Serve on a free port, and close all connections at the end."""
    raw = RawServer(script)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, backlog=512)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        for connection in raw.requests:
            connection.writer.transport.abort()
        await server.wait_closed()
        if raw.opened:
            await raw.wait_idle()
