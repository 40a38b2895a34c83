"""A streamed answer held to its end, for adapters whose source knows streaming only."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from streaming.events import Event
from streaming.strategies.machines import Whole


async def whole(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Yield notices and usage as they come, and all text as one delta before the finish; an error leaves no text."""
    holder = Whole()
    async with aclosing(events):
        async for event in events:
            for out in holder.feed(event, 0.0):
                yield out
