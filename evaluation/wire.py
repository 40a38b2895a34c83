"""Asks over stamped sockets: vendors' services, and makes of what came what the pipeline would have made of it.

The events are decoded by the adapter's own decoder; the strategy is replayed over them and the meter is fed with them,
each at the kernel's stamp of its arrival. So what this program does meanwhile is in no figure. Where a run asks over
this project's own service, its wires go the same way, but the strategy and the meter are the service's.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from evaluation import quiet, rows
from evaluation.lag import SharedLag
from evaluation.scenario import TRANSPORT, over
from providers import stamped
from providers.fitting import MAX_ROUNDS
from providers.transport import Prepared
from streaming.clock import Clock
from streaming.events import Failed, Finish, TextDelta, Timed, dropped_settings_of
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

if TYPE_CHECKING:
    from evaluation.service_answers import Arrived
    from evaluation.service_wires import ServiceWires


class Sessions(Protocol):
    """Who knows the adapters by name: `providers.Providers`."""

    def session(self, names: Sequence[str], *, clock: Clock, policy: Policy | None = None) -> Session: ...


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of whom, under which strategy, over which transport."""

    provider: str
    strategy: str
    transport: str
    request: ChatRequest


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer with all that was asked, and the event loop's worst lag meanwhile."""

    call: Call
    answer: stamped.Asked
    lag_s: float


class Wire:
    """The stamped way of one run, on one event loop: requests are prepared before the load, `close` ends it.

    `clock` is CLOCK_MONOTONIC, as the stamps are. What could not be prepared is not carried: the adapter, asked for it
    in process, says why. `service` is this project's own, for the transports that are its wires.
    """

    def __init__(self, access: Sessions, clock: Clock, service: "ServiceWires | None" = None) -> None:
        self._access, self._clock, self._service = access, clock, service
        self._prepared: dict[Call, Prepared | None] = {}
        self._stale: set[Call] = set()
        """What was prepared before its service refused a setting that is in it."""
        self._sockets: Sockets | None = None
        self._lag: SharedLag | None = None
        self._attention = ExitStack()

    async def prepare(self, call: Call) -> None:
        """Have a request ready to be sent, whatever its id. The first one for a service costs its SDK's import."""
        key = _key(call)
        if key not in self._prepared:
            if call.transport == TRANSPORT:
                self._prepared[key] = await self._prepare(call.provider, call.request)
            else:
                self._prepared[key] = self._wires.prepared(key)
            await asyncio.sleep(0)

    def carries(self, call: Call) -> bool:
        """Whether the request was prepared, and is asked over stamped sockets."""
        return self._prepared.get(_key(call)) is not None

    def begin(self) -> dict[str, Any]:
        """Make ready for the load and give what the manifest says of it.

        Real-time priority is for a process that mostly waits: it is not taken where anybody answers in this one.
        """
        by_name: dict[str, bool] = {}
        for call, found in self._prepared.items():
            name = over(call.provider, call.transport)
            by_name[name] = by_name.get(name, True) and found is not None
        carried = [name for name, whole in by_name.items() if whole]
        quiet.settle()
        here = any(found is None and call.transport == TRANSPORT for call, found in self._prepared.items())
        taken = False if here or not by_name else self._attention.enter_context(_attention())
        return {"stamped_sockets": carried, "real_time_priority": taken}

    async def ask(self, call: Call) -> Heard:
        """Ask once what was prepared of a vendor. What breaks the answer is its last event."""
        prepared = self._prepared[_key(call)]
        assert prepared is not None
        sockets, lag = self._open()
        mark = lag.mark()
        answer = await self._ask_fitted(sockets, call, prepared)
        heard = Heard(call, answer, lag.worst_s(mark))
        await sockets.turn()
        return heard

    async def ask_service(self, call: Call) -> "Arrived":
        """Ask once what was prepared of the service. What breaks the answer is its last event."""
        prepared = self._prepared[_key(call)]
        sockets, lag = self._open()
        mark = lag.mark()
        if prepared is None:
            arrived = await self._wires.ask_websocket(call)
        else:
            arrived = await self._wires.ask_stamped(sockets, prepared, call)
        arrived.instrument["loop_lag_max_s"] = round(lag.worst_s(mark), 9)
        await sockets.turn()
        return arrived

    async def _ask_fitted(self, sockets: Sockets, call: Call, prepared: Prepared) -> stamped.Asked:
        """Ask, and again without the settings that the service refuses; the figures are those of the last request."""
        key = _key(call)
        for _ in range(MAX_ROUNDS):
            if key in self._stale:
                self._stale.discard(key)
                self._prepared[key] = prepared = await self._prepare(call.provider, call.request) or prepared
            answer = await stamped.ask(sockets, prepared, request_id(call))
            if answer.error is None or not prepared.learn(answer.error):
                break
            self._stale |= {other for other in self._prepared if other.provider == call.provider}
        if answer.error is None:
            return answer
        error = await prepared.explain(answer.error)
        failed = Failed(error.kind, error.message, error.http_status)
        return replace(answer, events=[*answer.events[:-1], Timed(answer.events[-1].at_s, failed)], error=error)

    @property
    def _wires(self) -> "ServiceWires":
        assert self._service is not None  # the run started it, or was given its address
        return self._service

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
    meter = Meter(heard.call.request.messages, sent_stamp(exchange), rates)
    for timed in events:
        meter.feed(timed.event, timed.at_s)
    terminal = _terminal(heard.answer)
    meter.end(events[-1].at_s)
    finish = terminal if isinstance(terminal, Finish) else None
    return Receipt(
        outcome=outcome_of(terminal, has_text=bool(meter.text.strip())),
        finish_reason=finish.reason if finish else None,
        finish_raw=finish.raw if finish else None,
        error=terminal if isinstance(terminal, Failed) else None,
        served_by=heard.call.provider,
        attempts=1,
        fell_back_to=None,
        delivered_chars=sum(len(timed.event.text) for timed in delivered if isinstance(timed.event, TextDelta)),
        reading=meter.read(events[-1].at_s),
        stop_s=None,
        dropped_settings=dropped_settings_of(timed.event for timed in events),
    )


def stamps(heard: Heard, strategy: Strategy) -> rows.Stamps:
    """Give both ends' events: as they arrived, and as `strategy` would have delivered them then."""
    events, exchange = heard.answer.events, heard.answer.exchange
    return rows.Stamps(sent_stamp(exchange), events, list(replay(events, strategy)), sent=exchange.sent_s is not None)


def instrument(answer: stamped.Asked) -> dict[str, Any]:
    """Give the columns that tell how it was measured. Headers of a failed answer have no time, as it has no other."""
    exchange = answer.exchange
    failed = outcome_of(_terminal(answer), has_text=True) == "failed"
    return {
        "connect_s": between(exchange.begun_s, exchange.connected_s),
        "headers_s": None if failed else between(exchange.sent_s, exchange.headers_s),
        "stamp_source": None if exchange.connected_s is None else exchange.stamp_source,
        "merged_reads": exchange.merged_reads,
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


def request_id(call: Call) -> str:
    """Give the id that travels with the request."""
    assert call.request.request_id is not None  # a bench gives every request one
    return call.request.request_id


def _key(call: Call) -> Call:
    """Leave out what the prepared request has not: the id, and the strategy where it is replayed here."""
    strategy = "" if call.transport == TRANSPORT else call.strategy
    return replace(call, strategy=strategy, request=replace(call.request, request_id=None))


def _terminal(answer: stamped.Asked) -> Finish | Failed:
    last = answer.events[-1].event
    assert isinstance(last, (Finish, Failed))
    return last


def sent_stamp(exchange: Exchange) -> float:
    """Give when a request was sent, or asked for where it never was, in seconds."""
    return exchange.queued_s if exchange.sent_s is None else exchange.sent_s


def between(from_s: float | None, to_s: float | None) -> float | None:
    """Give the seconds between two moments, None unless both are known."""
    return None if from_s is None or to_s is None else round(to_s - from_s, 9)
