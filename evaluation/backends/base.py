"""The interface of backends: the request of a trial goes in, its timed response comes back."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from evaluation.backends.interference import LoopLagMonitor
from evaluation.metrics.trial_metrics import TimedEvents
from evaluation.scenario import Scenario
from providers.http.client import ServiceConfig
from providers.http.errors import ServiceLabels
from settings import Settings
from streaming.adapter import TimedAnswer, UnpreparableRequest
from streaming.clock import Clock
from streaming.errors import StreamError, UsageError
from streaming.events import Failed, Finish, TimedEvent, Usage, dropped_settings_of, notices_of, text_of
from streaming.http.idle_connections import KeepAliveSelector
from streaming.http.proxies import proxy_for
from streaming.http.timed_exchange import Gate, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.messages import ChatRequest
from streaming.meter import CostModel, Meter
from streaming.origin import origin_record_of
from streaming.pipeline import Outcome, Receipt, outcome_of
from streaming.retry import RetryPolicy
from streaming.session import Session, Timeouts

Timing = Literal["sockets", "client", "pipeline", "browser"]
"""Where a backend takes its timestamps: on timestamped sockets, in a client of the service, in the pipeline, which then
generates the answers in this process, or in a browser."""


KEY_VARIABLE = "STREAMGAUGE_KEY"
_TIMEOUT_MARGIN_S = 30.0
"""Seconds added to the service's own timeouts: the service reports which of its timeouts expired, so it must be the
first to give up."""


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """One request of a trial: the provider, strategy, transport and chat request."""

    provider: str
    strategy: str
    transport: str
    request: ChatRequest

    @property
    def request_id(self) -> str:
        """The id that is sent with the request."""
        assert self.request.request_id is not None  # every request of a trial has an id
        return self.request.request_id

    @property
    def key(self) -> "TrialRequest":
        """The request without its id: what repetitions of a trial have in common."""
        return replace(self, request=replace(self.request, request_id=None))


@dataclass(frozen=True, slots=True)
class Instrument:
    """How one response was timed, as columns of its row; None is not known or does not apply.

    `stamp_source` is `kernel`, `callback` (this process, when it read the bytes), `in-process` (the pipeline),
    `service` (the service's pipeline) or `browser`. `connected_s` is no column: when the connection was open, on the
    clock of the timestamps.
    """

    stamp_source: str | None = None
    connect_s: float | None = None
    headers_s: float | None = None
    merged_reads: int | None = None
    loop_lag_max_s: float | None = None
    peer_address: str | None = None
    connected_s: float | None = None


@dataclass(frozen=True, slots=True)
class TimedResponse:
    """What came back for one request, over every backend. A failed answer is a response too.

    `ending` holds the columns that describe how the answer ended. `retry_after_s` is the wait before another request
    that the provider asked for, None when it asked for none or the backend does not see it.
    """

    stamps: TimedEvents
    outcome: Outcome
    usage: Usage
    ending: dict[str, Any]
    instrument: Instrument
    retry_after_s: float | None = None
    started_at: str = ""
    """The date and time in UTC at which the trial started."""

    @classmethod
    def from_error(cls, error: Exception, called_s: float, *, has_source: bool) -> "TimedResponse":
        """Return the response of a request that `error` ended before it was sent, at `called_s`."""
        ending: dict[str, Any]
        if isinstance(error, StreamError):
            ending = {"error_type": error.kind, "error_message": error.message, "http_status": error.http_status}
        else:
            kind = "usage" if isinstance(error, UsageError) else "internal"
            ending = {"error_type": kind, "error_message": f"{type(error).__name__}: {error}"}
        stamps = TimedEvents(called_s, () if has_source else None, (), sent=False)
        return cls(stamps, "failed", Usage(), ending, Instrument())


class RequestHeldError(Exception):
    """Raised by a gate that does not let its request through; the request has not been sent."""


class Backend(Protocol):
    """A way to send the requests of trials and to time their responses.

    A wrapper that sends a request again, or rests after a rate limit, is a backend around another one.
    """

    timing: Timing

    async def prepare(self, call: TrialRequest) -> UnpreparableRequest | None:
        """Do before the load what must not be measured; return why `call` cannot be sent this way, None if it can.

        Raises StreamError or UsageError when the call can be sent in no way: the error is the outcome of its trials.
        """

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        """Send a prepared call once, under any request id, and return its timed response.

        The request is sent when `gate` returns; what it needs, such as a connection, is opened before. A failure of the
        answer is part of the response and never raised. Cancelling ends the provider's work.
        """


class ProviderAccess(Protocol):
    """The part of `providers.ProviderRegistry` that a run uses."""

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session: ...

    def cost_model(self, name: str) -> CostModel: ...


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """The service that a run sends its requests to, with the timeout of an answer in seconds.

    `recordings` is the folder to which the service records its answers, None if it records nothing that is known here.
    """

    url: str
    config: ServiceConfig
    total_s: float
    recordings: Path | None = None

    @classmethod
    def from_settings(cls, url: str, settings: Settings, recordings: Path | None = None) -> "ServiceTarget":
        """Return the service at `url`, with the API key of the variable STREAMGAUGE_KEY."""
        total_s = Timeouts().total_s + _TIMEOUT_MARGIN_S
        config = ServiceConfig(
            ServiceLabels("the service", url, KEY_VARIABLE, "--url"),
            Timeouts(first_content_s=total_s, idle_s=total_s, total_s=total_s),
            settings.get(KEY_VARIABLE),
            proxy_for(url, settings.variables),
            settings.certificates,
            settings.mask_secrets,
        )
        return cls(url, config, total_s, recordings)


class RunResources:
    """What the backends of one run share, on one event loop.

    `clock` is CLOCK_MONOTONIC, like the kernel's timestamps, and has the event loop's timebase. The
    `scenario` says whether timestamped sockets use connections again, and on which page a browser reads; None is the
    default. `service` receives the requests of all transports but in-process. `mask` removes secrets from error
    messages.

    Backends enter what they keep open for the run into `exit_stack`, and note in `facts` what they found out about
    their timing before the load, for the manifest.
    """

    def __init__(
        self,
        access: ProviderAccess,
        clock: Clock,
        scenario: Scenario | None = None,
        *,
        service: ServiceTarget | None = None,
        mask: Callable[[str], str] = str,
    ) -> None:
        self.access, self.clock, self.mask = access, clock, mask
        self.page = scenario.page if scenario else None
        self.stop_after_s = scenario.stop_after_s if scenario else None
        self._keep_alive = scenario is not None and scenario.keeps_alive
        self.exit_stack = AsyncExitStack()
        self.facts: dict[str, Any] = {}
        self._service = service
        self._sockets: TimestampingSelector | None = None
        self._lag: LoopLagMonitor | None = None
        self.slowest_connect_s = 0.0
        """The longest time that it took to open a connection so far."""

    @property
    def service(self) -> ServiceTarget:
        """The service. Every run with a transport of the service has one."""
        assert self._service is not None
        return self._service

    @property
    def sockets(self) -> TimestampingSelector:
        """The timestamping sockets, opened on the first use."""
        if self._sockets is None:
            self._sockets = KeepAliveSelector() if self._keep_alive else TimestampingSelector()
        return self._sockets

    @property
    def lag(self) -> LoopLagMonitor:
        """The monitor of the event loop's lag, started on the first use."""
        if self._lag is None:
            self._lag = LoopLagMonitor()
        return self._lag

    def note_connect(self, connect_s: float | None) -> None:
        """Take the time that it took to open a connection into account, in seconds."""
        self.slowest_connect_s = max(self.slowest_connect_s, connect_s or 0.0)

    def lag_since(self, mark: int) -> float:
        """Return the event loop's worst lag since a mark of `lag`, in seconds, as a column."""
        return round(self.lag.worst_s(mark), 9)

    async def aclose(self) -> None:
        """Close what the backends keep open and the sockets, and stop the monitor. Safe to call twice."""
        await self.exit_stack.aclose()
        if self._lag is not None:
            self._lag.close()
        if self._sockets is not None:
            self._sockets.close()
        self._sockets = self._lag = None


def instrument_of(answer: TimedAnswer, lag_s: float) -> Instrument:
    """Return how an answer was timed; `lag_s` is the event loop's worst lag while it ran, in seconds.

    `headers_s` is None for a failed answer, like all its other latencies.
    """
    exchange, terminal = answer.exchange, terminal_event(answer.events)
    failed = outcome_of(terminal, has_text=True) == "failed"
    return Instrument(
        stamp_source=None if exchange.connected_s is None else exchange.timestamp_source,
        connect_s=elapsed_s(0.0, exchange.connect_s),
        headers_s=None if failed else elapsed_s(exchange.sent_s, exchange.headers_s),
        merged_reads=exchange.merged_reads,
        loop_lag_max_s=lag_s,
        peer_address=exchange.peer_address,
        connected_s=exchange.connected_s,
    )


def receipt_from_events(
    call: TrialRequest,
    events: Sequence[TimedEvent],
    delivered: Sequence[TimedEvent],
    sent_s: float,
    cost_model: CostModel,
    *,
    usage: Usage | None = None,
    attempts: int = 1,
    fell_back_to: str | None = None,
) -> Receipt:
    """Return the receipt of an answer whose last event says how it ended.

    `usage` is what the service reported; without it the meter counts as it does in the pipeline.
    """
    meter = Meter(call.request.messages, sent_s, cost_model)
    for timed in events:
        meter.feed(timed.event, timed.at_s)
    end_s, terminal = events[-1].at_s, terminal_event(events)
    meter.end(end_s)
    reading = meter.read(end_s)
    if usage is not None:
        reading = replace(reading, usage=usage, cost=cost_model.price(usage) if cost_model.price else None)
    finish = terminal if isinstance(terminal, Finish) else None
    record = origin_record_of(notices := notices_of(events))
    return Receipt(
        outcome=outcome_of(terminal, has_text=bool(meter.text.strip())),
        finish_reason=finish.reason if finish else None,
        finish_raw=finish.raw if finish else None,
        error=terminal if isinstance(terminal, Failed) else None,
        served_by=call.provider,
        attempts=attempts,
        fell_back_to=fell_back_to,
        delivered_chars=len(text_of(delivered)),
        reading=reading,
        stop_s=None,
        dropped_settings=dropped_settings_of(notices),
        origin=record.origin,
        server_timings=record.timings,
    )


def terminal_event(events: Sequence[TimedEvent]) -> Finish | Failed:
    """Return the last event, which says how an answer ended."""
    last = events[-1].event
    assert isinstance(last, (Finish, Failed))
    return last


def sent_at(exchange: TimedExchange) -> float:
    """Return the timestamp at which a request was sent, or queued if it was never sent, in seconds."""
    return exchange.queued_s if exchange.sent_s is None else exchange.sent_s


def elapsed_s(from_s: float | None, to_s: float | None) -> float | None:
    """Return the seconds between two timestamps, None unless both are known."""
    return None if from_s is None or to_s is None else round(to_s - from_s, 9)
