"""Entries as Server-Sent Events, to a reader that may leave at any moment."""

from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.frames import Entry, EntryTaker
from streaming import sse

KEEP_ALIVE_S = 15.0
HEADERS = {
    "cache-control": "no-cache",
    "content-type": "text/event-stream; charset=utf-8",
    "x-accel-buffering": "no",
}


class Reading(Protocol):
    """Where entries come from: a stream itself, one that is kept, one of another replica."""

    ended: bool

    async def batch(self, timeout_s: float | None = None, taker: EntryTaker | None = None) -> list[Entry]:
        """Give what is due, waiting for it; empty after `timeout_s`. What comes meanwhile may go to the `taker`."""

    async def aclose(self) -> None: ...


class EventStream(Response):
    """Sends entries as they come: text as plain `data:` lines, the rest as named events, `[DONE]` after success.

    Every event has an id, `stream:number`. A reader that leaves closes the reading at once.
    """

    def __init__(self, reading: Reading, stream_id: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._reading = reading
        self._id = stream_id.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._reading) as reading:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            unsent = Unsent(send)

            def sent(entries: list[Entry]) -> Awaitable[None]:
                return unsent.send(map(self._encoded, entries))

            async with until_left(receive):
                while not reading.ended:
                    entries = await reading.batch(KEEP_ALIVE_S, sent)
                    await (sent(entries) if entries else unsent.send([WAITING]))
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _encoded(self, entry: Entry) -> bytes:
        seq, name, data = entry
        if name == "chunk":
            return b"id: %b:%d\ndata: %b\n\n" % (self._id, seq, data)
        if name == "done":
            return b"id: %b:%d\ndata: [DONE]\n\n" % (self._id, seq)
        return b"id: %b:%d\nevent: %b\ndata: %b\n\n" % (self._id, seq, name.encode(), data)


WAITING = sse.comment("waiting")


class Unsent:
    """Sends a body's parts, and keeps those that were not sent because who sent them was stopped: the next go after."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._parts: list[bytes] = []

    async def send(self, parts: Iterable[bytes]) -> None:
        """Send them; while the client is slow this waits before anything is sent."""
        self._parts.extend(parts)
        count = len(self._parts)
        await self._send({"type": "http.response.body", "body": b"".join(self._parts), "more_body": True})
        del self._parts[:count]


@asynccontextmanager
async def until_left(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is inside as soon as the client has gone, whatever it is waiting for.

    Needed because a server notices a lost reader only when it sends, and before the first token nothing is sent.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        yield
        group.cancel_scope.cancel()
