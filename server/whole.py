"""An answer as one JSON object, for whoever does not want a stream."""

from contextlib import aclosing

from starlette.types import Receive

from server.sse import until_left
from server.streams import Stream
from streaming.events import TextDelta, ThinkingDelta


async def collected(stream: Stream, receive: Receive) -> tuple[str, str]:
    """Read it to its end and give its text and its thinking; it is stopped when the client leaves."""
    text: list[str] = []
    thinking: list[str] = []
    async with aclosing(stream), until_left(receive):
        while not stream.ended:
            for event in await stream.events():
                if isinstance(event, TextDelta):
                    text.append(event.text)
                elif isinstance(event, ThinkingDelta):
                    thinking.append(event.text)
    return "".join(text), "".join(thinking)
