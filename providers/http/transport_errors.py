"""Errors of the transport: from an exception of an HTTP library to a close reason, and from there to our own error."""

import os
import socket
import ssl
from types import ModuleType
from urllib.parse import urlsplit

from providers.decoding.decoder import excerpt
from providers.http.client import ServiceConfig
from providers.http.errors import too_large_error
from streaming.errors import (
    BadRequestError,
    ConnectTimeout,
    NetworkError,
    ProtocolError,
    StreamError,
    TruncatedStreamError,
)
from streaming.http.close_reason import CloseReason
from streaming.limits import LimitExceededError

_MAX_CAUSES = 10
_LOST: tuple[type[StreamError], str] = (NetworkError, "{label}: the connection was lost ({cause})")
_ERROR_BY_REASON: dict[CloseReason, tuple[type[StreamError], str]] = {
    CloseReason.CONNECT_TIMEOUT: (ConnectTimeout, "{label}: no connection to {where} within {connect_s:g} s"),
    CloseReason.UNREACHABLE: (NetworkError, "{label}: no connection to {where} ({cause})"),
    CloseReason.CLOSED: (NetworkError, "{label}: the connection was closed without a response"),
    CloseReason.NOT_HTTP: (ProtocolError, "{label}: the response is not HTTP ({fault})"),
    CloseReason.UNDECODABLE: (ProtocolError, "{label}: the response cannot be decompressed ({cause})"),
    CloseReason.NOT_SENT: (BadRequestError, "{label}: the request cannot be sent ({cause})"),
}
"""The error of each reason and its message; all other reasons are a lost connection."""


def close_reason_of(error: BaseException, httpx: ModuleType) -> CloseReason:
    """Return why an exchange ended, from an exception of `httpx`: one of the libraries httpx and httpx2.

    Both libraries raise RemoteProtocolError for a closed connection and for invalid bytes; only its text tells which.
    """
    text = str(error)
    match error:
        case httpx.ConnectTimeout():
            return CloseReason.CONNECT_TIMEOUT
        case httpx.ConnectError() | httpx.ProxyError():
            return CloseReason.UNREACHABLE
        case httpx.RemoteProtocolError():
            is_closed = "closed connection" in text or "disconnected" in text
            return CloseReason.CLOSED if is_closed else CloseReason.NOT_HTTP
        case httpx.DecodingError():
            return CloseReason.UNDECODABLE
        case httpx.LocalProtocolError() | httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return CloseReason.NOT_SENT
        case _:
            return CloseReason.RESET


def transport_error(
    reason: CloseReason, fault: BaseException | None, service: ServiceConfig, *, answered: bool
) -> StreamError:
    """Return the error of an answer whose exchange ended for `reason`.

    `fault` is the exception behind the reason, if there was one. `answered`: the headers had arrived before it.
    """
    label = service.names.label
    if (limit := _limit_of(fault)) is not None:
        return too_large_error(label, str(limit))
    if reason is CloseReason.CLOSED and answered:
        return TruncatedStreamError(f"{label}: the connection was closed in the middle of the answer")
    error, words = _ERROR_BY_REASON.get(reason, _LOST)
    return error(
        words.format(
            label=label,
            where=_describe_way(service),
            connect_s=service.timeouts.connect_s,
            fault=excerpt(str(fault or "")),
            cause=_root_cause_text(fault),
        )
    )


def _describe_way(service: ServiceConfig) -> str:
    """Return the address of a service, with the proxy through which it is asked, but without the proxy's password."""
    if service.proxy is None:
        return service.names.base_url
    proxy = urlsplit(service.proxy).netloc.rpartition("@")[2]
    return f"{service.names.base_url} through the proxy {proxy}, which HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names"


def _limit_of(error: BaseException | None) -> LimitExceededError | None:
    cause = error
    for _ in range(_MAX_CAUSES):
        if cause is None or isinstance(cause, LimitExceededError):
            return cause
        cause = cause.__cause__
    return None


def _root_cause_text(error: BaseException | None) -> str:
    """Return the operating system's error text from the deepest cause that has one, else the error's own text."""
    if error is None:
        return "it ended without an error"
    words, cause = str(error), error
    for _ in range(_MAX_CAUSES):
        if isinstance(cause, OSError) and cause.errno is not None:
            own_words = isinstance(cause, (ssl.SSLError, socket.gaierror))
            words = str(cause.strerror) if own_words else os.strerror(cause.errno)
        if (deeper := cause.__cause__ or cause.__context__) is None:
            break
        cause = deeper
    return excerpt(words) or type(error).__name__
