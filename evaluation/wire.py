"""Asks vendors' services over stamped sockets, and makes of what came what the pipeline would have made of it.

The events are decoded by the adapter's own decoder; the strategy is replayed over them and the meter is fed with them,
each at the kernel's stamp of its arrival. So what this program does meanwhile is in no figure.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from evaluation import quiet, rows
from evaluation.lag import SharedLag
from providers import stamped
from providers.transport import Prepared
from streaming.clock import Clock
from streaming.events import Failed, Finish, TextDelta, Timed
from streaming.exchange import Exchange
from streaming.messages import ChatRequest
from streaming.meter import Meter, Rates
from streaming.pipeline import Receipt, outcome_of
from streaming.priority import take_real_time_priority
from streaming.replay import replay
from streaming.retry import NO_RECOVERY, Policy
from streaming.session import Session
from streaming.sockets import Sockets
from streaming.strategies import Strategy


class Sessions(Protocol):
    """Who knows the adapters by name: `providers.Providers`."""

    def session(self, names: Sequence[str], *, clock: Clock, policy: Policy | None = None) -> Session: ...


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer with all that was asked, and the event loop's worst lag meanwhile."""

    provider: str
    request: ChatRequest
    answer: stamped.Asked
    lag_s: float


class Wire:
    """The stamped way of one run, on one event loop: requests are prepared before the load, `close` ends it.

    `clock` is CLOCK_MONOTONIC, as the stamps are. What could not be prepared is not carried: the adapter, asked for it
    in process, says why.
    """

    def __init__(self, access: Sessions, clock: Clock) -> None:
        self._access, self._clock = access, clock
        self._prepared: dict[tuple[str, ChatRequest], Prepared | None] = {}
        self._sockets: Sockets | None = None
        self._lag: SharedLag | None = None
        self._attention = ExitStack()

    async def prepare(self, provider: str, request: ChatRequest) -> None:
        """Have a request ready to be sent, whatever its id. The first one for a service costs its SDK's import."""
        key = _key(provider, request)
        if key not in self._prepared:
            self._prepared[key] = await self._prepare(provider, request)
            await asyncio.sleep(0)

    def carries(self, provider: str, request: ChatRequest) -> bool:
        """Whether the request was prepared, and is asked over this way."""
        return self._prepared.get(_key(provider, request)) is not None

    def begin(self) -> dict[str, Any]:
        """Make ready for the load and give what the manifest says of it.

        Real-time priority is for a process that mostly waits: it is not taken where anybody answers in this one.
        """
        by_provider: dict[str, bool] = {}
        for (provider, _), found in self._prepared.items():
            by_provider[provider] = by_provider.get(provider, True) and found is not None
        carried = [provider for provider, whole in by_provider.items() if whole]
        quiet.settle()
        alone = bool(carried) and len(carried) == len(by_provider)
        taken = self._attention.enter_context(_attention()) if alone else False
        return {"stamped_sockets": carried, "real_time_priority": taken}

    async def ask(self, provider: str, request: ChatRequest) -> Heard:
        """Ask once what was prepared. What breaks the answer is its last event."""
        prepared = self._prepared[_key(provider, request)]
        assert prepared is not None
        assert request.request_id is not None
        sockets, lag = self._open()
        mark = lag.mark()
        answer = await stamped.ask(sockets, prepared, request.request_id)
        heard = Heard(provider, request, answer, lag.worst_s(mark))
        await sockets.turn()
        return heard

    def close(self) -> None:
        """Close all sockets and give the priority back. Safe to call twice."""
        self._attention.close()
        quiet.resume()
        if self._sockets is not None and self._lag is not None:
            self._lag.close()
            self._sockets.close()
            self._sockets = self._lag = None

    async def _prepare(self, provider: str, request: ChatRequest) -> Prepared | None:
        try:
            route = self._access.session([provider], clock=self._clock, policy=NO_RECOVERY).route
            adapter: Any = route.adapter
            if not hasattr(adapter, "prepare"):
                return None
            found = await adapter.prepare(replace(request, model=route.model))
        except Exception:
            # The adapter says it when it is asked, as the outcome of the trial.
            return None
        return found if isinstance(found, Prepared) else None

    def _open(self) -> tuple[Sockets, SharedLag]:
        if self._sockets is None or self._lag is None:
            self._sockets, self._lag = Sockets(), SharedLag()
        return self._sockets, self._lag


def receipt(heard: Heard, delivered: Sequence[Timed], rates: Rates) -> Receipt:
    """Give what an answer came to by the pipeline's rules; the last event is its ending."""
    events, exchange = heard.answer.events, heard.answer.exchange
    meter = Meter(heard.request.messages, _sent_s(exchange), rates)
    for timed in events:
        meter.feed(timed.event, timed.at_s)
    terminal = _terminal(heard)
    meter.end(events[-1].at_s)
    finish = terminal if isinstance(terminal, Finish) else None
    return Receipt(
        outcome=outcome_of(terminal),
        finish_reason=finish.reason if finish else None,
        finish_raw=finish.raw if finish else None,
        error=terminal if isinstance(terminal, Failed) else None,
        served_by=heard.provider,
        attempts=1,
        fell_back_to=None,
        delivered_chars=sum(len(timed.event.text) for timed in delivered if isinstance(timed.event, TextDelta)),
        reading=meter.read(events[-1].at_s),
        stop_s=None,
    )


def stamps(heard: Heard, strategy: Strategy) -> rows.Stamps:
    """Give both ends' events: as they arrived, and as `strategy` would have delivered them then."""
    events, exchange = heard.answer.events, heard.answer.exchange
    return rows.Stamps(_sent_s(exchange), events, list(replay(events, strategy)), sent=exchange.sent_s is not None)


def instrument(heard: Heard) -> dict[str, Any]:
    """Give the columns that tell how it was measured. Headers of a failed answer have no time, as it has no other.

    `disturbed` is not known, but for reads that hid stamps.
    """
    exchange = heard.answer.exchange
    failed = outcome_of(_terminal(heard)) == "failed"
    return {
        "connect_s": _between(exchange.begun_s, exchange.connected_s),
        "headers_s": None if failed else _between(exchange.sent_s, exchange.headers_s),
        "stamp_source": None if exchange.connected_s is None else exchange.stamp_source,
        "merged_reads": exchange.merged_reads,
        "disturbed": True if exchange.merged_reads else None,
        "loop_lag_max_s": round(heard.lag_s, 9),
    }


@contextmanager
def _attention() -> Iterator[bool]:
    """Take real-time priority for the time of a load, where it may be taken; say whether it was."""
    before = _scheduling()
    taken = take_real_time_priority()
    try:
        yield taken
    finally:
        if taken and before is not None:
            os.sched_setscheduler(0, *before)


def _scheduling() -> tuple[int, os.sched_param] | None:
    if not hasattr(os, "sched_getscheduler"):
        return None
    return os.sched_getscheduler(0), os.sched_getparam(0)


def _key(provider: str, request: ChatRequest) -> tuple[str, ChatRequest]:
    return provider, replace(request, request_id=None)


def _terminal(heard: Heard) -> Finish | Failed:
    last = heard.answer.events[-1].event
    assert isinstance(last, (Finish, Failed))
    return last


def _sent_s(exchange: Exchange) -> float:
    return exchange.queued_s if exchange.sent_s is None else exchange.sent_s


def _between(from_s: float | None, to_s: float | None) -> float | None:
    return None if from_s is None or to_s is None else round(to_s - from_s, 9)
