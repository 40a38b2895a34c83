"""The contract that a provider's author implements. With `events`, all there is to read."""

from collections.abc import AsyncGenerator
from typing import Protocol

from streaming.events import Event
from streaming.messages import ChatRequest


class Adapter(Protocol):
    """Speaks to one provider.

    `stream` yields deltas as they arrive, `Usage` when the provider reports it, and one `Finish`, last. A
    `Notice("connected", …)` marks the provider's first sign of life. Failures are raised as
    `streaming.errors.StreamError`, never yielded; a stream that stops without a finish reason raises
    `TruncatedStreamError`. Closing the generator, or cancelling the task that reads it, ends the provider's work, and
    no connection outlives it. Nothing is retried here. With `request.streamed` false the same events come from a
    request for the whole answer at once: one `TextDelta` at most.
    """

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]: ...

    async def aclose(self) -> None:
        """Give back what the adapter holds between requests (connection pools); it is not used afterwards."""
