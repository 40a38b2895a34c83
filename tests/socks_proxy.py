"""A SOCKS5 proxy on a free port in the test's own loop."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def socks_proxy(port: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve SOCKS5 without a password; every connection leads to `port`. Yield the URL, and the hosts asked for."""
    hosts: list[str] = []
    serving: list[asyncio.Task[None] | None] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        *_, kind, length = await reader.readexactly(5)
        assert kind == 3, "the proxy looks up the name"
        hosts.append((await reader.readexactly(length)).decode())
        await reader.readexactly(2)
        upstream, back = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x05\x00\x00\x01" + bytes(4) + struct.pack(">H", port))
        await asyncio.gather(copy(reader, back), copy(upstream, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}", hosts
        await asyncio.gather(*(task for task in serving if task is not None))
