"""The events of an answer in the clients, and their parser. Does no I/O.

An answer consists of any number of `StageChanged`, `TextDelta`, `ThinkingDelta`, `Usage` and `Notice`, followed by
exactly one `AnswerFinished`, `AnswerFailed` or `AnswerCancelled`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clients.errors import InvalidResponseError
from streaming.events import Notice, TextDelta, ThinkingDelta, Usage
from streaming.origin import ResponseOrigin

WireEvent = tuple[str, dict[str, Any]]
"""The name of an event (`chunk` for text) and its JSON fields, the same over SSE and WebSocket."""


@dataclass(frozen=True, slots=True)
class StageChanged:
    """The answer has entered a stage: connecting, waiting, thinking, generating or another."""

    stage: str


@dataclass(frozen=True, slots=True)
class AnswerReceipt:
    """Tokens, cost and provider of an answer. None is unknown; `attempts` is the number of requests it needed."""

    usage: Usage | None
    cost_usd: float | None
    provider: str | None
    attempts: int | None
    delivered_chars: int | None
    dropped_settings: tuple[str, ...] = ()
    answered_by: ResponseOrigin | None = None
    """Who produced the answer, in the provider's own words."""
    server_timings: Mapping[str, float] = field(default_factory=dict)
    """The provider's own timings in seconds; `streaming.origin.SERVER_TIMINGS` has their names."""


@dataclass(frozen=True, slots=True)
class AnswerFinished:
    """The provider ended the answer; `reason` is stop, length, content_filter or another.

    `outcome` is completed, empty, refused or filtered; None from an older service. `message` explains an end that is no
    success.
    """

    reason: str
    bill: AnswerReceipt
    outcome: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerFailed:
    """The answer failed; text received before is valid. `upstream_status` is the provider's HTTP status, if known."""

    kind: str
    message: str
    upstream_status: int | None
    bill: AnswerReceipt


@dataclass(frozen=True, slots=True)
class AnswerCancelled:
    """The answer was stopped on request. `stop_s` is how long the provider took to stop."""

    bill: AnswerReceipt
    stop_s: float | None


TerminalEvent = AnswerFinished | AnswerFailed | AnswerCancelled
Event = StageChanged | TextDelta | ThinkingDelta | Usage | Notice | TerminalEvent
OUTCOME_EVENTS = frozenset({"finish", "error", "cancelled"})
"""The names of the events with the outcome of an answer."""
TERMINAL_EVENTS = frozenset({"done", "error", "cancelled"})
"""The names of the events that end a stream."""


def parse_event(frame: WireEvent) -> Event | None:
    """Return the parsed event; None for names without one, including those of newer services.

    Raises InvalidResponseError when a required field is missing.
    """
    name, fields = frame
    try:
        return _parse_end(name, fields) if name in OUTCOME_EVENTS else _parse_event(name, fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidResponseError(f"event {name!r}: invalid ({error})") from None


def _parse_event(name: str, fields: dict[str, Any]) -> Event | None:
    match name:
        case "chunk":
            return TextDelta(fields["content"])
        case "thinking":
            return ThinkingDelta(fields["content"])
        case "stage":
            return StageChanged(fields["stage"])
        case "usage":
            return _parse_usage(fields)
        case "retry" | "fallback" | "notice":
            rest = {key: value for key, value in fields.items() if key not in ("kind", "message")}
            return Notice(fields["kind"], fields["message"], rest)
    return None


def _parse_end(name: str, fields: dict[str, Any]) -> TerminalEvent:
    bill = _parse_receipt(fields)
    if name == "finish":
        return AnswerFinished(fields["finish_reason"], bill, fields.get("outcome"), fields.get("message"))
    if name == "cancelled":
        return AnswerCancelled(bill, fields["stop_s"])
    error = fields["error"]
    return AnswerFailed(error["type"], error["message"], error["upstream_status"], bill)


def _parse_usage(fields: dict[str, Any]) -> Usage:
    return Usage(
        input_tokens=fields["input_tokens"],
        output_tokens=fields["output_tokens"],
        thinking_tokens=fields["thinking_tokens"],
        cached_tokens=fields["cached_tokens"],
        source=fields["source"],
        cache_write_tokens=fields.get("cache_write_tokens"),
    )


def _parse_origin(fields: dict[str, Any] | None) -> ResponseOrigin | None:
    if fields is None:
        return None
    return ResponseOrigin(**{name: fields.get(name) for name in ResponseOrigin.__dataclass_fields__})


def _parse_receipt(fields: dict[str, Any]) -> AnswerReceipt:
    usage = fields["usage"]
    return AnswerReceipt(
        usage=None if usage is None else _parse_usage(usage),
        cost_usd=fields["cost_usd"],
        provider=fields["provider"],
        attempts=fields["attempts"],
        delivered_chars=fields["delivered_chars"],
        dropped_settings=tuple(fields.get("dropped_settings") or ()),
        answered_by=_parse_origin(fields.get("answered_by")),
        server_timings=fields.get("server_timings") or {},
    )
