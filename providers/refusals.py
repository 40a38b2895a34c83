"""Turns an HTTP answer that is not a success into one of this project's errors, with the vendor's own words. Pure."""

import email.utils
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from providers.wire import shown
from streaming.clock import utc_now
from streaming.errors import AuthError, BadRequest, NotFound, ProtocolError, RateLimited, StreamError, api_error


@dataclass(frozen=True, slots=True)
class Names:
    """How the reader is told what to look at: the service, its address, and the variables that they come from."""

    label: str
    base_url: str
    key_variable: str | None = None
    base_url_variable: str | None = None


def refusal(names: Names, model: str, status: int, headers: Mapping[str, str], body: str) -> StreamError:
    """Give the error of a status. `headers` ignores case."""
    if 300 <= status < 400:
        check = f": check {names.base_url_variable}" if names.base_url_variable else ""
        redirected = f"{names.label} redirects to another address ({status}), which is not followed{check}"
        return ProtocolError(redirected, http_status=status)
    error = _error_in(body)
    said = _said(error, body)
    found = api_error(status, "", retry_after_s=retry_after_s(headers))
    lead = _lead(found, names, model, error)
    message = f"{lead} ({status}): {said}" if said else f"{lead} ({status})"
    if isinstance(found, AuthError) and names.key_variable:
        message += f"; check {names.key_variable}"
    return type(found)(message, http_status=status, retry_after_s=found.retry_after_s)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read how long to wait: `retry-after-ms`, else `Retry-After` as seconds or as a date; None if neither is sound."""
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is not None or value is None:
        return seconds
    until = _date(value)
    if until is None:
        return None
    # The server's own clock, where it tells: ours may be wrong.
    now = _date(headers.get("date", "")) or datetime.fromisoformat(utc_now())
    return max((until - now).total_seconds(), 0.0)


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _date(value: str) -> datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _lead(found: StreamError, names: Names, model: str, error: Mapping[str, Any]) -> str:
    label = names.label
    match found:
        case AuthError():
            return f"{label} refused the key"
        case NotFound():
            return f"{label} has no model {shown(model)!r}, or {names.base_url} is not its address"
        case RateLimited():
            return f"{label} asks for patience"
        case BadRequest() if error.get("code") == "content_filter":
            return f"{label}: the content filter refused the prompt{_categories(error)}"
        case BadRequest():
            return f"{label} refused the request"
        case _:
            return f"{label} failed"


def _categories(error: Mapping[str, Any]) -> str:
    """Name what Azure's filter objected to."""
    inner = error.get("innererror")
    results = inner.get("content_filter_result") if isinstance(inner, dict) else None
    if not isinstance(results, dict):
        return ""
    found = [name for name, result in results.items() if isinstance(result, dict) and result.get("filtered") is True]
    return f" for {', '.join(map(shown, found))}" if found else ""


def _error_in(body: str) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    inner = found.get("error", found) if isinstance(found, dict) else {}
    return inner if isinstance(inner, dict) else {"message": inner}


def _said(error: Mapping[str, Any], body: str) -> str:
    for key in ("message", "detail", "type", "code"):
        if isinstance(error.get(key), str) and error[key].strip():
            return shown(error[key])
    return "a web page, not an API" if body.lstrip().startswith("<") else shown("" if error else body)
