"""The error tree. Each class has a `recovery`: the action that may still lead to an answer.

    StreamgaugeError
    ├── UsageError                    the caller must change something: exit code 2, HTTP 400
    │   └── MissingKeyError           a provider's API key is not set
    └── StreamError                   an answer failed                     kind                   recovery
        ├── NetworkError              refused, reset, unreachable          network                retry
        ├── StreamTimeout
        │   ├── ConnectTimeout        no connection in time                connect_timeout        retry
        │   ├── FirstContentTimeout   connected, but no content in time    first_content_timeout  retry
        │   ├── IdleTimeout           content, then silence                idle_timeout           retry
        │   └── TotalTimeout          the whole answer took too long       total_timeout          fail
        ├── ApiError                  the provider returned an error
        │   ├── BadRequestError       400, 413, 422: an invalid request    bad_request            fail
        │   ├── ContentFilterError    the prompt was flagged               content_filter         fail
        │   ├── AuthenticationError   401, 403: the API key                auth                   next
        │   ├── BillingError          402, a quota or credit used up       billing                next
        │   ├── NotFoundError         404, 405, 410: the model or address  not_found              next
        │   ├── RateLimitError        429                                  rate_limited           retry
        │   └── ServerError           408, 409, 425, 498, 5xx, or an error
        │                             inside a stream                      server_error           retry
        ├── TruncatedStreamError      no finish reason at the stream's end truncated              retry
        ├── ProtocolError             HTML, bad JSON or UTF-8, text after
        │   │                         the end of the answer                protocol               fallback
        │   └── ResponseTooLargeError the response exceeds a size limit    protocol               next
        ├── ModelLoadError            the local model cannot be loaded     model_load             next
        └── InternalError             a defect of this project             internal               next

`retry`: the same request may succeed later (if not: `fallback`, then `next`). `fallback`: the request may succeed
without streaming. `next`: another provider may answer. `fail`: no other attempt would succeed. After text was
delivered, no recovery is attempted. A provider's own error code can change the recovery of a single error. A rate
limit is never followed by a non-streamed request to the same provider, because that counts against the same limit.
"""

from typing import ClassVar, Literal, Self

Recovery = Literal["retry", "fallback", "next", "fail"]


class StreamgaugeError(Exception):
    """Base class of the errors that this project raises deliberately. The message is one line of plain text."""


class UsageError(StreamgaugeError):
    """The caller must change something; the message says what."""


class MissingKeyError(UsageError):
    """A provider needs an API key that is not set; the message names the environment variable."""


class StreamError(StreamgaugeError):
    """An answer failed.

    `http_status` and `retry_after_s` come from the provider's response; None means that it had none. `recovery`
    overrides the class's default when the provider's error code is more specific than the HTTP status.
    """

    kind: ClassVar[str] = "error"
    recovery: Recovery = "fail"
    falls_back: ClassVar[bool] = True
    """Whether a non-streamed request to the same provider may succeed after the retries have failed."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        if recovery is not None:
            self.recovery = recovery

    def with_message(self, message: str) -> Self:
        """Return the same error with another message."""
        return type(self)(
            message, http_status=self.http_status, retry_after_s=self.retry_after_s, recovery=self.recovery
        )


class NetworkError(StreamError):
    """The connection was refused, reset or lost before the answer was complete."""

    kind = "network"
    recovery: Recovery = "retry"


class StreamTimeout(StreamError):  # noqa: N818 - its subclasses are named by their limits
    """One of the four timeouts expired."""

    kind = "timeout"
    recovery: Recovery = "retry"


class ConnectTimeout(StreamTimeout):
    """No connection was made within the connect timeout."""

    kind = "connect_timeout"


class FirstContentTimeout(StreamTimeout):
    """No content arrived within the first-content timeout. Keep-alives are not content."""

    kind = "first_content_timeout"


class IdleTimeout(StreamTimeout):
    """After some content, no more arrived within the idle timeout."""

    kind = "idle_timeout"


class TotalTimeout(StreamTimeout):
    """The whole answer, including all attempts and waits, took longer than the total timeout."""

    kind = "total_timeout"
    recovery: Recovery = "fail"


class ApiError(StreamError):
    """The provider returned an error."""

    kind = "api_error"
    recovery: Recovery = "fail"


class BadRequestError(ApiError):
    """The provider rejected the request as invalid."""

    kind = "bad_request"


class ContentFilterError(ApiError):
    """The provider flagged the prompt. The prompt is not sent to another provider."""

    kind = "content_filter"


class BillingError(ApiError):
    """The account has no credit, or its quota is used up. Waiting does not help."""

    kind = "billing"
    recovery: Recovery = "next"


class AuthenticationError(ApiError):
    """The provider rejected the API key."""

    kind = "auth"
    recovery: Recovery = "next"


class NotFoundError(ApiError):
    """The provider does not have this model, deployment or address."""

    kind = "not_found"
    recovery: Recovery = "next"


class RateLimitError(ApiError):
    """The provider's rate limit was reached."""

    kind = "rate_limited"
    recovery: Recovery = "retry"
    falls_back = False


class ServerError(ApiError):
    """The provider failed, possibly only for a while."""

    kind = "server_error"
    recovery: Recovery = "retry"


class TruncatedStreamError(StreamError):
    """The stream ended without a finish reason, so the answer may be incomplete."""

    kind = "truncated"
    recovery: Recovery = "retry"


class ProtocolError(StreamError):
    """The provider sent bytes that violate its own wire format."""

    kind = "protocol"
    recovery: Recovery = "fallback"


class ModelLoadError(StreamError):
    """The local model cannot be loaded: the file is missing, unreadable or damaged, or llama.cpp does not run here."""

    kind = "model_load"
    recovery: Recovery = "next"


class ResponseTooLargeError(ProtocolError):
    """The response exceeds a limit of `streaming.limits`. It is not retried: it would be as large again."""

    recovery: Recovery = "next"


class InternalError(StreamError):
    """A defect of this project; the log has the traceback."""

    kind = "internal"
    recovery: Recovery = "next"


_ERROR_BY_STATUS: dict[int, type[ApiError]] = {
    401: AuthenticationError,
    402: BillingError,
    403: AuthenticationError,
    404: NotFoundError,
    405: NotFoundError,
    410: NotFoundError,
    429: RateLimitError,
    408: ServerError,
    409: ServerError,
    425: ServerError,
    498: ServerError,
}


def error_from_status(status: int, message: str, *, retry_after_s: float | None = None) -> ApiError:
    """Return the error for an HTTP status: ServerError for other 5xx, BadRequestError for other 4xx."""
    cls = _ERROR_BY_STATUS.get(status, ServerError if status >= 500 else BadRequestError)
    return cls(message, http_status=status, retry_after_s=retry_after_s)
