"""A streamed answer held to its end, for adapters whose source knows streaming only."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from streaming.events import TERMINAL, Event, Usage
from streaming.strategies.basic import Whole


async def buffer_events(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Yield notices as they come, and at the end all text as one delta, then the usage; an error leaves neither.

    The usage stays behind the text that it is about: text after it would say that it was not yet the whole.
    """
    holder = Whole()
    usages: list[Event] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Usage):
                usages.append(event)
            elif isinstance(event, TERMINAL):
                *text, end = holder.feed(event, 0.0)
                for out in (*text, *usages, end):
                    yield out
            else:
                for out in holder.feed(event, 0.0):
                    yield out
