"""A proxy to the service that cuts each connection after a number of bytes from the service."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from urllib.parse import urlsplit

_RESET = struct.pack("ii", 1, 0)


class CuttingProxy:
    """Leads the n-th connection to the n-th of `targets`, round and round, and cuts it after `cuts[n]` bytes.

    Cuts are a close and a reset in turn. What comes after the last cut is let through.
    """

    def __init__(self, targets: Sequence[str], cuts: Sequence[int]) -> None:
        self.url = ""
        self.cut = 0
        self._targets = cycle(targets)
        self._cuts: Iterator[int] = iter(cuts)
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        parts = urlsplit(next(self._targets))
        left = next(self._cuts, None)
        from_service, to_service = await asyncio.open_connection(parts.hostname, parts.port)
        ends = {writer, to_service}
        self._open |= ends
        up = asyncio.create_task(_forward_request(reader, to_service))
        await self._forward_response(from_service, writer, left)
        for end in ends:
            end.close()
        await up
        self._open -= ends

    async def aclose(self) -> None:
        """Close all connections."""
        for end in self._open:
            end.transport.abort()
        await asyncio.gather(*self._serving)

    async def _forward_response(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if left is not None and len(data) >= left:
                    writer.write(data[:left])
                    await writer.drain()
                    self._cut_connection(writer)
                    return
                left = None if left is None else left - len(data)
                writer.write(data)
                await writer.drain()

    def _cut_connection(self, writer: asyncio.StreamWriter) -> None:
        self.cut += 1
        if self.cut % 2:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


async def _forward_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward the client's bytes, and its disconnect."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def run_cutting_proxy(targets: Sequence[str], cuts: Sequence[int]) -> AsyncIterator[CuttingProxy]:
    """Run a cutting proxy on a free port."""
    proxy = CuttingProxy(targets, cuts)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
        server.close()
        await proxy.aclose()
