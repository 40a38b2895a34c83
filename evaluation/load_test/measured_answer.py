"""A recorded answer of a load test as what its metrics are computed from.

Only the standard library is used, since a running test computes metrics too.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from evaluation.metrics.trial_metrics import MeasuredAnswer, TimedEvents
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, TimedEvent, Usage

_TOKEN_FIELDS = ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens")
_COPIED_FIELDS = (
    "trial_id", "strategy", "transport", "outcome", "finish_reason", "error_type", "error_message", "http_status",
    "started_at", "attempts", "fell_back_to", "merged_reads", "stamp_source",
)  # fmt: skip


def measured_answer(answer: Mapping[str, Any]) -> MeasuredAnswer:
    """Return a line of `answers.jsonl`, which must be valid, as an answer that metrics are computed from."""
    sent_s = answer["sent_s"]
    timed = [
        TimedEvent(at_s, _make_event(kind, chars, tokens, answer)) for at_s, kind, chars, tokens in answer["events"]
    ]
    stamps = TimedEvents(answer["asked_s"] if sent_s is None else sent_s, None, timed, sent=sent_s is not None)
    reported = {
        "headers_s": _elapsed_s(sent_s, answer["headers_s"]),
        "connect_s": _elapsed_s(0.0, answer["connect_s"]),
        **{name: answer.get(name) for name in ("finish_raw", "peer_address", "context_tokens")},
        **{name: answer[name] for name in _COPIED_FIELDS},
        **_usage_columns(answer),
    }
    return MeasuredAnswer(stamps, answer["outcome"], _answer_usage(answer), reported, answer["asked_s"])


def _make_event(kind: str, chars: int | None, tokens: int | None, answer: Mapping[str, Any]) -> Event:
    """Rebuild an event. Only the length of its text was recorded, which is all that the metrics need."""
    if kind == "text":
        return TextDelta("·" * (chars or 0))
    if kind == "thinking":
        return ThinkingDelta("·" * (chars or 0))
    if kind == "usage":
        return Usage(output_tokens=tokens)
    if kind == "notice":
        return Notice("retry", "")
    if kind == "finish":
        return Finish(answer["finish_reason"] or "other")
    return Failed(answer["error_type"] or "error", answer["error_message"] or "")


def _answer_usage(answer: Mapping[str, Any]) -> Usage:
    usage = answer["usage"]
    return Usage(**{name: usage.get(name) for name in _TOKEN_FIELDS}, source=usage.get("source") or "reported")


def _usage_columns(answer: Mapping[str, Any]) -> dict[str, Any]:
    usage = answer["usage"]
    cost = answer["cost_usd"]
    known = any(usage.get(name) is not None for name in _TOKEN_FIELDS)
    return {
        **{name: usage.get(name) for name in _TOKEN_FIELDS},
        "token_source": usage.get("source") if known else None,
        "cost_usd": None if cost is None else Decimal(str(cost)),
    }


def _elapsed_s(from_s: float | None, to_s: float | None) -> float | None:
    return None if from_s is None or to_s is None else round(to_s - from_s, 9)
