"""Mapping of unsuccessful HTTP responses to this project's errors, with the vendor's own message. Pure functions.

The class of an error follows from the vendor's error code first, then from the words of its message, and last from the
HTTP status (`providers.decoding.vendor_errors`).
"""

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from providers.decoding.decoder import excerpt
from providers.decoding.vendor_errors import VendorError
from providers.models.setting_rejections import SettingRejectedError, find_field_rejections
from streaming.clock import utc_now
from streaming.errors import (
    AuthenticationError,
    BadRequestError,
    BillingError,
    ContentFilterError,
    NotFoundError,
    ProtocolError,
    RateLimitError,
    ResponseTooLargeError,
    StreamError,
)

_EPOCH_S = 1e9
"""A rate limit's reset value above this is a Unix timestamp in seconds, not a duration."""


@dataclass(frozen=True, slots=True)
class ServiceLabels:
    """The names of a service for error messages: its label, its address, and the variables that configure it."""

    label: str
    base_url: str
    key_variable: str | None = None
    base_url_variable: str | None = None


def error_from_response(
    names: ServiceLabels, model: str, status: int, headers: Mapping[str, str], body: str
) -> StreamError:
    """Return the error for a response's status, headers and body. `headers` must ignore the case of names."""
    if 300 <= status < 400:
        check = f" (check {names.base_url_variable})" if names.base_url_variable else ""
        redirected = f"{names.label}: redirected to another address, status {status}{check}"
        return ProtocolError(redirected, http_status=status)
    error = VendorError.from_body(body)
    wait_s = parse_retry_after(headers)
    if wait_s is None:
        wait_s = _reset_s(error, headers)
    stream_error = error.to_stream_error(status, retry_after_s=wait_s)
    words = error.words or ("a web page, not an API" if body.lstrip().startswith("<") else "")
    if not words and not error.is_json:
        words = excerpt(body)
    lead = _describe_error(stream_error, names, model, error)
    message = f"{lead} ({status}): {words}" if words else f"{lead} ({status})"
    if isinstance(stream_error, AuthenticationError) and names.key_variable and not error.denies_access:
        message += f" (check {names.key_variable})"
    if isinstance(stream_error, BillingError):
        message += " (add credits, or raise the limit of the account)"
    recovery = _recovery_by_header(stream_error, headers)
    rejections = find_field_rejections(status, words, error.codes, error.objects)
    if rejections and (
        isinstance(stream_error, BadRequestError) or (isinstance(stream_error, NotFoundError) and status != 404)
    ):
        message = f"{names.label}: request rejected ({status}): {words}"
        return SettingRejectedError(message, http_status=status, recovery=stream_error.recovery, rejections=rejections)
    return type(stream_error)(message, http_status=status, retry_after_s=stream_error.retry_after_s, recovery=recovery)


def _recovery_by_header(error: StreamError, headers: Mapping[str, str]) -> Any:
    """Return the error's recovery as changed by the header `x-should-retry`, as in the OpenAI and Anthropic SDKs."""
    should_retry = headers.get("x-should-retry", "").strip().lower()
    if should_retry == "false" and error.recovery == "retry":
        return "next"
    if should_retry == "true" and isinstance(error, BadRequestError):
        return "retry"
    return error.recovery


def too_large_error(label: str, what: str) -> ResponseTooLargeError:
    """Return the error of a service that sent more than is read; `what` exceeded its limit."""
    return ResponseTooLargeError(f"{label} exceeded a size limit: {what}")


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the wait before a retry in seconds, from `retry-after-ms`, else from `Retry-After` (seconds or a date).

    Return None when neither header has a wait; 0 and a date in the past count as no wait.
    """
    milliseconds = _parse_seconds(headers.get("retry-after-ms"))
    if milliseconds:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _parse_seconds(value)
    if seconds is not None or value is None:
        return seconds or None
    until = _parse_http_date(value)
    if until is None:
        return None
    # Prefer the server's clock (its `Date` header), because the local clock may be wrong.
    wait_s = (until - _now(headers)).total_seconds()
    return wait_s if wait_s > 0 else None


def _reset_s(error: VendorError, headers: Mapping[str, str]) -> float | None:
    """Return the seconds until a rate limit resets, from Google's `RetryInfo` or OpenRouter's `X-RateLimit-Reset`."""
    if error.retry_delay_s:
        return error.retry_delay_s
    reset = _parse_seconds(headers.get("x-ratelimit-reset"))
    if reset is None:
        reset = _parse_seconds(error.headers.get("x-ratelimit-reset"))
    if reset is None:
        return None
    if reset > _EPOCH_S:
        seconds = reset / 1000 if reset > 1000 * _EPOCH_S else reset
        reset = seconds - _now(headers).timestamp()
    return reset if reset > 0 else None


def _now(headers: Mapping[str, str]) -> datetime:
    return _parse_http_date(headers.get("date", "")) or datetime.fromisoformat(utc_now())


def _parse_seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _parse_http_date(value: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _describe_error(stream_error: StreamError, names: ServiceLabels, model: str, error: VendorError) -> str:
    label = names.label
    match stream_error:
        case AuthenticationError():
            return f"{label}: {'access denied' if error.denies_access else 'API key rejected'}"
        case BillingError():
            return f"{label}: no credit left"
        case NotFoundError():
            return f"{label}: no model {excerpt(model)!r} at {names.base_url}"
        case RateLimitError():
            return f"{label}: rate limit reached"
        case ContentFilterError():
            return f"{label}: prompt rejected by the content filter{error.flagged_for}"
        case BadRequestError():
            return f"{label}: request rejected"
        case _:
            return f"{label}: server error"
