"""Asks over stamped sockets: keeps the answer's bytes with their stamps, and decodes them to events at those moments.

prepared = await adapter.prepare(request)               once for each prompt and its parameters
asked = await ask(sockets, prepared, "trial-1")         any number at once
asked.events, asked.exchange
"""

from dataclasses import dataclass

from providers.kept import Decoding
from providers.transport import Prepared
from providers.upstream import GRACE_S
from streaming.clock import monotonic
from streaming.errors import StreamError
from streaming.events import Timed
from streaming.exchange import Exchange, Limits
from streaming.sockets import Sockets

_LOOK_S = 1.0
"""How often an answer that goes on is looked into: so long, and GRACE_S, may a connection outlive its answer."""

_READS_AT_ONCE = 32
"""Decoding them takes less than half a millisecond; then others are read."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer: `events` end in one `Finish` or `Failed`; all moments are seconds on CLOCK_MONOTONIC.

    `error` is what broke it.
    """

    exchange: Exchange
    events: list[Timed]
    error: StreamError | None = None


async def ask(sockets: Sockets, prepared: Prepared, request_id: str) -> Asked:
    """Ask once, and read and decode the answer to its end, whatever it is. Cancelling closes the connection at once.

    Decoding is done once a second and at the end, a little in each pass of the loop: reading goes before it.
    """
    timeouts = prepared.service.timeouts
    limits = Limits(connect_s=timeouts.connect_s, total_s=timeouts.total_s)
    async with Exchange(sockets, prepared.target, prepared.with_request_id(request_id), limits) as exchange:
        decoding = Decoding(exchange, prepared)
        while not await exchange.wait(monotonic() + _LOOK_S):
            if await _settled(sockets, decoding):
                break
    await _catch_up(sockets, decoding)
    decoding.finish()
    return Asked(exchange, decoding.events, decoding.error)


def decoded(exchange: Exchange, prepared: Prepared) -> list[Timed]:
    """Decode an exchange that has ended; with no terminal event when it was left before its answer had ended."""
    decoding = Decoding(exchange, prepared)
    decoding.finish()
    return decoding.events


async def _settled(sockets: Sockets, decoding: Decoding) -> bool:
    """Say whether an exchange that is still open has shown all of its answer, or let a limit pass."""
    now_s = monotonic()
    await _catch_up(sockets, decoding)
    over = decoding.over_s is not None and now_s >= decoding.over_s + GRACE_S
    return decoding.ended or over or now_s >= decoding.due_s


async def _catch_up(sockets: Sockets, decoding: Decoding) -> None:
    while decoding.behind:
        await sockets.turn()
        decoding.advance(_READS_AT_ONCE)
