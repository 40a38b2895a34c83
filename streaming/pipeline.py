"""The pipeline of one answer, with timestamps at both ends: session, meter, filter, strategy.

session( adapter → retry / fallback ) → meter → filter → strategy → transport or page
                                      ↑ source timestamps         ↑ delivered timestamps
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, Protocol

from streaming.clock import Clock
from streaming.delivery import Delivery, EventSink
from streaming.events import (
    TERMINAL,
    Event,
    Failed,
    Finish,
    FinishReason,
    Notice,
    TextDelta,
    Usage,
    dropped_settings_of,
)
from streaming.messages import ChatRequest
from streaming.meter import CostModel, Meter, MeterReading
from streaming.origin import OriginRecord, ResponseOrigin
from streaming.retry import State
from streaming.session import Session
from streaming.strategies import Strategy
from streaming.trace import Probe

Outcome = Literal["completed", "empty", "refused", "filtered", "truncated", "failed", "cancelled"]
"""The outcome of an answer; only `completed` is a success. `empty`: the answer ended normally without any text.
`refused`: the model declined. `filtered`: the vendor's content filter cut or rejected the answer."""

ENDED_IN_ORDER: frozenset[Outcome] = frozenset({"completed", "empty", "refused", "filtered"})
"""Outcomes of answers that the provider ended normally; only these have an end-to-end latency."""


class EventFilter(Protocol):
    """A filter that removes parts of one answer before delivery; created for that answer only."""

    def feed(self, event: Event) -> list[Event]:
        """Process an event and return the events to pass on now.

        The filter may hold text back, but must pass on or remove all of it before it returns a terminal event.
        """


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome, tokens and cost of an answer; None is unknown.

    `served_by` is the full name of the route that answered last. `delivered_chars` counts the characters of text that
    left the strategy; `reading` has the tokens and cost of everything that the provider sent. `stop_s` is the time in
    seconds that stopping the provider took, None when it was not stopped.
    """

    outcome: Outcome
    finish_reason: FinishReason | None
    finish_raw: str | None
    error: Failed | None
    served_by: str
    attempts: int
    fell_back_to: str | None
    delivered_chars: int
    reading: MeterReading
    stop_s: float | None
    dropped_settings: tuple[str, ...] = ()
    """Settings that were left out of the request because the model does not accept them."""
    origin: ResponseOrigin | None = None
    """Who produced the answer, in the provider's own words."""
    server_timings: Mapping[str, float] = field(default_factory=dict)
    """The server's own timings in seconds by name (`streaming.origin.SERVER_TIMINGS`); a missing one is unknown."""

    @property
    def explanation(self) -> str | None:
        """Why an answer that ended normally is not a success, and what to do; None for every other answer."""
        if self.error is not None:
            return None
        return explain_outcome(self.outcome, self.finish_reason, self.reading.usage.thinking_tokens)


def explain_outcome(outcome: str, finish_reason: str | None, thinking_tokens: int | None) -> str | None:
    """Return why an answer that ended normally is not a success, and what to do; None for every other answer."""
    if outcome == "refused":
        return "answer: the model declined (rephrase the prompt, or choose another model)"
    if outcome == "filtered":
        return "answer: ended by the provider's content filter (rephrase the prompt)"
    if outcome != "empty":
        return None
    if finish_reason == "length" or thinking_tokens:
        return "answer: no text, because thinking used up the token limit (raise max tokens, or lower the effort)"
    return "answer: no text from the model (send the prompt again, or choose another model)"


@dataclass(frozen=True, slots=True)
class Charge:
    """The chargeable usage of one attempt at an answer, for the budget of `route`.

    `usage` has the provider's own counts for the whole attempt, None when it reported none or was stopped before.
    `rejected`: the provider returned an error before any content, or was not reached; such an attempt costs nothing.
    """

    route: str
    reading: MeterReading
    usage: Usage | None = None
    rejected: bool = False


BeforeRetry = Callable[[Charge], Awaitable[Failed | None]]
"""Called with the failed attempt's charge before another attempt; a returned failure ends the answer instead."""

_REJECTIONS = frozenset(
    ("bad_request", "content_filter", "auth", "billing", "not_found", "rate_limited", "server_error", "connect_timeout")
)
"""The kinds of errors with which a provider rejects a request."""
_MILESTONES = (Notice, *TERMINAL)
_NEXT_ATTEMPT = frozenset(("retry", "fallback"))


class AnswerObserver(Protocol):
    """An observer of an answer under way, used for metrics and the log."""

    def on_events(self, events: list[Event], now: float) -> None:
        """Handle events that are being delivered to the reader at `now`."""

    def on_end(self, receipt: Receipt) -> None:
        """Handle the end of the answer."""


class ObserverPair:
    """Two observers of the same answer; the second one is told after the first."""

    def __init__(self, first: AnswerObserver, second: AnswerObserver) -> None:
        self._both = first, second

    def on_events(self, events: list[Event], now: float) -> None:
        for observer in self._both:
            observer.on_events(events, now)

    def on_end(self, receipt: Receipt) -> None:
        for observer in self._both:
            observer.on_end(receipt)


class AnswerStream:
    """One answer under way: an async iterator of events that its owner closes (`aclosing`).

    The receipt remains available afterwards.
    """

    def __init__(
        self,
        request: ChatRequest,
        session: Session,
        strategy: Strategy,
        clock: Clock,
        cost_model: Callable[[str], CostModel],
        probe: Probe | None,
        filter: EventFilter | None,
        before_retry: BeforeRetry | None,
    ) -> None:
        self.meter = Meter(request.messages, clock(), cost_model(session.routes[0].name))
        self.session = session
        self._cost_model = cost_model
        self._clock = clock
        self._probe = probe
        self._filter = filter
        self._before_retry = before_retry
        self._attempt = _AttemptRecord()
        self._delivered_chars = 0
        self._dropped_settings: dict[str, None] = {}
        self._origin = OriginRecord()
        self._terminal: Finish | Failed | None = None
        self._stopping_s: float | None = None
        self._stop_s: float | None = None
        self._delivery = Delivery(self._metered_events(request), strategy, clock)

    def __aiter__(self) -> "AnswerStream":
        return self

    async def __anext__(self) -> Event:
        event = await anext(self._delivery)
        self._record_delivered(event)
        return event

    async def next_batch(self, timeout_s: float | None = None, sink: EventSink | None = None) -> list[Event]:
        """Wait for the next events and return all that are due; empty after `timeout_s` and when `ended`.

        If there is a `sink`, events that become due during the wait go to it; see `streaming.delivery`.
        """
        events = await self._delivery.next_batch(timeout_s, sink and self._make_recording_sink(sink))
        for event in events:
            self._record_delivered(event)
        return events

    @property
    def ended(self) -> bool:
        """True when no more events will follow."""
        return self._delivery.ended

    def meter_reading(self) -> MeterReading:
        """Return the metrics of the answer now."""
        return self.meter.read(self._clock())

    async def aclose(self) -> None:
        """Stop the answer unless it has ended, and wait until the provider's work has ended."""
        called_s = self._clock()
        if self._terminal is None and not self.ended:
            self._stopping_s = called_s
        self.meter.end(called_s)
        await self._delivery.aclose()
        if self._stopping_s is not None and self._stop_s is None:
            self._stop_s = self._clock() - self._stopping_s

    def receipt(self) -> Receipt:
        """Return the receipt; before the end, the receipt as if the answer were stopped now."""
        finish = self._terminal if isinstance(self._terminal, Finish) else None
        return Receipt(
            outcome=outcome_of(self._terminal, has_text=bool(self.meter.text.strip())),
            finish_reason=finish.reason if finish else None,
            finish_raw=finish.raw if finish else None,
            error=self._terminal if isinstance(self._terminal, Failed) else None,
            served_by=self.session.route.name,
            attempts=self.session.attempts,
            fell_back_to=self.session.fell_back_to,
            delivered_chars=self._delivered_chars,
            reading=self.meter_reading(),
            stop_s=self._stop_s,
            dropped_settings=tuple(self._dropped_settings),
            origin=self._origin.origin,
            server_timings=self._origin.timings,
        )

    def charge(self) -> Charge | None:
        """Return the latest attempt's charge; None without an attempt, or if `before_retry` already received it."""
        number, record = self.session.attempts, self._attempt
        if number == 0 or (record.is_charged and number == record.number):
            return None
        route, reading = self.session.route.name, self.meter_reading()
        if number > record.number:  # the attempt has begun and has no event yet
            return Charge(route, reading)
        if record.is_finished:
            return Charge(route, reading, self.meter.final_usage())
        # A vendor starts a stream before its model generates, but sends a non-streamed answer only afterwards: without
        # a stream, a network error may follow work that is charged.
        unreached = record.error == "network" and not record.is_connected and record.was_streamed
        rejected = unreached or record.error in _REJECTIONS
        return Charge(route, reading, rejected=rejected and self.meter.is_silent)

    async def _metered_events(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        meter, session, clock, probe, filter = self.meter, self.session, self._clock, self._probe, self._filter
        async with aclosing(session.stream(request)) as events:
            async for event in events:
                if probe is not None:
                    probe.on_source(event)
                if session.attempts > self._attempt.number:
                    self._attempt = _AttemptRecord(session.attempts)
                    meter.start_attempt(self._cost_model(session.route.name))
                is_text = type(event) is TextDelta  # most events: the checks below cost as much as the meter
                if not is_text and isinstance(event, _MILESTONES):
                    event = await self._record_milestone(event)
                now = clock()
                meter.feed(event, now)
                if not is_text and isinstance(event, TERMINAL):
                    meter.end(now)
                for passed in (event,) if filter is None else filter.feed(event):
                    yield passed
                if not is_text and isinstance(event, Failed):
                    return

    async def _record_milestone(self, event: Event) -> Event:
        """Record a milestone of the attempt. Return the event, or a failure that ends the answer before a retry."""
        self._attempt.record(event, self.session.states)
        self._dropped_settings |= dict.fromkeys(dropped_settings_of([event]))
        self._origin.feed(event)
        if not (isinstance(event, Notice) and event.kind in _NEXT_ATTEMPT) or self._before_retry is None:
            return event
        charge = self.charge()
        if charge is None or charge.rejected:
            return event
        failed = await self._before_retry(charge)
        self._attempt.is_charged = True
        return failed or event

    def _make_recording_sink(self, sink: EventSink) -> EventSink:
        def record_then_send(events: list[Event]) -> Awaitable[None]:
            for event in events:
                self._record_delivered(event)
            return sink(events)

        return record_then_send

    def _record_delivered(self, event: Event) -> None:
        if self._probe is not None:
            self._probe.on_delivered(event)
        if isinstance(event, TextDelta):
            self._delivered_chars += len(event.text)
        elif isinstance(event, TERMINAL):
            self._terminal = event


@dataclass(slots=True)
class _AttemptRecord:
    """The state of the latest attempt that has sent an event; `error` is the kind of the error that ended it."""

    number: int = 1
    is_connected: bool = False
    is_finished: bool = False
    is_charged: bool = False
    error: str | None = None
    was_streamed: bool = True

    def record(self, event: Event, states: Sequence[State]) -> None:
        """Update the record from a milestone; `states` are the session's states."""
        match event:
            case Notice(kind="connected"):
                self.is_connected = True
            case Notice(kind="retry" | "fallback", detail=detail):
                self.error, self.was_streamed = str(detail.get("error", "")), states[-1] == "streaming"
            case Failed(kind=kind):
                self.error, self.was_streamed = kind, states[-2] == "streaming"
            case Finish():
                self.is_finished = True


def _free_cost_model(name: str) -> CostModel:
    return CostModel()


def stream_answer(
    request: ChatRequest,
    session: Session,
    strategy: Strategy,
    *,
    clock: Clock,
    cost_model: Callable[[str], CostModel] = _free_cost_model,
    probe: Probe | None = None,
    filter: EventFilter | None = None,
    before_retry: BeforeRetry | None = None,
) -> AnswerStream:
    """Return a stream of the answer to `request`. The request is sent when the first event is read.

    `clock` must have the timebase of the running loop. `strategy` must be created for this answer only. `cost_model`
    returns the counter and the price of a route by its name. `filter` removes what the reader must not see.
    `before_retry` is called before another attempt when the failed one may be charged.
    """
    return AnswerStream(request, session, strategy, clock, cost_model, probe, filter, before_retry)


def outcome_of(terminal: Finish | Failed | None, *, has_text: bool) -> Outcome:
    """Return the outcome of an answer with this terminal event; None means that it was stopped before its end.

    `has_text`: whether the provider sent any answer text, not counting white space and thinking.
    """
    if terminal is None:
        return "cancelled"
    if isinstance(terminal, Failed):
        if terminal.kind == "content_filter":
            return "filtered"
        return "truncated" if terminal.kind in ("truncated", "idle_timeout", "stream_gone") else "failed"
    if terminal.refused:
        return "refused"
    if terminal.reason == "content_filter":
        return "filtered"
    if terminal.reason == "error":
        return "failed"
    return "completed" if has_text else "empty"
