"""Answer events as Server-Sent Events, for a client that may disconnect at any time."""

from collections.abc import Awaitable, Iterable, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.disconnect import cancel_on_disconnect
from server.streams.active import ActiveAnswer
from server.streams.events import WireEvent
from server.streams.reader import EventReader
from streaming import sse
from streaming.events import TextDelta, ThinkingDelta

KEEP_ALIVE_INTERVAL_S = 15.0
HEADERS = {
    "cache-control": "no-cache",
    "content-type": "text/event-stream; charset=utf-8",
    "x-accel-buffering": "no",
}


class SSEResponse(Response):
    """A response that streams events: text as plain `data:` lines, other events by name, `[DONE]` after success.

    Every event has the id `stream:number`. When the client disconnects, the reader is closed at once.
    """

    def __init__(self, reader: EventReader, stream_id: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._reader = reader
        self._id = stream_id.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._reader) as reader:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sender = ResumableSender(send)

            def send_events(entries: list[WireEvent]) -> Awaitable[None]:
                return sender.send(map(self._encode_event, entries))

            async with cancel_on_disconnect(receive):
                while not reader.ended:
                    entries = await reader.next_batch(KEEP_ALIVE_INTERVAL_S, send_events)
                    await (send_events(entries) if entries else sender.send([KEEP_ALIVE_COMMENT]))
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _encode_event(self, entry: WireEvent) -> bytes:
        seq, name, data = entry
        if name == "chunk":
            return b"id: %b:%d\ndata: %b\n\n" % (self._id, seq, data)
        if name == "done":
            return b"id: %b:%d\ndata: [DONE]\n\n" % (self._id, seq)
        return b"id: %b:%d\nevent: %b\ndata: %b\n\n" % (self._id, seq, name.encode(), data)


KEEP_ALIVE_COMMENT = sse.comment("waiting")


class ResumableSender:
    """A sender of body parts that keeps the parts of a cancelled `send`, and sends them before the next ones."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._parts: list[bytes] = []

    async def send(self, parts: Iterable[bytes]) -> None:
        """Send all unsent parts and `parts`. Waits before sending while the client reads too slowly."""
        self._parts.extend(parts)
        count = len(self._parts)
        await self._send({"type": "http.response.body", "body": b"".join(self._parts), "more_body": True})
        del self._parts[:count]


async def collect_answer(stream: ActiveAnswer, receive: Receive) -> tuple[str, str]:
    """Read an answer to its end, and return its text and its thinking. Stops the answer when the client disconnects."""
    text: list[str] = []
    thinking: list[str] = []
    async with aclosing(stream), cancel_on_disconnect(receive):
        while not stream.ended:
            for event in await stream.next_events():
                if isinstance(event, TextDelta):
                    text.append(event.text)
                elif isinstance(event, ThinkingDelta):
                    thinking.append(event.text)
    return "".join(text), "".join(thinking)
