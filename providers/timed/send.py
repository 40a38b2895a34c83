"""Asks over stamped sockets: keeps the answer's bytes with their stamps, and decodes them to events at those moments.

prepared = await adapter.prepare(request)               once for each prompt and its parameters
asked = await ask(sockets, prepared, "trial-1")         any number at once
asked.events, asked.exchange
"""

from dataclasses import dataclass

from providers.http.client import END_OF_STREAM_GRACE_S
from providers.timed.decode import ExchangeDecoder
from providers.timed.prepared_request import PreparedRequest
from streaming.clock import monotonic
from streaming.errors import StreamError
from streaming.events import TimedEvent
from streaming.http.timed_exchange import ExchangeTimeouts, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector

_POLL_INTERVAL_S = 1.0
"""How often an answer that goes on is looked into: so long, and GRACE_S, may a connection outlive its answer."""

_MAX_READS_PER_TURN = 32
"""Decoding them takes less than half a millisecond; then others are read."""


@dataclass(frozen=True, slots=True)
class TimedResponse:
    """An answer: `events` end in one `Finish` or `Failed`; all moments are seconds on CLOCK_MONOTONIC.

    `error` is what broke it.
    """

    exchange: TimedExchange
    events: list[TimedEvent]
    error: StreamError | None = None


async def send_timed(sockets: TimestampingSelector, prepared: PreparedRequest, request_id: str) -> TimedResponse:
    """Ask once, and read and decode the answer to its end, whatever it is. Cancelling closes the connection at once.

    Decoding is done once a second and at the end, a little in each pass of the loop: reading goes before it.
    """
    timeouts = prepared.service.timeouts
    limits = ExchangeTimeouts(connect_s=timeouts.connect_s, total_s=timeouts.total_s)
    async with TimedExchange(sockets, prepared.target, prepared.with_request_id(request_id), limits) as exchange:
        decoding = ExchangeDecoder(exchange, prepared)
        while not await exchange.wait_closed(monotonic() + _POLL_INTERVAL_S):
            if await _is_settled(sockets, decoding):
                break
    await _decode_pending(sockets, decoding)
    decoding.finish()
    return TimedResponse(exchange, decoding.events, decoding.error)


def decode_exchange(exchange: TimedExchange, prepared: PreparedRequest) -> list[TimedEvent]:
    """Decode an exchange that has ended; with no terminal event when it was left before its answer had ended."""
    decoding = ExchangeDecoder(exchange, prepared)
    decoding.finish()
    return decoding.events


async def _is_settled(sockets: TimestampingSelector, decoding: ExchangeDecoder) -> bool:
    """Say whether an exchange that is still open has shown all of its answer, or let a limit pass."""
    now_s = monotonic()
    await _decode_pending(sockets, decoding)
    over = decoding.over_s is not None and now_s >= decoding.over_s + END_OF_STREAM_GRACE_S
    return decoding.ended or over or now_s >= decoding.due_s


async def _decode_pending(sockets: TimestampingSelector, decoding: ExchangeDecoder) -> None:
    while decoding.has_pending:
        await sockets.wait_turn()
        decoding.decode_next(_MAX_READS_PER_TURN)
