"""The error tree. Every class says what may be done about it (`recovery`).

    StreamgaugeError
    ├── UsageError              the asker must change something: exit code 2, HTTP 400
    │   └── MissingKey          a provider's key is not set
    └── StreamError             an answer broke                            kind               recovery
        ├── NetworkError        refused, reset, unreachable                network            retry
        ├── StreamTimeout
        │   ├── ConnectTimeout      no connection in time                  connect_timeout    retry
        │   ├── FirstContentTimeout connected, but no content in time      first_content_timeout retry
        │   ├── IdleTimeout         content, then silence                  idle_timeout       retry
        │   └── TotalTimeout        the whole answer took too long         total_timeout      fail
        ├── ApiError            the provider answered with an error
        │   ├── BadRequest      400, 413, 422: the question itself         bad_request        fail
        │   ├── ContentFilterError  the prompt was flagged                 content_filter     fail
        │   ├── AuthError       401, 403: the key                          auth               next
        │   ├── BillingError    402, a quota or credit used up             billing            next
        │   ├── NotFound        404, 405, 410: the model or the address    not_found          next
        │   ├── RateLimited     429                                        rate_limited       retry
        │   └── ServerError     408, 409, 425, 498, 5xx, inside a stream   server_error       retry
        ├── TruncatedStream     the stream stopped with no finish reason   truncated          retry
        ├── ProtocolError       bytes that are not the wire's: HTML, bad
        │   │                   JSON or UTF-8, text after the end          protocol           fallback
        │   └── ResponseTooLargeError   more came than is read             protocol           next
        ├── ModelLoadError      the local model cannot be loaded           model_load         next
        └── InternalError       a defect of this project                   internal           next

`retry`: the same request may pass later (then `fallback`, then `next`). `fallback`: not streamed it may pass.
`next`: another provider may answer. `fail`: nothing else would. Nothing is done after text was delivered.
A provider's own code can change the recovery of a single error. A rate limit is never followed by a non-streamed
request to the same provider, which would count against the same limit.
"""

from typing import ClassVar, Literal, Self

Recovery = Literal["retry", "fallback", "next", "fail"]


class StreamgaugeError(Exception):
    """All errors that this project raises on purpose; the message is one line for a person."""


class UsageError(StreamgaugeError):
    """The asker must change something; the message says what."""


class MissingKeyError(UsageError):
    """A provider needs a key that is not set; the message names the variable."""


class StreamError(StreamgaugeError):
    """An answer broke.

    `http_status` and `retry_after_s` are what the provider said, None if nothing. `recovery` replaces the class's own
    where the provider's code says more than its status.
    """

    kind: ClassVar[str] = "error"
    recovery: Recovery = "fail"
    falls_back: ClassVar[bool] = True
    """Whether a non-streamed request to the same provider may succeed where retries did not."""

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
    """The connection was refused, reset or lost before the answer's end was known."""

    kind = "network"
    recovery: Recovery = "retry"


class StreamTimeout(StreamError):
    """One of the four time limits passed."""

    kind = "timeout"
    recovery: Recovery = "retry"


class ConnectTimeout(StreamTimeout):
    """No connection within the connect limit."""

    kind = "connect_timeout"


class FirstContentTimeout(StreamTimeout):
    """No content within the limit; keep-alives do not count."""

    kind = "first_content_timeout"


class IdleTimeout(StreamTimeout):
    """Content came, then none for longer than the idle limit."""

    kind = "idle_timeout"


class TotalTimeout(StreamTimeout):
    """The whole answer, attempts and waits included, took longer than its limit."""

    kind = "total_timeout"
    recovery: Recovery = "fail"


class ApiError(StreamError):
    """The provider answered with an error of its own."""

    kind = "api_error"
    recovery: Recovery = "fail"


class BadRequestError(ApiError):
    """The provider refused the question itself."""

    kind = "bad_request"


class ContentFilterError(ApiError):
    """The provider flagged the prompt; no other provider is sent it."""

    kind = "content_filter"


class BillingError(ApiError):
    """The account has no credit, or its quota is used up: waiting does not help."""

    kind = "billing"
    recovery: Recovery = "next"


class AuthenticationError(ApiError):
    """The provider refused the key."""

    kind = "auth"
    recovery: Recovery = "next"


class NotFoundError(ApiError):
    """The provider knows no such model, deployment or address."""

    kind = "not_found"
    recovery: Recovery = "next"


class RateLimitError(ApiError):
    """The provider asks for patience."""

    kind = "rate_limited"
    recovery: Recovery = "retry"
    falls_back = False


class ServerError(ApiError):
    """The provider failed in a way that may pass."""

    kind = "server_error"
    recovery: Recovery = "retry"


class TruncatedStreamError(StreamError):
    """The stream stopped without a finish reason: a cut answer is not a finished one."""

    kind = "truncated"
    recovery: Recovery = "retry"


class ProtocolError(StreamError):
    """The provider sent bytes that its own wire does not allow."""

    kind = "protocol"
    recovery: Recovery = "fallback"


class ModelLoadError(StreamError):
    """The local model cannot be loaded: its file is damaged, unreadable or none, or llama.cpp cannot be used here."""

    kind = "model_load"
    recovery: Recovery = "next"


class ResponseTooLargeError(ProtocolError):
    """The provider sent more than is read (`streaming.limits`): asked again, it would send as much."""

    recovery: Recovery = "next"


class InternalError(StreamError):
    """A defect of this project; the log has its trace."""

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
    """Give the error class of an HTTP status; 5xx may pass, other unknown 4xx may not."""
    cls = _ERROR_BY_STATUS.get(status, ServerError if status >= 500 else BadRequestError)
    return cls(message, http_status=status, retry_after_s=retry_after_s)
