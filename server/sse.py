"""An answer as a Server-Sent Events response, and the watch that stops it when its reader has left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.frames import Frame, Framer
from streaming import sse
from streaming.clock import Clock
from streaming.events import Finish
from streaming.pipeline import Answer

KEEP_ALIVE_S = 15.0
HEADERS = {
    "cache-control": "no-cache",
    "content-type": "text/event-stream; charset=utf-8",
    "x-accel-buffering": "no",
}


class EventStream(Response):
    """Sends an answer as it comes: text as plain `data:` lines, the rest as named events, `[DONE]` after success.

    Every event has an id, `stream:number`. A reader that leaves ends the provider's work at once.
    """

    def __init__(self, answer: Answer, framer: Framer, clock: Clock) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._answer = answer
        self._framer = framer
        self._clock = clock
        self._seq = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._answer) as answer, closed_when_left(receive, answer):
            await self._send(send, self._encoded(self._framer.start()))
            while not answer.ended:
                await self._send(send, await self._next(answer))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, answer: Answer) -> bytes:
        events = await answer.ready(KEEP_ALIVE_S)
        if not events:
            return sse.comment("waiting")
        now = self._clock()
        frames = (frame for event in events for frame in self._framer.frames(event, now, answer.receipt))
        body = b"".join(map(self._encoded, frames))
        return body + self._event("[DONE]") if isinstance(events[-1], Finish) else body

    async def _send(self, send: Send, body: bytes) -> None:
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    def _encoded(self, frame: Frame) -> bytes:
        name, fields = frame
        return self._event(orjson.dumps(fields).decode(), None if name == "chunk" else name)

    def _event(self, data: str, name: str | None = None) -> bytes:
        self._seq += 1
        return sse.encode(data, event=name, id=f"{self._framer.stream_id}:{self._seq}")


@asynccontextmanager
async def closed_when_left(receive: Receive, answer: Answer) -> AsyncIterator[None]:
    """Close the answer as soon as the client has gone, whatever it is waiting for.

    Needed because a server notices a lost reader only when it sends, and before the first token nothing is sent.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await answer.aclose()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
