"""The request of one trial, its timed response, and the columns that describe both."""

from dataclasses import dataclass
from typing import Any

from streaming.adapter import TimedAnswer
from streaming.events import Failed, Finish
from streaming.http.timed_exchange import TimedExchange
from streaming.messages import ChatRequest
from streaming.pipeline import outcome_of


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """One request of a trial: the provider, strategy, transport and chat request."""

    provider: str
    strategy: str
    transport: str
    request: ChatRequest


@dataclass(frozen=True, slots=True)
class TimedVendorResponse:
    """A vendor's timed answer with its request, and the event loop's worst lag while it ran, in seconds."""

    call: TrialRequest
    answer: TimedAnswer
    lag_s: float


def instrument_columns(answer: TimedAnswer) -> dict[str, Any]:
    """Return the columns that describe how an answer was measured.

    `headers_s` is None for a failed answer, like all its other latencies.
    """
    exchange = answer.exchange
    failed = outcome_of(terminal_event(answer), has_text=True) == "failed"
    return {
        "connect_s": elapsed_s(exchange.begun_s, exchange.connected_s),
        "headers_s": None if failed else elapsed_s(exchange.sent_s, exchange.headers_s),
        "stamp_source": None if exchange.connected_s is None else exchange.timestamp_source,
        "merged_reads": exchange.merged_reads,
    }


def request_id(call: TrialRequest) -> str:
    """Return the id that is sent with the request."""
    assert call.request.request_id is not None  # every trial request has an id
    return call.request.request_id


def terminal_event(answer: TimedAnswer) -> Finish | Failed:
    """Return the last event, which says how the answer ended."""
    last = answer.events[-1].event
    assert isinstance(last, (Finish, Failed))
    return last


def sent_at(exchange: TimedExchange) -> float:
    """Return the timestamp at which a request was sent, or queued if it was never sent, in seconds."""
    return exchange.queued_s if exchange.sent_s is None else exchange.sent_s


def elapsed_s(from_s: float | None, to_s: float | None) -> float | None:
    """Return the seconds between two timestamps, None unless both are known."""
    return None if from_s is None or to_s is None else round(to_s - from_s, 9)
