"""The interface of everything that answer events are read from."""

from typing import Protocol

from server.streams.events import WireEvent, WireEventSink


class EventReader(Protocol):
    """Where entries come from: a stream itself, one that is kept, one of another replica."""

    ended: bool

    async def next_batch(self, timeout_s: float | None = None, sink: WireEventSink | None = None) -> list[WireEvent]:
        """Give what is due, waiting for it; empty after `timeout_s`. What comes meanwhile may go to the `sink`."""

    async def aclose(self) -> None: ...
