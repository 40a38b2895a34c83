"""Sending of serialized requests over timestamped sockets, and decoding of the answers to events with exact timestamps.

serialized = serialize_request(…)                             # once for each prompt and its parameters
answer = await send_timed(sockets, serialized, "trial-1")     # any number concurrently
answer.events, answer.exchange
"""

from providers.http.client import END_OF_STREAM_GRACE_S
from providers.timed.decode import ExchangeDecoder
from providers.timed.serialized_request import SerializedRequest
from streaming.adapter import TimedAnswer
from streaming.clock import monotonic
from streaming.events import TimedEvent
from streaming.http.timed_exchange import ExchangeTimeouts, Gate, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector

_POLL_INTERVAL_S = 1.0
"""How often an unfinished answer is decoded. A connection may outlive its answer by this and END_OF_STREAM_GRACE_S."""

_MAX_READS_PER_TURN = 32
"""Decoding so many reads takes less than 0.5 ms; then the sockets are read again."""


async def send_timed(
    sockets: TimestampingSelector, serialized: SerializedRequest, request_id: str, gate: Gate | None = None
) -> TimedAnswer:
    """Send a request once and return its answer, read and decoded to its end. Errors are events of the answer.

    The connection is opened at once, and the request is sent when `gate` returns. It is sent again only over another
    connection, if the first one was not open then or the peer had closed the kept one before it could answer.

    Cancelling closes the connection at once. Decoding takes place once a second and at the end, a few reads in each
    turn of the event loop, so that it does not delay reading from the sockets.
    """
    timeouts = serialized.service.timeouts
    limits = ExchangeTimeouts(connect_s=timeouts.connect_s, total_s=timeouts.total_s)
    request = serialized.with_request_id(request_id)
    while True:
        async with TimedExchange(sockets, serialized.target, request, limits, gate) as exchange:
            decoding = ExchangeDecoder(exchange, serialized)
            while not await exchange.wait_closed(monotonic() + _POLL_INTERVAL_S):
                if await _is_settled(sockets, decoding):
                    break
        if not exchange.found_closed:
            break
        gate = None
    await _decode_pending(sockets, decoding)
    decoding.finish()
    return TimedAnswer(exchange, decoding.events, decoding.error)


def decode_exchange(exchange: TimedExchange, serialized: SerializedRequest) -> list[TimedEvent]:
    """Return the events of an exchange that has ended.

    The terminal event is missing when the caller left the exchange before its answer had ended.
    """
    decoding = ExchangeDecoder(exchange, serialized)
    decoding.finish()
    return decoding.events


async def _is_settled(sockets: TimestampingSelector, decoding: ExchangeDecoder) -> bool:
    """Decode what has arrived, and return whether the answer is complete or a time limit has expired."""
    now_s = monotonic()
    await _decode_pending(sockets, decoding)
    over = decoding.over_s is not None and now_s >= decoding.over_s + END_OF_STREAM_GRACE_S
    return decoding.ended or over or now_s >= decoding.due_s


async def _decode_pending(sockets: TimestampingSelector, decoding: ExchangeDecoder) -> None:
    while decoding.has_pending:
        await sockets.wait_turn()
        decoding.decode_next(_MAX_READS_PER_TURN)
