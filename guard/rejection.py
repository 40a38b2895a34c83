"""The exception with which the guard rejects a request, and the HTTP status of each kind of rejection."""

from typing import Literal

from streaming.errors import StreamgaugeError

RejectionKind = Literal[
    "rate_limited",
    "unauthorized",
    "invalid",
    "blocked",
    "budget",
    "too_large",
    "head_too_large",
    "timeout",
    "misdirected",
    "unpriced",
    "model_not_found",
]

HTTP_STATUS: dict[RejectionKind, int] = {
    "rate_limited": 429,
    "unauthorized": 401,
    "invalid": 400,
    "blocked": 403,
    "budget": 429,
    "too_large": 413,
    "unpriced": 403,
    "model_not_found": 404,
    "head_too_large": 431,
    "timeout": 408,
    "misdirected": 421,
}


class RejectionError(StreamgaugeError):
    """The rejection of a request. The message is a single line that explains how to resolve it.

    `rule` names the rule that was violated ("rate", "auth", "validation.length", "content.weapons", "budget.tokens"
    and so on). `retry_after_s` is the whole number of seconds after which a retry may succeed, or None if unknown.
    """

    def __init__(self, rule: str, kind: RejectionKind, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.kind: RejectionKind = kind
        self.status = HTTP_STATUS[kind]
        self.message = message
        self.retry_after_s = retry_after_s
