"""The errors of the clients.

ClientError
├── RequestRejectedError    the service rejected the request; `rule` names the rule
├── StreamGoneError         the stream to resume has expired, or the service was restarted
├── ConnectionLostError     the connection was lost, and the end of the answer is not known
├── InvalidResponseError    the response does not follow the protocol, for example a proxy's page
│   └── MissingEventsError  events of the stream are missing
└── AnswerFailedError       passed to `on_error` when an answer ends with `AnswerFailed`; never raised
"""

import json
from typing import Any

from streaming.errors import StreamgaugeError

UNAVAILABLE_KIND = "unavailable"
"""The kind of a rejection after which the same request may succeed a moment later."""


class ClientError(StreamgaugeError):
    """The base class of all client errors; the message is one line for a person to read."""


class RequestRejectedError(ClientError):
    """The service rejected the request.

    `status` is the HTTP status, None for a WebSocket frame. `rule` names the rule that rejected the request, and
    `retry_after_s` is how long to wait before a retry; each is None when the service did not send it.
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
    """The stream to resume has expired, or the service was restarted. Events already received remain available."""

    kind = "stream_gone"
    """The kind of this error in the rows of an evaluation or a load test."""

    def __init__(self, stream_id: str, reason: str) -> None:
        super().__init__(
            f"stream: no longer available, because it has expired or the service was restarted: {reason} (send the "
            "request again; the events received so far remain available)"
        )
        self.stream_id = stream_id


class ConnectionLostError(ClientError):
    """The connection could not be opened, or was lost and could not be restored."""


class InvalidResponseError(ClientError):
    """The response does not follow the service's protocol."""


class MissingEventsError(InvalidResponseError):
    """Events of the stream are missing: its numbers have a gap."""


class AnswerFailedError(ClientError):
    """The answer ended with an error that the service reported."""


def rejection_from_fields(
    fields: Any, *, status: int | None = None, retry_after: str | None = None
) -> RequestRejectedError:
    """Return the error for a rejection's JSON; `retry_after` is the value of the HTTP header, in seconds.

    The JSON may be anything; missing fields have defaults.
    """
    error_fields = fields.get("error") if isinstance(fields, dict) else None
    error: dict[str, Any] = error_fields if isinstance(error_fields, dict) else {}
    wait_s = error.get("retry_after_s")
    if wait_s is None and retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        wait_s = float(retry_after)
    return RequestRejectedError(
        error.get("message") or f"service: rejected the request with status {status}",
        kind=error.get("type") or "refused",
        status=status,
        rule=error.get("rule"),
        retry_after_s=wait_s,
    )


def resume_error(refusal: RequestRejectedError, stream_id: str | None) -> ClientError:
    """Return the error for a rejected resume request: StreamGoneError when the service does not know the stream."""
    if stream_id is None or refusal.kind != "not_found":
        return refusal
    return StreamGoneError(stream_id, str(refusal))


def rejection_from_response(status: int, body: bytes, retry_after: str | None) -> RequestRejectedError:
    """Return the error for an HTTP error response, from the service or from a proxy."""
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    return rejection_from_fields(fields, status=status, retry_after=retry_after)
