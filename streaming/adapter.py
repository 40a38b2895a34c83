"""The protocol that every provider adapter implements; together with `events` it is all an adapter's author needs."""

from collections.abc import AsyncGenerator
from typing import Protocol

from streaming.events import Event
from streaming.messages import ChatRequest


class Adapter(Protocol):
    """A client for one provider.

    `stream` yields deltas as they arrive, `Usage` when the provider reports it, and one `Finish` as the last event. A
    `Notice("connected", …)` marks the first response from the provider. Failures are raised as
    `streaming.errors.StreamError` and never yielded; a stream that stops without a finish reason raises
    `TruncatedStreamError`. Closing the generator, or cancelling the task that reads it, ends the provider's work and
    leaves no connection open. An adapter does not retry. When `request.streamed` is false, the adapter requests the
    complete answer in one response and yields the same events with at most one `TextDelta`.
    """

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Send the request and yield the events of the answer. Raises StreamError."""

    async def aclose(self) -> None:
        """Release what the adapter holds between requests, such as connection pools. It cannot be used afterwards."""
