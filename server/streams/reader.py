"""The interface of every source of encoded answer events."""

from typing import Protocol

from server.streams.events import WireEvent, WireEventSink


class EventReader(Protocol):
    """A source of encoded events: a stream itself, a buffered stream, or a stream of another replica."""

    ended: bool

    async def next_batch(self, timeout_s: float | None = None, sink: WireEventSink | None = None) -> list[WireEvent]:
        """Wait for events and return those that are due; return an empty list after `timeout_s`.

        Events that arrive while this waits may go to the `sink`.
        """

    async def aclose(self) -> None: ...
