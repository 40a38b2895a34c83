"""What the metrics of one answer are computed from: its events with timestamps at both ends, and its receipt.

A trial that a client received from the service was timed at the reader's end: its events are `delivered`, and the
metrics of arrival are computed from them. The source, and with it the delay, is known if the service recorded it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evaluation.metrics import cadence as metrics_cadence
from evaluation.metrics import experience
from streaming.events import Event, Notice, TimedEvent, Usage, dropped_settings_of, notices_of

if TYPE_CHECKING:
    from streaming.pipeline import Outcome, Receipt  # not at run time: load tests must not import asyncio


@dataclass(frozen=True, slots=True)
class TimedEvents:
    """An answer's events at both ends in chronological order, and the send timestamp, all on one clock.

    `source` is None if the answer came over a transport of the service whose own timestamps are not known. `painted` is
    the text of each frame that a browser presented, None if no browser read the answer. If the request was never sent
    (`sent` is False), `sent_s` is the time at which the trial started. `timed_at_client`: a client of the service took
    the timestamps of `delivered`, and those of `source` are the service's own.
    """

    sent_s: float
    source: Sequence[TimedEvent] | None
    delivered: Sequence[TimedEvent]
    sent: bool = True
    painted: Sequence[TimedEvent] | None = None
    timed_at_client: bool = False

    @property
    def first_end(self) -> Sequence[TimedEvent]:
        """The events that the metrics of arrival are computed from: the source events.

        Without a source, and at a client of the service, they are the delivered ones.
        """
        return self.delivered if self.source is None or self.timed_at_client else self.source


@dataclass(frozen=True)
class MeasuredAnswer:
    """Everything that the metrics of one answer are computed from.

    `reported` has the values that the backend or the provider reported, by column (`connect_s`, `attempts`,
    `cost_usd`, …). `intended_s` is the time at which the request was due, on the clock of the timestamps.
    """

    stamps: TimedEvents
    outcome: "Outcome"
    usage: Usage = field(default_factory=Usage)
    reported: Mapping[str, Any] = field(default_factory=dict)
    intended_s: float | None = None
    deadlines: experience.TokenDeadlines = field(default_factory=experience.TokenDeadlines)
    reader: experience.ReaderModel = field(default_factory=experience.ReaderModel)

    @property
    def sent_s(self) -> float | None:
        """The timestamp at which the request was sent; None if it never was."""
        return self.stamps.sent_s if self.stamps.sent else None

    @property
    def connect_ahead_s(self) -> float | None:
        """The part of `connect_s` that was before the planned start; None if no connection was opened."""
        connect_s: float | None = self.reported.get("connect_s")
        connected_s: float | None = self.reported.get("connected_s")
        if connect_s is None or connected_s is None or self.intended_s is None:
            return None
        return min(max(self.intended_s - (connected_s - connect_s), 0.0), connect_s)

    @cached_property
    def arrived(self) -> metrics_cadence.Chunks:
        """The text as it arrived: from the provider, or at a client of the service."""
        return metrics_cadence.Chunks.from_events(self.stamps.first_end, self.stamps.sent_s)

    @cached_property
    def source(self) -> metrics_cadence.Chunks:
        """The text as it arrived from the provider; nothing if that is not known."""
        if self.stamps.source is self.stamps.first_end:
            return self.arrived
        return metrics_cadence.Chunks.from_events(self.stamps.source or (), self.stamps.sent_s)

    @cached_property
    def delivered(self) -> metrics_cadence.Chunks:
        """The text as it left the strategy."""
        return metrics_cadence.Chunks.from_events(self.stamps.delivered, self.stamps.sent_s)

    @cached_property
    def cadence(self) -> metrics_cadence.Cadence:
        """The inter-chunk latency on arrival."""
        return metrics_cadence.cadence(self.arrived.gaps_s)

    @cached_property
    def stalls(self) -> tuple[int, float] | tuple[None, None]:
        """The number of stalls on arrival, and their excess in seconds."""
        return metrics_cadence.stalls(self.arrived.gaps_s)

    @cached_property
    def delay(self) -> experience.Delay:
        """The delay added by the strategy; unknown if only one end was seen or a filter changed the text."""
        if self.stamps.source is None or (
            self.outcome == "completed" and sum(self.source.chars) != sum(self.delivered.chars)
        ):
            return experience.Delay()
        return experience.delivery_delay(self.source, self.delivered)

    @cached_property
    def painted(self) -> metrics_cadence.Chunks:
        """The text as a browser painted it; nothing if no browser read the answer."""
        return metrics_cadence.Chunks.from_events(self.stamps.painted or (), self.stamps.sent_s)

    @cached_property
    def paint_delay(self) -> experience.Delay:
        """The delay from leaving the strategy to being painted."""
        return self._delay_to_painted(self.stamps.delivered)

    @cached_property
    def total_delay(self) -> experience.Delay:
        """The delay from arriving from the provider to being painted."""
        return experience.Delay() if self.stamps.source is None else self._delay_to_painted(self.stamps.source)

    def _delay_to_painted(self, events: Sequence[TimedEvent]) -> experience.Delay:
        if self.stamps.painted is None:
            return experience.Delay()
        return experience.painting_delay(events, self.stamps.painted)

    @cached_property
    def answer_tokens(self) -> int | None:
        """The tokens of the answer's text; None if they are estimated or their number is unknown."""
        return metrics_cadence.answer_tokens(self.usage)

    @cached_property
    def _token_counts(self) -> list[int] | None:
        return experience.token_counts(self.delivered, self.answer_tokens)

    @property
    def fluid_pace_tps(self) -> float | None:
        """The fastest reading pace at which 99 % of the tokens were in time; see `experience.fluid_pace_tps`."""
        counts = self._token_counts
        return None if counts is None else experience.fastest_pace_tps(self.delivered.at_s, counts, self.deadlines)

    def fluidity(self, deadlines: experience.TokenDeadlines) -> float | None:
        """Return the share of token deadlines met; see `experience.fluidity`. The tokens are counted once."""
        counts = self._token_counts
        return None if counts is None else experience.deadlines_met_share(self.delivered.at_s, counts, deadlines)

    @cached_property
    def notices(self) -> list[Notice]:
        """The notices at the end nearest to the provider."""
        return notices_of(self.stamps.first_end)

    @cached_property
    def last_attempt(self) -> Sequence[TimedEvent]:
        """The events after the last retry or fallback, without the thinking of abandoned attempts."""
        events = self.stamps.first_end
        attempts = [notice for notice in self.notices if notice.kind in ("retry", "fallback")]
        if not attempts:
            return events
        return events[max(place for place, timed in enumerate(events) if timed.event is attempts[-1]) + 1 :]

    def first_event_s(self, events: Sequence[TimedEvent], kinds: tuple[type[Event], ...]) -> float | None:
        """Return the seconds from sending to the first event of these kinds; None if there is none."""
        for timed in events:
            if type(timed.event) in kinds:
                return timed.at_s - self.stamps.sent_s
        return None

    def server_timing_s(self, name: str) -> float | None:
        """Return one of the server's own timings in seconds; None if the answer has none of this name."""
        value = self._server_timings.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    @cached_property
    def _server_timings(self) -> dict[str, str | int | float]:
        timings: dict[str, str | int | float] = {}
        for notice in self.notices:
            if notice.kind == "timings":
                timings |= notice.detail
        return timings

    @property
    def dropped_settings(self) -> str | None:
        """The settings dropped from the request, separated by commas; None if none was dropped."""
        return ",".join(dropped_settings_of(self.notices)) or None


def outcome_columns(receipt: "Receipt") -> dict[str, Any]:
    """Return the columns on the end of the answer (except `outcome`), its tokens and its cost.

    The usage of a failed request is None, not 0, unless the provider reported it.
    """
    columns: dict[str, Any] = {
        "finish_reason": receipt.finish_reason,
        "finish_raw": receipt.finish_raw,
        "attempts": receipt.attempts,
        "fell_back_to": receipt.fell_back_to,
    }
    if receipt.error is not None:
        error = receipt.error
        columns |= {"error_type": error.kind, "error_message": error.message, "http_status": error.http_status}
    columns |= origin_columns(receipt)
    usage, cost = receipt.reading.usage, receipt.reading.cost
    if receipt.outcome == "failed" and usage.source != "reported" and not usage.output_tokens:
        return columns
    columns |= {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "thinking_tokens": usage.thinking_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "token_source": usage.source,
    }
    if cost is not None:
        columns |= {"input_cost_usd": cost.input_usd, "output_cost_usd": cost.output_usd, "cost_usd": cost.total_usd}
        columns |= {"cost_source": cost.source, "list_cost_usd": cost.list_usd}
        columns |= {"price_source": cost.price_source, "price_date": cost.price_date}
    return columns


def origin_columns(receipt: "Receipt") -> dict[str, Any]:
    """Return the columns on who answered; none when the provider said nothing of it."""
    if (origin := receipt.origin) is None:
        return {}
    return {
        "model_served": origin.model,
        "provider_served": origin.upstream,
        "service_tier": origin.service_tier,
        "fingerprint": origin.fingerprint,
        "upstream_request_id": origin.request_id,
    }
