"""Pure functions that compute a trial's columns and event rows from its timestamps and its receipt.

A metric that does not apply to the outcome is None:

- A failed trial has counts but no latencies.
- A truncated or cancelled trial has the metrics of the text received (first text, gaps, stalls, delay), but none of the
  whole answer (end-to-end latency, token rates, fluidity, QoE).
- A filtered, refused or empty trial was ended by the provider: it has an end-to-end latency, but no fluidity or QoE.

A trial over a transport of the service has timestamps at the reader's end only: its events are `delivered`. The metrics
of arrival are then computed from the delivered events, and the delay added by the service's strategy is unknown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.metrics import cadence as metrics_cadence
from evaluation.metrics import experience
from evaluation.schema import EventRow
from streaming.events import (
    TERMINAL,
    Event,
    Failed,
    Finish,
    Notice,
    TextDelta,
    ThinkingDelta,
    TimedEvent,
    Usage,
    dropped_settings_of,
)
from streaming.pipeline import ENDED_IN_ORDER, Outcome, Receipt

_KIND_BY_EVENT: dict[type[Event], str] = {
    TextDelta: "text", ThinkingDelta: "thinking", Usage: "usage", Notice: "notice", Finish: "finish", Failed: "failed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TimedEvents:
    """An answer's events at both ends in chronological order, and the send timestamp, all on one clock.

    `source` is None if the answer came over a transport of the service. If the request was never sent (`sent` is
    False), `sent_s` is the time at which the trial started.
    """

    sent_s: float
    source: Sequence[TimedEvent] | None
    delivered: Sequence[TimedEvent]
    sent: bool = True

    @property
    def first_end(self) -> Sequence[TimedEvent]:
        """The events nearest to the provider: the source events, or the delivered events if there is no source."""
        return self.delivered if self.source is None else self.source


def compute_metrics(
    timestamps: TimedEvents,
    outcome: Outcome,
    usage: Usage,
    deadlines: experience.TokenDeadlines,
    reader: experience.ReaderModel,
) -> dict[str, Any]:
    """Return the metrics that follow from timestamps and token counts, by column; a metric without data is None."""
    source = metrics_cadence.Chunks.from_events(timestamps.first_end, timestamps.sent_s)
    return arrival_metrics(timestamps, source, outcome, usage) | delivery_metrics(
        timestamps, source, outcome, usage, deadlines, reader
    )


def arrival_metrics(
    timestamps: TimedEvents, source: metrics_cadence.Chunks, outcome: Outcome, usage: Usage
) -> dict[str, Any]:
    """Return the metrics of the text as it arrived from the provider, before the strategy."""
    metrics: dict[str, Any] = {"chunks": len(source)}
    if outcome == "failed":
        return metrics
    gaps_s = source.gaps_s
    cadence = metrics_cadence.cadence(gaps_s)
    stalls, stall_s = metrics_cadence.stalls(gaps_s)
    metrics |= {
        "ttft_s": _first_event_s(_last_attempt(timestamps.first_end), (TextDelta, ThinkingDelta), timestamps.sent_s),
        "ttfot_s": _first_event_s(timestamps.first_end, (TextDelta,), timestamps.sent_s),
        "icl_p50_s": cadence.p50_s,
        "icl_p95_s": cadence.p95_s,
        "icl_p99_s": cadence.p99_s,
        "icl_max_s": cadence.max_s,
        "icl_cv": cadence.cv,
        "stalls": stalls,
        "stall_s": stall_s,
        "chars_per_s": metrics_cadence.chars_per_s(source),
    }
    if outcome in ENDED_IN_ORDER:
        tokens = metrics_cadence.answer_tokens(usage)
        metrics["e2e_s"] = _first_event_s(timestamps.first_end, TERMINAL, timestamps.sent_s)
        metrics["itl_s"] = metrics_cadence.itl_s(source, tokens)
        metrics["output_tps"] = metrics_cadence.output_tps(source, tokens)
    return _round_floats(metrics)


def delivery_metrics(
    timestamps: TimedEvents,
    source: metrics_cadence.Chunks,
    outcome: Outcome,
    usage: Usage,
    deadlines: experience.TokenDeadlines,
    reader: experience.ReaderModel,
) -> dict[str, Any]:
    """Return the metrics of the text as the strategy delivered it, delivery delay included."""
    delivered = metrics_cadence.Chunks.from_events(timestamps.delivered, timestamps.sent_s)
    metrics: dict[str, Any] = {"delivered_chunks": len(delivered)}
    if outcome == "failed":
        return metrics
    metrics["delivered_ttft_s"] = _first_event_s(timestamps.delivered, (TextDelta,), timestamps.sent_s)
    metrics["updates_per_s"] = metrics_cadence.updates_per_s(delivered)
    if timestamps.source is not None and (outcome != "completed" or sum(source.chars) == sum(delivered.chars)):
        delay = experience.delivery_delay(source, delivered)
        metrics |= {"delay_mean_s": delay.mean_s, "delay_p95_s": delay.p95_s, "delay_max_s": delay.max_s}
    if outcome in ENDED_IN_ORDER:
        metrics["delivered_e2e_s"] = _first_event_s(timestamps.delivered, TERMINAL, timestamps.sent_s)
    if outcome == "completed":
        metrics["fluidity"] = experience.fluidity(delivered, metrics_cadence.answer_tokens(usage), deadlines)
        metrics["qoe"] = experience.qoe(delivered, reader)
    return _round_floats(metrics)


def _round_floats(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in metrics.items()}


def _last_attempt(events: Sequence[TimedEvent]) -> Sequence[TimedEvent]:
    """Return the events after the last retry or fallback, without the thinking of abandoned attempts."""
    for place in range(len(events) - 1, -1, -1):
        event = events[place].event
        if isinstance(event, Notice) and event.kind in ("retry", "fallback"):
            return events[place + 1 :]
    return events


def _first_event_s(events: Sequence[TimedEvent], kinds: tuple[type[Event], ...], sent_s: float) -> float | None:
    """Return the seconds from `sent_s` to the first event of these kinds; None if there is none."""
    return next((timed.at_s - sent_s for timed in events if isinstance(timed.event, kinds)), None)


def queueing_metrics(
    sent_s: float | None, intended_s: float | None, connect_s: float | None, ttft_s: float | None
) -> dict[str, Any]:
    """Return the metrics that include the time before sending: the queueing time, and TTFT from the intended start.

    A trial in process opens no connection, so `connect_s` None counts as 0. Without an intended start there are no
    columns; if the request was never sent, there is only the intended start.

    >>> queueing_metrics(10.5, 10.1, 0.3, 0.2)["queue_s"], queueing_metrics(10.5, 10.1, 0.3, 0.2)["ttft_total_s"]
    (0.1, 0.6)
    """
    if intended_s is None:
        return {}
    intended = {"intended_start_s": round(intended_s, 9)}
    if sent_s is None:
        return intended
    late_s = sent_s - intended_s
    return intended | {
        "queue_s": round(late_s - (connect_s or 0.0), 9),
        "ttft_total_s": None if ttft_s is None else round(late_s + ttft_s, 9),
    }


def dropped_settings(timestamps: TimedEvents) -> str | None:
    """Return the settings dropped from the request, separated by commas; None if none was dropped."""
    return ",".join(dropped_settings_of(timed.event for timed in timestamps.first_end)) or None


def outcome_columns(receipt: Receipt) -> dict[str, Any]:
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


def event_rows(run_id: str, trial_id: str, timestamps: TimedEvents) -> Iterator[EventRow]:
    """Yield the events of both ends in chronological order; at equal timestamps the source event comes first."""
    source = timestamps.source or ()
    ends = [*source, *timestamps.delivered]
    arrived = len(source)
    for seq, place in enumerate(sorted(range(len(ends)), key=lambda place: ends[place].at_s)):
        event = ends[place].event
        kind, at_s = _KIND_BY_EVENT[type(event)], round(ends[place].at_s - timestamps.sent_s, 9)
        chars = len(event.text) if isinstance(event, (TextDelta, ThinkingDelta)) else None
        tokens = event.output_tokens if isinstance(event, Usage) else None
        if place < arrived:
            yield EventRow(run_id, trial_id, seq, "source_" + kind, chars, tokens, at_s, None)
        else:
            yield EventRow(run_id, trial_id, seq, "delivered_" + kind, chars, tokens, None, at_s)
