"""A proxy that publishes a service below a path, as nginx does with `location /chat/`, in a thread of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.from_thread import start_blocking_portal
from anyio.streams.buffered import BufferedByteStream

MAX_HEAD_BYTES = 65_536


@dataclass
class PathProxy:
    """Carries requests below `path` to a port of this machine; any other is answered with 404 and kept in `outside`.

    `strips`: it removes the path from the requests. `headers` are added to each request.
    """

    target_port: int
    path: str
    strips: bool = True
    headers: tuple[str, ...] = ()
    port: int = 0
    outside: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The public address of the service, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}{self.path}"

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        """Listen on a free port; at the end all connections are closed."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self.port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve)
            yield
            group.cancel_scope.cancel()

    async def _serve(self, browser: SocketStream) -> None:
        """Carry one connection, which ends with its first response or, as a WebSocket, with either side."""
        async with browser:
            with suppress(anyio.IncompleteRead, anyio.BrokenResourceError, OSError):
                received = BufferedByteStream(browser)
                head = (await received.receive_until(b"\r\n\r\n", MAX_HEAD_BYTES)).decode("latin-1")
                target = head.split(" ", 2)[1]
                if target.startswith(f"{self.path}/"):
                    await self._carry_both_ways(head, received)
                else:
                    self.outside.append(target)
                    await browser.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    async def _carry_both_ways(self, head: str, browser: BufferedByteStream) -> None:
        async with (
            await anyio.connect_tcp("127.0.0.1", self.target_port) as service,
            anyio.create_task_group() as group,
        ):
            await service.send(self._rewrite(head).encode("latin-1"))
            group.start_soon(_carry, browser, service)
            await _carry(service, browser)
            group.cancel_scope.cancel()

    def _rewrite(self, head: str) -> str:
        method, target, rest = head.split(" ", 2)
        version, *fields = rest.removesuffix("\r\n\r\n").split("\r\n")
        if "upgrade: websocket" not in head.lower():
            fields = [one for one in fields if not one.lower().startswith("connection:")] + ["connection: close"]
        passed_on = target.removeprefix(self.path) if self.strips else target
        return "\r\n".join([f"{method} {passed_on} {version}", *fields, *self.headers, "", ""])


async def _carry(source: ByteStream, target: ByteStream) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in source:
            await target.send(data)


@contextmanager
def run_path_proxy(
    target_port: int, path: str, *, strips: bool = True, headers: tuple[str, ...] = ()
) -> Iterator[PathProxy]:
    """Run the proxy on a free port, in a thread of its own."""
    proxy = PathProxy(target_port, path, strips, headers)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(proxy.listen()):
        yield proxy
