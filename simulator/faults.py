"""The table of simulated faults by name. `format_table()` renders it for `--help`.

A fault of scope `any` affects every request. A fault of scope `stream` affects only streamed answers, so that a
fallback to a non-streamed request can succeed, unless `-always` is appended to the name of a fault that supports it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from streaming.errors import UsageError

Scope = Literal["any", "stream"]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A row of the fault table. A fault with a `status` returns an error response in the vendor's format.

    `number` is the unit of a trailing `-N`, and `default` is its value if omitted; None means that the fault takes no
    number.
    """

    name: str
    scope: Scope
    description: str
    status: int | None = None
    number: str | None = None
    default: float | None = None
    always: bool = False
    code: str | None = None
    words: str | None = None
    """The vendor's code and message for an error response, instead of those that follow from the status."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A requested fault: its kind, its number, and whether it also affects non-streamed answers."""

    kind: FaultKind
    number: float | None = None
    always: bool = False

    @property
    def name(self) -> str:
        return self.kind.name

    def applies_to(self, streamed: bool) -> bool:
        """Return whether the fault affects a request."""
        return streamed or self.always or self.kind.scope == "any"


def _rejection(name: str, status: int, code: str, words: str) -> FaultKind:
    return FaultKind(name, "any", f"status {status}, {code}: {words[:40]}…", status, code=code, words=words)


_REJECTIONS = (
    _rejection("no-credit", 402, "billing_error", "Insufficient balance: add credits to your account."),
    _rejection(
        "quota-used-up",
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    _rejection("bad-key", 400, "invalid_request_error", "Incorrect API key provided: it is not valid."),
    _rejection(
        "model-gone",
        400,
        "model_decommissioned",
        "The model has been decommissioned and is no longer supported.",
    ),
    _rejection("flagged", 403, "content_policy_violation", "The prompt was flagged by moderation."),
    _rejection(
        "over-token-limit",
        413,
        "rate_limit_exceeded",
        "Request too large for the model on tokens per minute: reduce its size.",
    ),
    _rejection("at-capacity", 498, "capacity_exceeded", "The flex tier is at capacity: try again later."),
)
"""Rejections whose meaning is in the vendor's code and message, not in the status."""


def _status_fault(status: int, does: str = "") -> FaultKind:
    return FaultKind(str(status), "any", does or f"status {status}", status)


FAULTS: Mapping[str, FaultKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            *(_status_fault(status) for status in (400, 401, 403, 404, 408, 409, 422)),
            _status_fault(429, "status 429 with no Retry-After"),
            FaultKind("429-retry-after", "any", "status 429 with Retry-After: N (1)", 429, "seconds", 1),
            FaultKind("500-once", "any", "status 500 to the first attempt of a request, the next succeeds", 500),
            FaultKind("503-once", "any", "status 503 to the first attempt of a request, the next succeeds", 503),
            _status_fault(503, "status 503, always"),
            _status_fault(529, "status 529, overloaded"),
            *_REJECTIONS,
            FaultKind("reset-before-headers", "any", "the connection is reset (RST) instead of a response"),
            FaultKind("no-response", "any", "the request is read and gets no response"),
            FaultKind(
                "slow-first-token", "any", "the first token after N seconds (5), then as planned", None, "seconds", 5
            ),
            FaultKind("empty-200", "any", "status 200 with an empty body"),
            FaultKind("html-200", "any", "status 200 with an HTML page"),
            FaultKind("wrong-content-type", "any", "the regular answer, labelled text/html"),
            FaultKind("redirect", "any", "status 307 to /redirected/… here, which responds and is logged"),
            FaultKind("keepalive-only", "stream", "comments (pings, blank lines) every 0.5 s, nothing else, forever"),
            FaultKind("stall", "stream", "half the answer, then silence forever", always=True),
            FaultKind("cut", "stream", "half the answer, then the connection closes mid-body", always=True),
            FaultKind("reset-mid-stream", "stream", "half the answer, then the connection is reset", always=True),
            FaultKind("truncated", "stream", "half the answer, then a clean end with no finish reason or end marker"),
            FaultKind("error-in-stream", "stream", "half the answer, then the vendor's own error event"),
            FaultKind("malformed-json", "stream", "half-way one event that is not JSON, the rest follows", always=True),
            FaultKind("bad-utf8", "stream", "half-way one event with the bytes FF FE, the rest follows", always=True),
            FaultKind("split-surrogate", "stream", r"half-way an emoji as \ud83c in one event and \udf0d in the next"),
            FaultKind("big-event", "stream", "half-way one event of N million characters (3)", None, "millions", 3),
            FaultKind(
                "missing-end-marker",
                "stream",
                "the finish reason, then a clean end without [DONE] or message_stop (Ollama, whose marker is "
                "done: true: done_reason beside done: false)",
            ),
            FaultKind("doubled-finish", "stream", "the event with the finish reason twice"),
            FaultKind("text-after-end", "stream", "two more tokens after the end marker"),
        )
    }
)


def parse_fault(name: str) -> Fault:
    """Parse a name such as `cut`, `cut-always` or `429-retry-after-90`. Raises UsageError for an unknown name."""
    base = name.removesuffix("-always")
    head, _, tail = base.rpartition("-")
    if base in FAULTS:
        kind, number = FAULTS[base], FAULTS[base].default
    elif head in FAULTS and FAULTS[head].number and tail.isascii() and tail.isdigit():
        kind, number = FAULTS[head], float(tail[:9])
    else:
        raise UsageError(f"fault {name!r}: unknown (use one of {', '.join(FAULTS)})")
    if base != name and not kind.always:
        raise UsageError(f"fault {base!r}: has no -always (it cannot occur in an answer that is not streamed)")
    return Fault(kind, number, base != name)


def format_table() -> str:
    """Return the fault table as text with one fault per line."""
    return "\n".join(f"  {_format_usage(kind):26} {kind.scope:7} {kind.description}" for kind in FAULTS.values())


def _format_usage(kind: FaultKind) -> str:
    if kind.number:
        return f"{kind.name}[-N]"
    return f"{kind.name}[-always]" if kind.always else kind.name
