"""What an answer says to a program, and how the wires' frames say it: pure.

Order: any of `Stage`, `TextDelta`, `ThinkingDelta`, `Usage` and `Notice`, then exactly one of `Finished`, `Broken` and
`Cancelled`, last.
"""

from dataclasses import dataclass
from typing import Any

from clients.errors import WireError
from streaming.events import Notice, TextDelta, ThinkingDelta, Usage

Frame = tuple[str, dict[str, Any]]
"""A frame's name (`chunk` for text) and its fields, the same on every wire."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the answer is: connecting, waiting, thinking, generating, …"""

    stage: str


@dataclass(frozen=True, slots=True)
class Bill:
    """What an answer came to. None is unknown; `provider` is who served it, `attempts` how many were needed."""

    usage: Usage | None
    cost_usd: float | None
    provider: str | None
    attempts: int | None
    delivered_chars: int | None
    dropped_settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider ended the answer: stop, length, content_filter, …

    `outcome` is completed, empty, refused or filtered, None from a service that does not say; `message` says why it is
    no success.
    """

    reason: str
    bill: Bill
    outcome: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """The answer broke; what came of it stands. `upstream_status` is the provider's, None if it gave none."""

    kind: str
    message: str
    upstream_status: int | None
    bill: Bill


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The answer was stopped on request. `stop_s` is how long the provider took to stop."""

    bill: Bill
    stop_s: float | None


End = Finished | Broken | Cancelled
Event = Stage | TextDelta | ThinkingDelta | Usage | Notice | End
ENDS = frozenset({"finish", "error", "cancelled"})
"""The frames that say how an answer ended."""
LAST = frozenset({"done", "error", "cancelled"})
"""Nothing comes after one of these."""


def event_of(frame: Frame) -> Event | None:
    """Give the event that a frame says; None for one without any, newer ones of the service among them.

    Raises WireError when a field that the frame must have is missing.
    """
    name, fields = frame
    try:
        return _end(name, fields) if name in ENDS else _event(name, fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise WireError(f"the service sent a {name!r} that cannot be read: {error}") from None


def _event(name: str, fields: dict[str, Any]) -> Event | None:
    match name:
        case "chunk":
            return TextDelta(fields["content"])
        case "thinking":
            return ThinkingDelta(fields["content"])
        case "stage":
            return Stage(fields["stage"])
        case "usage":
            return _usage(fields)
        case "retry" | "fallback" | "notice":
            rest = {key: value for key, value in fields.items() if key not in ("kind", "message")}
            return Notice(fields["kind"], fields["message"], rest)
    return None


def _end(name: str, fields: dict[str, Any]) -> End:
    bill = _bill(fields)
    if name == "finish":
        return Finished(fields["finish_reason"], bill, fields.get("outcome"), fields.get("message"))
    if name == "cancelled":
        return Cancelled(bill, fields["stop_s"])
    error = fields["error"]
    return Broken(error["type"], error["message"], error["upstream_status"], bill)


def _usage(fields: dict[str, Any]) -> Usage:
    return Usage(
        input_tokens=fields["input_tokens"],
        output_tokens=fields["output_tokens"],
        thinking_tokens=fields["thinking_tokens"],
        cached_tokens=fields["cached_tokens"],
        source=fields["source"],
        cache_write_tokens=fields.get("cache_write_tokens"),
    )


def _bill(fields: dict[str, Any]) -> Bill:
    usage = fields["usage"]
    return Bill(
        usage=None if usage is None else _usage(usage),
        cost_usd=fields["cost_usd"],
        provider=fields["provider"],
        attempts=fields["attempts"],
        delivered_chars=fields["delivered_chars"],
        dropped_settings=tuple(fields.get("dropped_settings") or ()),
    )
