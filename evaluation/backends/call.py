"""The request of one trial, its timed response, and the columns that describe both."""

from dataclasses import dataclass
from typing import Any

from providers.timed import send
from streaming.events import Failed, Finish
from streaming.http.timed_exchange import TimedExchange
from streaming.messages import ChatRequest
from streaming.pipeline import outcome_of


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """What is asked of whom, under which strategy, over which transport."""

    provider: str
    strategy: str
    transport: str
    request: ChatRequest


@dataclass(frozen=True, slots=True)
class TimedVendorResponse:
    """An answer with all that was asked, and the event loop's worst lag meanwhile."""

    call: TrialRequest
    answer: send.TimedResponse
    lag_s: float


def instrument_columns(answer: send.TimedResponse) -> dict[str, Any]:
    """Give the columns that tell how it was measured. Headers of a failed answer have no time, as it has no other."""
    exchange = answer.exchange
    failed = outcome_of(terminal_event(answer), has_text=True) == "failed"
    return {
        "connect_s": elapsed_s(exchange.begun_s, exchange.connected_s),
        "headers_s": None if failed else elapsed_s(exchange.sent_s, exchange.headers_s),
        "stamp_source": None if exchange.connected_s is None else exchange.timestamp_source,
        "merged_reads": exchange.merged_reads,
    }


def request_id(call: TrialRequest) -> str:
    """Give the id that travels with the request."""
    assert call.request.request_id is not None  # a bench gives every request one
    return call.request.request_id


def terminal_event(answer: send.TimedResponse) -> Finish | Failed:
    last = answer.events[-1].event
    assert isinstance(last, (Finish, Failed))
    return last


def sent_at(exchange: TimedExchange) -> float:
    """Give when a request was sent, or asked for where it never was, in seconds."""
    return exchange.queued_s if exchange.sent_s is None else exchange.sent_s


def elapsed_s(from_s: float | None, to_s: float | None) -> float | None:
    """Give the seconds between two moments, None unless both are known."""
    return None if from_s is None or to_s is None else round(to_s - from_s, 9)
