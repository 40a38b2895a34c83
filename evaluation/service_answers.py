"""What the service's wires say, read into the events and the receipt that every answer has. Pure."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from clients.errors import ClientError
from clients.events import Bill, Broken, Cancelled, Finished, Stage, event_of
from clients.events import Event as Said
from clients.progress import Progress
from clients.sse import frame_of
from evaluation import rows
from providers import chat_completions_wire
from streaming import sse
from streaming.errors import ProtocolError, ResponseTooLargeError, StreamError, TruncatedStream
from streaming.events import Event, Failed, Finish, Notice, TextDelta, Timed
from streaming.messages import ChatRequest
from streaming.meter import Meter, Rates
from streaming.pipeline import Receipt, outcome_of

_CANCELLED = Failed("cancelled", "the answer was stopped at the service")


@dataclass(slots=True)
class Told:
    """How the service said that an answer ended; None is what it did not say."""

    bill: Bill | None = None
    failure: Failed | None = None

    def event(self, said: Said | None) -> Event | None:
        """Give the pipeline's event for what the service said, None where it has none."""
        match said:
            case None | Stage():
                return None
            case Finished(reason, bill, outcome):
                self.bill = bill
                return Finish(reason, refused=outcome == "refused")  # type: ignore[arg-type] # the service's words are the pipeline's
            case Broken(kind, message, upstream_status, bill):
                self.bill, self.failure = bill, Failed(kind, message, upstream_status)
                return self.failure
            case Cancelled(bill):
                self.bill, self.failure = bill, _CANCELLED
                return self.failure
        return said

    def read(self, text: str, http_status: int | None = None) -> None:
        """Take an error, or the bill beside a completion, from JSON; what is neither says nothing."""
        with suppress(ValueError, TypeError, AttributeError, KeyError, ClientError):
            fields = json.loads(text)
            if (error := fields.get("error")) is not None:
                # `code` is the service's own word where `type` must be OpenAI's.
                self.failure = Failed(error.get("code") or error["type"], error["message"], http_status)
            if (bill := fields.get("streamgauge")) is not None:
                self.event(event_of(("finish", {"finish_reason": "other", **bill})))

    def ended(self, events: Sequence[Timed]) -> list[Timed]:
        """Give an answer's events with the service's own word for what broke it."""
        failure = self.failure
        if failure is None or not isinstance(events[-1].event, Failed):
            return list(events)
        return [*events[:-1], replace(events[-1], event=failure)]


class ChatFrames:
    """Decodes the service's event stream, as `providers.wire.Decoder` has it, and keeps what it told of the end."""

    def __init__(self) -> None:
        self.told = Told()
        self._sse = sse.Decoder(errors="strict")
        self._progress = Progress(resumable=False)

    @property
    def over(self) -> bool:
        return self._progress.ended

    def feed(self, data: bytes) -> Iterator[Event]:
        try:
            for found in self._events(data):
                if self.over:
                    return
                frame = frame_of(found)
                if not self._progress.take(found.id, frame[0]):
                    continue
                event = self.told.event(event_of(frame))
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
            raise ResponseTooLargeError(f"the service sent more than is read: {error}") from None

    def flush(self) -> Iterator[Event]:
        raise TruncatedStream("the stream ended before the service said how the answer did")


class Completion:
    """Decodes a completion as the OpenAI adapter does, and keeps the bill that the service sends beside the usage."""

    def __init__(self) -> None:
        self.told = Told()
        self._sse = sse.Decoder()
        self._decoder = chat_completions_wire.decoder(shows_thinking=True)

    @property
    def over(self) -> bool:
        return self._decoder.over

    def feed(self, data: bytes) -> Iterator[Event]:
        for found in self._events(data):
            # Inside of a text its quotation marks are escaped: no answer can say these.
            if '"streamgauge"' in found.data or '"error"' in found.data:
                self.told.read(found.data)
        yield from self._decoder.feed(data)

    def _events(self, data: bytes) -> list[sse.ServerSentEvent]:
        try:
            return self._sse.feed(data)
        except sse.EventTooLargeError as error:
            return error.events  # the decoder below says the same

    def flush(self) -> Iterator[Event]:
        yield from self._decoder.flush()


@dataclass(frozen=True, slots=True)
class Arrived:
    """An answer as it came over a wire: stamps with no source, whose last event is its ending."""

    stamps: rows.Stamps
    told: Told
    instrument: dict[str, Any] = field(default_factory=dict)


def receipt(provider: str, request: ChatRequest, arrived: Arrived, rates: Rates) -> Receipt:
    """Give what an answer came to, as the service told it; tokens that it did not tell of are counted here.

    The cost is that of those tokens at the asker's prices, so that all transports of a run are priced alike.
    """
    events, bill = arrived.stamps.delivered, arrived.told.bill
    meter = Meter(request.messages, arrived.stamps.sent_s, rates)
    for timed in events:
        meter.feed(timed.event, timed.at_s)
    end_s, terminal = events[-1].at_s, events[-1].event
    meter.end(end_s)
    reading = meter.read(end_s)
    if bill is not None and bill.usage is not None:
        cost = rates.price(bill.usage) if rates.price else None
        reading = replace(reading, usage=bill.usage, cost=cost)
    assert isinstance(terminal, (Finish, Failed))
    finish = terminal if isinstance(terminal, Finish) else None
    return Receipt(
        outcome="cancelled" if terminal is _CANCELLED else outcome_of(terminal, has_text=bool(meter.text.strip())),
        finish_reason=finish.reason if finish else None,
        finish_raw=finish.raw if finish else None,
        error=terminal if isinstance(terminal, Failed) else None,
        served_by=provider,
        attempts=(bill.attempts if bill else None) or 1,
        fell_back_to=_fell_back_to(events),
        delivered_chars=sum(len(timed.event.text) for timed in events if isinstance(timed.event, TextDelta)),
        reading=reading,
        stop_s=None,
    )


def ending(found: Receipt, told: Told) -> dict[str, Any]:
    """Give the columns of how it ended; the service's own cost where the asker knows no price."""
    columns = rows.ending(found)
    cost_usd = told.bill.cost_usd if told.bill else None
    if "token_source" in columns and columns.get("cost_usd") is None and cost_usd is not None:
        columns |= {"cost_usd": Decimal(str(cost_usd)), "cost_source": "listed", "price_source": "the service"}
    return columns


def _fell_back_to(events: Sequence[Timed]) -> str | None:
    notices = [timed.event for timed in events if isinstance(timed.event, Notice)]
    return next((str(notice.detail["to"]) for notice in reversed(notices) if notice.kind == "fallback"), None)
