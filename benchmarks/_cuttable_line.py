"""A line from a browser to a service that can be cut, and led to another service: a TCP relay in a thread."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class CuttableLine:
    """A TCP relay on a free port to `target`, the address of a service. Other threads call `cut` and `mend`."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._up = True
        self._open: set[asyncio.StreamWriter] = set()

    async def run(self, on_start: Callable[[], None]) -> None:
        """Relay connections until `stop` is called."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._relay, sock=self._socket)
        on_start()
        await self._stopped.wait()
        server.close()
        await self._cut()

    def stop(self) -> None:
        """Reset all connections, and end `run`."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    def cut(self) -> None:
        """Reset all connections, and each new one until `mend` is called."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    def mend(self) -> None:
        """Relay new connections again."""
        self._up = True

    async def _cut(self) -> None:
        self._up = False
        for writer in self._open:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.target)
        with suppress(OSError):
            if self._up:
                there, back = await asyncio.open_connection(parts.hostname, parts.port)
                ends = {writer, back}
                self._open |= ends
                await asyncio.gather(_copy(reader, back), _copy(there, writer))
                self._open -= ends
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def run_line(target: str) -> Iterator[CuttableLine]:
    """Run a line to a service, and close it."""
    line = CuttableLine(target)
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(line.run(started.set)), daemon=True)
    thread.start()
    started.wait()
    yield line
    line.stop()
    thread.join()
