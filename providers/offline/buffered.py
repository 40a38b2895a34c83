"""Buffering of a streamed answer to its end, for adapters whose source can only stream."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from streaming.events import TERMINAL, Event, Usage
from streaming.strategies.basic import Whole


async def buffer_events(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Yield notices at once, and at the end all text as one delta, then the usage. After an error yield neither.

    The usage follows the text that it counts, because text after a usage would mean that the usage is incomplete.
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
