"""A trace: one recorded stream as JSON lines, with a header line and then the timed events.

    {"trace": 1, "provider": "sim", "model": "steady", …}
    {"at_s": 0.2, "type": "text", "text": "Hello"}

`at_s` is the time in seconds since the request was sent. If a crash cut the trace, it is read up to the last complete
line.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any, get_args

from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.events import (
    TERMINAL,
    Event,
    Failed,
    Finish,
    FinishReason,
    Notice,
    TextDelta,
    ThinkingDelta,
    TimedEvent,
    TokenSource,
    Usage,
)

VERSION = 1
MAX_TIME_S = 1_000_000
"""The largest `at_s` that a trace may have; no answer takes longer."""
_MAX_TOKENS = 10**12
_EVENT_BY_NAME: dict[str, type[Event]] = {
    "text": TextDelta,
    "thinking": ThinkingDelta,
    "usage": Usage,
    "notice": Notice,
    "finish": Finish,
    "failed": Failed,
}
_LATER_FIELDS = {
    "cache_write_tokens": None, "cache_write_1h_tokens": None, "billed_usd": None, "is_lower_bound": False,
    "refused": False,
}  # fmt: skip
_NAME_BY_EVENT = {cls: name for name, cls in _EVENT_BY_NAME.items()}


@dataclass(frozen=True, slots=True)
class Trace:
    """A header (free fields that describe the source of the stream) and its events in order of time."""

    header: Mapping[str, Any]
    events: tuple[TimedEvent, ...]


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return an event as JSON-ready fields with its `type`; fields that older traces lack are left out unless set."""
    fields = asdict(event)
    for name, default in _LATER_FIELDS.items():
        if fields.get(name, default) == default:
            fields.pop(name, None)
    if "billed_usd" in fields:
        fields["billed_usd"] = str(fields["billed_usd"])
    return {"type": _NAME_BY_EVENT[type(event)], **fields}


def dumps(header: Mapping[str, Any], events: Iterable[TimedEvent]) -> str:
    """Return a trace as text, with one line for the header and one for each event."""
    lines = [json.dumps({"trace": VERSION, **header})]
    lines += (json.dumps({"at_s": round(timed.at_s, 9), **event_to_dict(timed.event)}) for timed in events)
    return "\n".join(lines) + "\n"


def loads(text: str, name: str = "trace") -> Trace:
    """Parse a trace. An unfinished last line is ignored. Raises UsageError, which names the invalid line."""
    lines = text.split("\n")
    header = parse_json_object(lines[0], f"{name}, line 1")
    if header.pop("trace", None) != VERSION:
        raise UsageError(f'{name}, line 1: not a trace (its first line starts with {{"trace": {VERSION}}})')
    events: list[TimedEvent] = []
    for number, line in enumerate(lines[1:-1], start=2):
        if not line.strip():
            continue
        if events and isinstance(events[-1].event, TERMINAL):
            raise UsageError(f"{name}, line {number}: an event after the end of the answer")
        events.append(_parse_timed_event(line, f"{name}, line {number}", events[-1].at_s if events else 0.0))
    return Trace(header, tuple(events))


def parse_json_object(line: str, where: str) -> dict[str, Any]:
    """Parse one line of a journal or trace; `where` names the line in the error. Raises UsageError."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise UsageError(f"{where}: not a JSON object")
    return data


def _parse_timed_event(line: str, where: str, earliest_s: float) -> TimedEvent:
    fields = parse_json_object(line, where)
    kind, at_s = fields.pop("type", None), fields.pop("at_s", None)
    if not isinstance(kind, str) or kind not in _EVENT_BY_NAME:
        raise UsageError(f"{where}: type {kind!r} is unknown (use one of {', '.join(_EVENT_BY_NAME)})")
    if not isinstance(at_s, (int, float)) or isinstance(at_s, bool) or not earliest_s <= at_s <= MAX_TIME_S:
        raise UsageError(
            f"{where}: at_s is invalid (write seconds, not less than in the line above, at most {MAX_TIME_S:,})"
        )
    cls = _EVENT_BY_NAME[kind]
    if cls in (TextDelta, ThinkingDelta) and not (isinstance(fields.get("text"), str) and fields["text"]):
        raise UsageError(f"{where}: text is missing or empty (write a non-empty string)")
    try:
        event = cls(**fields)
    except TypeError as error:
        raise UsageError(f"{where}: {str(error).replace('__init__()', kind)}") from None
    check_fields(fields, where)
    if isinstance(event, Usage) and event.billed_usd is not None:
        event = replace(event, billed_usd=Decimal(event.billed_usd))
    return TimedEvent(float(at_s), event)


def check_fields(fields: Mapping[str, Any], where: str) -> None:
    """Raise UsageError if a field of an event, or of the usage in a header, has an invalid value."""
    for name, allowed in _FIELD_CHECKS.items():
        if name in fields and not allowed(fields[name]):
            raise UsageError(f"{where}: {name} cannot be {repr(fields[name])[:40]}")


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS)


def _is_amount(value: object) -> bool:
    return value is None or (
        isinstance(value, str) and re.fullmatch(r"\d{1,12}(\.\d{1,20})?(E-\d{1,2})?", value) is not None
    )


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


_FIELD_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "input_tokens": _is_count,
    "output_tokens": _is_count,
    "thinking_tokens": _is_count,
    "cached_tokens": _is_count,
    "cache_write_tokens": _is_count,
    "cache_write_1h_tokens": _is_count,
    "billed_usd": _is_amount,
    "is_lower_bound": lambda value: isinstance(value, bool),
    "refused": lambda value: isinstance(value, bool),
    "http_status": _is_count,
    "source": lambda value: value in get_args(TokenSource),
    "reason": lambda value: value in get_args(FinishReason),
    "kind": lambda value: isinstance(value, str),
    "message": lambda value: isinstance(value, str),
    "detail": lambda value: isinstance(value, dict),
    "raw": _is_text,
}
"""Checks for the fields of events; `text` is checked together with the event's type."""


class Probe:
    """A recorder of the source and delivered timestamps of one answer, in seconds on `clock`, in order.

    `called_s` is the timestamp of the call.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.called_s = clock()
        self.source: list[TimedEvent] = []
        self.delivered: list[TimedEvent] = []

    def on_source(self, event: Event) -> None:
        """Record an event that arrived from the provider, with its source timestamp."""
        self.source.append(TimedEvent(self._clock(), event))

    def on_delivered(self, event: Event) -> None:
        """Record an event that left the strategy, with its delivered timestamp."""
        self.delivered.append(TimedEvent(self._clock(), event))
