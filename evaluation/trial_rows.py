"""The rows of one measured answer: its trial, with every metric of the registry, and its events."""

from collections.abc import Iterator
from typing import Any

from evaluation.metrics import compute_metrics
from evaluation.metrics.trial_metrics import MeasuredAnswer, TimedEvents, dropped_settings
from evaluation.schema import FACTS, EventRow, Trial
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Usage

_KIND_BY_EVENT: dict[type[Event], str] = {
    TextDelta: "text", ThinkingDelta: "thinking", Usage: "usage", Notice: "notice", Finish: "finish", Failed: "failed",
}  # fmt: skip


def build_trial(answer: MeasuredAnswer, **facts: Any) -> Trial:
    """Return the row of an answer; `facts` are the columns that are no metrics and that the answer does not report."""
    result = {name: value for name, value in answer.reported.items() if name in FACTS}
    result |= {"outcome": answer.outcome, "dropped_settings": dropped_settings(answer.stamps)}
    if answer.sent_s is not None:
        result["sent_monotonic_s"] = round(answer.sent_s, 9)
    if answer.intended_s is not None:
        result["intended_start_s"] = round(answer.intended_s, 9)
    return Trial(**result | facts | compute_metrics(answer))


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
