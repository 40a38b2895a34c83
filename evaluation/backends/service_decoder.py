"""Decoders of the service's transports: bytes to events, and events to the receipt of an answer. No I/O."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from clients.answer_reader import AnswerReader
from clients.errors import ClientError
from clients.events import AnswerCancelled, AnswerFailed, AnswerFinished, AnswerReceipt, StageChanged, parse_event
from clients.events import Event as ServiceEvent
from clients.position import StreamPosition
from evaluation.backends.base import TrialRequest, receipt_from_events
from evaluation.metrics.trial_metrics import TimedEvents, outcome_columns
from providers.decoding import chat_completions
from streaming import sse
from streaming.errors import ProtocolError, ResponseTooLargeError, StreamError, TruncatedStreamError
from streaming.events import Event, Failed, Finish, Notice, TimedEvent
from streaming.meter import CostModel
from streaming.pipeline import Receipt

_CANCELLED = Failed("cancelled", "the answer was stopped at the service")


@dataclass(slots=True)
class ServiceOutcome:
    """How an answer ended, as reported by the service; None is not reported."""

    receipt: AnswerReceipt | None = None
    failure: Failed | None = None
    is_refused: bool = False

    def record_event(self, service_event: ServiceEvent | None) -> Event | None:
        """Record the service's event and return the pipeline's event for it, None if there is none."""
        match service_event:
            case None | StageChanged():
                return None
            case AnswerFinished(reason, receipt, outcome):
                self.receipt = receipt
                return Finish(reason, refused=outcome == "refused")  # type: ignore[arg-type] # the service's words are the pipeline's
            case AnswerFailed(kind, message, upstream_status, receipt):
                self.receipt, self.failure = receipt, Failed(kind, message, upstream_status)
                return self.failure
            case AnswerCancelled(receipt):
                self.receipt, self.failure = receipt, _CANCELLED
                return self.failure
        return service_event

    def read_body(self, text: str, http_status: int | None = None) -> None:
        """Read an error or the receipt beside a completion from a JSON body; ignore anything else."""
        with suppress(ValueError, TypeError, AttributeError, KeyError, ClientError):
            fields = json.loads(text)
            if (error := fields.get("error")) is not None:
                # `code` is the service's own error kind; `type` must be one of OpenAI's.
                self.failure = Failed(error.get("code") or error["type"], error["message"], http_status)
            if (receipt := fields.get("streamgauge")) is not None:
                self.is_refused = receipt.get("outcome") == "refused"
                self.record_event(parse_event(("finish", {"finish_reason": "other", **receipt})))

    def apply_to(self, events: Sequence[TimedEvent]) -> list[TimedEvent]:
        """Return an answer's events, with the failure at the end replaced by the one that the service reported."""
        failure = self.failure
        if failure is None or not isinstance(events[-1].event, Failed):
            return list(events)
        return [*events[:-1], replace(events[-1], event=failure)]


class ServiceSSEDecoder:
    """A `providers.decoding.decoder.StreamDecoder` of the service's SSE stream that also keeps the reported outcome."""

    def __init__(self) -> None:
        self.outcome = ServiceOutcome()
        self._sse = sse.Decoder(errors="strict")
        self._reader = AnswerReader(StreamPosition(resumable=False))

    @property
    def done(self) -> bool:
        return self._reader.position.ended

    def feed(self, data: bytes) -> Iterator[Event]:
        try:
            for entry in self._events(data):
                if self.done:
                    return
                new = self._reader.read_sse(entry)
                event = None if new is None else self.outcome.record_event(new.event)
                if isinstance(event, Failed):
                    raise StreamError(event.message, http_status=event.http_status)
                if event is not None:
                    yield event
        except UnicodeDecodeError:
            raise ProtocolError("the service sent bytes that are not UTF-8") from None
        except ClientError as error:
            raise ProtocolError(str(error)) from None

    def _events(self, data: bytes) -> Iterator[sse.ServerSentEvent]:
        try:
            yield from self._sse.feed(data)
        except sse.EventTooLargeError as error:
            yield from error.events
            raise ResponseTooLargeError(f"response: exceeds a size limit ({error})") from None

    def flush(self) -> Iterator[Event]:
        raise TruncatedStreamError("the stream ended before the event that ends the answer")


class ServiceCompletionDecoder:
    """The OpenAI adapter's decoder, which also keeps the receipt that the service sends beside the usage."""

    def __init__(self) -> None:
        self.outcome = ServiceOutcome()
        self._sse = sse.Decoder()
        self._decoder = chat_completions.make_decoder(shows_thinking=True)

    @property
    def done(self) -> bool:
        return self._decoder.done

    def feed(self, data: bytes) -> Iterator[Event]:
        for event in self._events(data):
            # Quotation marks inside a JSON string are escaped, so that no answer's text can contain these keys.
            if '"streamgauge"' in event.data or '"error"' in event.data:
                self.outcome.read_body(event.data)
        yield from self._decoder.feed(data)

    def _events(self, data: bytes) -> list[sse.ServerSentEvent]:
        try:
            return self._sse.feed(data)
        except sse.EventTooLargeError as error:
            return error.events  # the wrapped decoder raises the same error

    def flush(self) -> Iterator[Event]:
        for event in self._decoder.flush():
            yield replace(event, refused=self.outcome.is_refused) if isinstance(event, Finish) else event


def receipt_from_service(
    call: TrialRequest, stamps: TimedEvents, outcome: ServiceOutcome, cost_model: CostModel
) -> Receipt:
    """Return the receipt of an answer with the token usage that the service reported, or else the meter's counts.

    The cost is that of these tokens at the caller's prices, so that all transports of a run are priced alike.
    """
    events, reported = stamps.delivered, outcome.receipt
    receipt = receipt_from_events(
        call,
        events,
        events,
        stamps.sent_s,
        cost_model,
        usage=reported.usage if reported else None,
        attempts=(reported.attempts if reported else None) or 1,
        fell_back_to=_find_fallback(events),
    )
    if reported is not None:
        receipt = replace(receipt, origin=reported.answered_by, server_timings=reported.server_timings)
    return replace(receipt, outcome="cancelled") if events[-1].event is _CANCELLED else receipt


def ending_columns(fields: Receipt, outcome: ServiceOutcome) -> dict[str, Any]:
    """Return the columns that describe how an answer ended.

    The cost is the one that the service reported where the caller knows no price.
    """
    columns = outcome_columns(fields)
    cost_usd = outcome.receipt.cost_usd if outcome.receipt else None
    if "token_source" in columns and columns.get("cost_usd") is None and cost_usd is not None:
        columns |= {"cost_usd": Decimal(str(cost_usd)), "cost_source": "listed", "price_source": "the service"}
    return columns


def _find_fallback(events: Sequence[TimedEvent]) -> str | None:
    notices = [timed.event for timed in events if isinstance(timed.event, Notice)]
    return next((str(notice.detail["to"]) for notice in reversed(notices) if notice.kind == "fallback"), None)
