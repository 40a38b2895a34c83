"""What a client raises, beside what it was told in an answer's last event.

ClientError
├── Refused            the service would not take the request; it says by which rule
├── StreamGoneError    the stream to go on with is no longer kept: it expired, or the service was restarted
├── ConnectionLost     the answer's end is not known: it may not be taken for a finished one
├── WireError          what came is not the service's wire: a proxy's page, another program
└── AnswerBroken       given to `on_error` when an answer's last event is `AnswerFailed`; never raised
"""

import json
from typing import Any

from streaming.errors import StreamgaugeError


class ClientError(StreamgaugeError):
    """All errors of the clients; the message is one line for a person."""


class RequestRejectedError(ClientError):
    """The service would not take the request.

    `status` is HTTP's, None where a frame said it; `rule` names the rule that refused, and `retry_after_s` is how long
    to wait before asking again: None where the service named none.
    """

    def __init__(
        self, message: str, *, kind: str, status: int | None, rule: str | None, retry_after_s: float | None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.rule = rule
        self.retry_after_s = retry_after_s


class StreamGoneError(ClientError):
    """The stream to go on with is gone: it has expired, or the service was restarted; what was received is kept."""

    kind = "stream_gone"
    """What the rows of an evaluation or a load test call it."""

    def __init__(self, stream_id: str, said: str) -> None:
        super().__init__(
            f"the stream is gone: it has expired, or the service was restarted ({said}); what was received is kept "
            "(ask again for a new answer)"
        )
        self.stream_id = stream_id


class ConnectionLostError(ClientError):
    """The connection could not be had, or broke, and was not, or could not be, made good."""


class InvalidResponseError(ClientError):
    """What came is not the service's wire."""


class AnswerFailedError(ClientError):
    """The service said that the answer broke."""


def rejection_from_fields(
    fields: Any, *, status: int | None = None, retry_after: str | None = None
) -> RequestRejectedError:
    """Give the error that a refusal's JSON says; `retry_after` is HTTP's header, in seconds."""
    found = fields.get("error") if isinstance(fields, dict) else None
    error: dict[str, Any] = found if isinstance(found, dict) else {}
    wait_s = error.get("retry_after_s")
    if wait_s is None and retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        wait_s = float(retry_after)
    return RequestRejectedError(
        error.get("message") or f"the service refused with HTTP {status}",
        kind=error.get("type") or "refused",
        status=status,
        rule=error.get("rule"),
        retry_after_s=wait_s,
    )


def resume_error(refusal: RequestRejectedError, stream_id: str | None) -> ClientError:
    """Return what a refusal means to who goes on with a stream: it is gone, where the service knows no such stream."""
    if stream_id is None or refusal.kind != "not_found":
        return refusal
    return StreamGoneError(stream_id, str(refusal))


def rejection_from_response(status: int, body: bytes, retry_after: str | None) -> RequestRejectedError:
    """Give the error of an HTTP refusal, whoever on the way said it."""
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    return rejection_from_fields(fields, status=status, retry_after=retry_after)
