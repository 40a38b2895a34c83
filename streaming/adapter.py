"""The protocol that every provider adapter implements; together with `events` it is all an adapter's author needs."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from streaming.errors import StreamError
from streaming.events import Event, TimedEvent
from streaming.http.timed_exchange import Gate, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.messages import ChatRequest


@dataclass(frozen=True, slots=True)
class UpstreamPrice:
    """A price in a router's list of models: USD per million input and output tokens at one upstream provider.

    `is_known` is False for an upstream that may answer without a price in the list.
    """

    upstream: str
    input_usd: Decimal
    output_usd: Decimal
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model in a provider's list. `shutdown_date` is the text of the list, None when the list has no date.

    `prices` are those of the upstreams that serve the model now, where a router lists them.
    """

    name: str
    shutdown_date: str | None = None
    prices: tuple[UpstreamPrice, ...] = ()


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """One answer to a prepared request. `events` ends in one `Finish` or `Failed`, with CLOCK_MONOTONIC timestamps.

    `exchange` has the timestamps of the connection; `error` is the error of a failed answer.
    """

    exchange: TimedExchange
    events: list[TimedEvent]
    error: StreamError | None = None


class PreparedRequest(Protocol):
    """A request as bytes, which can be sent any number of times, also concurrently, over timestamped sockets."""

    async def send(self, sockets: TimestampingSelector, request_id: str, gate: Gate | None = None) -> TimedAnswer:
        """Send the request with this `X-Client-Request-Id` and return its answer, read and decoded to its end.

        The connection is opened at once, and the request is sent when `gate` returns.
        Failures of the answer are its last event and never raised. Cancelling closes the connection at once.
        """


@dataclass(frozen=True, slots=True)
class UnpreparableRequest:
    """What an adapter returns instead of a `PreparedRequest` when a request has no bytes that it could prepare.

    Its answers are then measured at `stream`, in this process. `reason` tells readers of a report why: a clause such as
    "the simulator runs in this process".
    """

    reason: str


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

    async def prepare_request(self, request: ChatRequest) -> PreparedRequest | UnpreparableRequest:
        """Return the request as the bytes that `stream` would send, without sending it, for a measurement.

        Raises StreamError or UsageError when `stream` could not send the request either.
        """

    async def list_models(self) -> list[ListedModel]:
        """Return the models in the provider's order; empty when it has no list. Raises StreamError."""

    async def aclose(self) -> None:
        """Release what the adapter holds between requests, such as connection pools. It cannot be used afterwards."""
