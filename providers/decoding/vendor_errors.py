"""Parsing of vendors' error bodies: their codes, their messages, and the error class that follows from both. Pure.

Every service has its own format (OpenAI's `error` object, Google's list, FastAPI's `detail`, Mistral's nested
`message`, OpenRouter's `metadata.raw`, llama.cpp's `error:` line). The same rules apply to HTTP errors and to errors
inside a stream. Sources: the vendors' error references and recorded responses, November 2026.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.decoding.decoder import excerpt
from streaming.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    BillingError,
    ContentFilterError,
    NotFoundError,
    RateLimitError,
    Recovery,
    ServerError,
    error_from_status,
)

_MAX_DEPTH = 8
_MAX_REASONS = 3

_CODES: tuple[tuple[str, type[ApiError]], ...] = (
    ("insufficient_quota", BillingError),
    ("insufficient_balance", BillingError),
    ("insufficient_credit", BillingError),
    ("insufficient_funds", BillingError),
    ("billing", BillingError),
    ("payment_required", BillingError),
    ("exceeded_current_quota", BillingError),
    ("credits_exhausted", BillingError),
    ("not_enough_balance", BillingError),
    ("budget_exceeded", BillingError),
    ("arrearage", BillingError),
    ("content_filter", ContentFilterError),
    ("content_policy", ContentFilterError),
    ("contentfilter", ContentFilterError),
    ("responsibleaipolicy", ContentFilterError),
    ("moderation", ContentFilterError),
    ("flagged", ContentFilterError),
    ("data_inspection_failed", ContentFilterError),
    ("model_not_found", NotFoundError),
    ("model_decommissioned", NotFoundError),
    ("model_deprecated", NotFoundError),
    ("model_retired", NotFoundError),
    ("model_not_supported", NotFoundError),
    ("model_not_available", NotFoundError),
    ("unsupported_model", NotFoundError),
    ("unknown_model", NotFoundError),
    ("invalid_model", NotFoundError),
    ("deploymentnotfound", NotFoundError),
    ("api_key", AuthenticationError),
    ("apikey", AuthenticationError),
    ("authentication", AuthenticationError),
    ("unauthenticated", AuthenticationError),
    ("unauthorized", AuthenticationError),
    ("permission", AuthenticationError),
    ("auth_error", AuthenticationError),
    ("rate_limit", RateLimitError),
    ("ratelimit", RateLimitError),
    ("too_many_requests", RateLimitError),
    ("resource_exhausted", RateLimitError),
    ("throttl", RateLimitError),
    ("quota", RateLimitError),
    ("overloaded", ServerError),
    ("over_capacity", ServerError),
    ("capacity_exceeded", ServerError),
    ("unavailable", ServerError),
    ("not_found", NotFoundError),
    ("invalid_request", BadRequestError),
    ("context_length", BadRequestError),
    ("too_large", BadRequestError),
)
"""Parts of vendors' error codes in lower case with their error class; the first part that occurs decides."""
_VAGUE = frozenset({BadRequestError})
"""Classes that a code suggests without deciding: xAI and Groq use such codes for wrong keys and retired models too."""

_NO_CREDIT = re.compile(
    r"\b(insufficient (account )?(balance|funds?|credits?|quota)|not enough (balance|funds|credits?)"
    r"|(balance|credits?|quota)\b.{0,40}\b(too low|insufficient|depleted|exhausted|used up|ran out|expired)"
    r"|out of (credits?|funds)|no (remaining )?credits?|more credits|add (more )?credits|top up|payment required"
    r"|exceeded your (current|monthly) (quota|spend|budget)|budget (has been )?exceeded|billing|spending limit"
    r"|key limit exceeded|usage limits?( has been)? reached|reached your \S* ?(api )?usage limits?|payment method"
    r"|purchase|requires a subscription|(inactive|expired) (subscription|plan)|(subscription|package) has expired"
    r"|account is in good standing)\b"
)
_BAD_KEY = re.compile(
    r"\b(incorrect|invalid|wrong|bad|missing|expired|malformed|unknown|no|revoked|disabled)\b[^.]{0,30}"
    r"\b(api[ _-]?key|key|token|credentials?)\b"
    r"|\b(api[ _-]?key|(access|authorization) token|credentials?)\b[^.]{0,40}"
    r"\b(not valid|invalid|incorrect|missing|expired|required|revoked|not found|wrong|blocked|disabled)\b"
)
_NO_ACCESS = re.compile(
    r"\b(organi[sz]ation|account|project|workspace) (has been|is|was)( \w+)?"
    r" (disabled|restricted|deactivated|suspended)\b"
    r"|\b(location|country|region|territory)\b.{0,30}\bnot supported\b"
)
_NO_MODEL = re.compile(
    r"\bmodels?\b.{0,120}?\b(not found|does ?n[o']t exist|do not exist|not exist|is unknown|decommissioned|deprecated"
    r"|retired|no longer|not (a )?(supported|available|valid)|unavailable|is gone|has been removed|shut ?down"
    r"|not recogni[sz]ed)\b"
    r"|\b(no such|unknown|invalid|unsupported|unrecogni[sz]ed|not a valid) model\b|no endpoints found"
    r"|\bno models? loaded\b|\bdoes not (support (chat|generate)|work with the specified model)\b"
)
_FLAGGED = re.compile(
    r"\b(flagged|moderation|content (policy|filter|management)|violat\w+ .{0,40}(polic|guideline|terms)"
    r"|usage guidelines|safety (system|check|policy)|(unsafe|sensitive) (or (unsafe|sensitive) )?content"
    r"|inappropriate content|content exists risk)"
)
_OVER_RATE = re.compile(r"\brate.?limit|\b(tokens|requests) per (second|minute|hour|day)\b|\btoo many requests\b")
_STATUS_WITH_WORDS = frozenset({400, 401, 402, 403, 404, 412, 413, 422, 429})
"""Statuses with so many possible causes that the text of the message is examined."""
_TOO_LARGE = re.compile(r"\b(request|prompt) (is )?too large\b|\brequires more (system )?memory\b")
"""Waiting does not help: the request exceeds the limit by itself, or the model the machine's memory."""
_NO_STREAM = re.compile(
    r"\bverified to stream\b|\bstream(ing)?['`]? (is not supported|does not support)|not support stream"
)
_WAIT = re.compile(
    r"\b(?:try again|retry|wait)(?: in| after)? (?:(\d{1,3})h)?(?:(\d{1,4})m(?!s))?(\d{1,6}(?:\.\d{1,9})?) ?(ms|s)"
)


@dataclass(frozen=True, slots=True)
class VendorError:
    """The content of a vendor's error.

    `words` is its message in one line, "" if it has none; `codes` are all values that look like codes, in lower case;
    `headers` are an upstream's headers quoted by a router, with names in lower case.
    """

    words: str = ""
    codes: str = ""
    is_json: bool = True
    flagged_for: str = ""
    is_flagged: bool = False
    status: int | None = None
    retry_delay_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    objects: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """All JSON objects in the error, outer ones first."""

    @classmethod
    def from_body(cls, body: str) -> "VendorError":
        """Parse the body of an error response, which may be anything."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            return cls(is_json=False)
        return cls.from_json(data)

    @classmethod
    def from_json(cls, value: object) -> "VendorError":
        """Parse an error in any vendor's format."""
        words = _find_message(value)
        objects = list(_iter_objects(value))
        codes = " ".join(_iter_codes(objects))
        reasons = _find_filter_reasons(objects)
        return cls(
            words=words,
            codes=codes,
            flagged_for=f" for {', '.join(map(excerpt, reasons[:_MAX_REASONS]))}" if reasons else "",
            is_flagged=bool(reasons) or any("flagged_input" in entry for entry in objects),
            status=_find_status(objects),
            retry_delay_s=_find_retry_delay_s(objects) or _find_wait_in_words(words),
            headers=_find_quoted_headers(objects),
            objects=tuple(objects),
        )

    @property
    def denies_access(self) -> bool:
        """Whether the account or the caller's country is shut out, whatever the key."""
        return _NO_ACCESS.search(self.words.lower()) is not None

    def to_stream_error(self, status: int, *, retry_after_s: float | None = None) -> ApiError:
        """Return the error of an HTTP response; its class follows from the code, then the message, then the status."""
        cls = self._class_by_code()
        if cls is None or cls in _VAGUE:
            cls = self._class_by_words(status) or type(error_from_status(status, ""))
        recovery: Recovery | None = None
        if cls in (RateLimitError, ServerError) and (status == 413 or _TOO_LARGE.search(self.words.lower())):
            recovery = "next"
        elif cls is BadRequestError and _NO_STREAM.search(self.words.lower()):
            recovery = "fallback"
        return cls(self.words, http_status=status, retry_after_s=retry_after_s, recovery=recovery)

    def to_error_in_stream(self) -> ApiError:
        """Return the error for an error event inside a stream that began with a success status."""
        message = f"answer: ended by an error of the provider: {self.words or 'no reason given'}"
        cls = self._class_by_code()
        if cls is None or cls in _VAGUE:
            cls = self._class_by_words(self.status or 400) or cls
        if cls is None and self.status is None and _OVER_RATE.search(self.words.lower()):
            cls = RateLimitError
        if cls is not None:
            return cls(message, http_status=self.status, retry_after_s=self.retry_delay_s)
        if self.status is not None:
            return error_from_status(self.status, message, retry_after_s=self.retry_delay_s)
        return ServerError(message, retry_after_s=self.retry_delay_s)

    def _class_by_code(self) -> type[ApiError] | None:
        if self.is_flagged:
            return ContentFilterError
        return next((cls for part, cls in _CODES if part in self.codes), None)

    def _class_by_words(self, status: int) -> type[ApiError] | None:
        if status not in _STATUS_WITH_WORDS:
            return None
        text = self.words.lower()
        # A rate limit may come with the advice to buy a larger one.
        if _NO_CREDIT.search(text) and not (status == 429 and _OVER_RATE.search(text)):
            return BillingError
        if status in (400, 403) and _FLAGGED.search(text):
            return ContentFilterError
        if status in (400, 403) and (_BAD_KEY.search(text) or self.denies_access):
            return AuthenticationError
        if status == 413 and _OVER_RATE.search(text):
            return RateLimitError
        if status not in (413, 429) and _NO_MODEL.search(text):
            return NotFoundError
        return None


def error_from_payload(error: object) -> ApiError:
    """Return the error for the payload of an error that a provider sent inside a stream."""
    return VendorError.from_json(error).to_error_in_stream()


def _find_message(value: object, depth: int = 0) -> str:
    """Return the message of an error, wherever its format puts it. An upstream's message comes before a router's."""
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("{", "["):
            try:
                return _find_message(json.loads(text), depth + 1) or excerpt(text)
            except (ValueError, RecursionError):
                pass
        return excerpt(text)
    if isinstance(value, list):
        messages = [words for item in value[:_MAX_REASONS] if (words := _find_message(item, depth + 1))]
        return "; ".join(messages)
    if isinstance(value, dict):
        return _find_message_in_object(value, depth)
    return ""


def _find_message_in_object(value: Mapping[str, Any], depth: int) -> str:
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and (raw := _find_message(metadata.get("raw"), depth + 1)):
        name = metadata.get("provider_name")
        return f"{excerpt(name)}: {raw}" if isinstance(name, str) and name else raw
    for key in ("error", "message", "detail", "errors", "msg", "reason", "description", "title"):
        if words := _find_message(value.get(key), depth + 1):
            return _prefix_location(value, key, words)
    for key in ("type", "code", "status"):
        if isinstance(value.get(key), str) and value[key].strip():
            return excerpt(value[key])
    return ""


def _prefix_location(value: Mapping[str, Any], key: str, words: str) -> str:
    """Return the message with the field's name in front, for the validation errors of FastAPI and Mistral."""
    location = value.get("loc")
    if key != "msg" or not isinstance(location, list):
        return words
    names = [str(part) for part in location if part != "body"]
    return f"{excerpt('.'.join(names))}: {words}" if names else words


def _iter_objects(value: object, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield every JSON object in an error, including those in JSON that is quoted inside a string."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _iter_objects(item, depth + 1)
    elif isinstance(value, list):
        for item in value[:20]:
            yield from _iter_objects(item, depth + 1)


def _iter_codes(objects: list[Mapping[str, Any]]) -> Iterator[str]:
    for entry in objects:
        for key in ("code", "type", "status", "reason"):
            value = entry.get(key)
            # A code is one word; several words in such a field are a message.
            if isinstance(value, str) and len(value.split()) == 1:
                yield value.strip().lower()
        error = entry.get("error")
        if isinstance(error, str) and re.fullmatch(r"[A-Za-z]+(_[A-Za-z]+)+", error):
            yield error.lower()


def _find_filter_reasons(objects: list[Mapping[str, Any]]) -> list[str]:
    """Return the categories that a content filter named, in Azure's and OpenRouter's formats."""
    result: list[str] = []
    for item in objects:
        results = item.get("content_filter_result") or item.get("content_filter_results")
        if isinstance(results, dict):
            result += [k for k, v in results.items() if isinstance(v, dict) and v.get("filtered") is True]
        reasons = item.get("reasons")
        if isinstance(reasons, list) and "flagged_input" in item:
            result += [reason for reason in reasons if isinstance(reason, str)]
    return list(dict.fromkeys(result))


def _find_status(objects: list[Mapping[str, Any]]) -> int | None:
    for entry in objects:
        for key in ("code", "status", "status_code"):
            value = entry.get(key)
            if isinstance(value, str) and value.isdecimal():
                value = int(value[:4])
            if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
                return value
    return None


def _find_retry_delay_s(objects: list[Mapping[str, Any]]) -> float | None:
    """Return the seconds in Google's `RetryInfo`, a duration such as "34s" or "0.5s"; None when there is none."""
    for entry in objects:
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", str(entry.get("retryDelay", "")))
        if match:
            return float(match[1]) or None
    return None


def _find_quoted_headers(objects: list[Mapping[str, Any]]) -> dict[str, str]:
    for entry in objects:
        headers = entry.get("headers")
        if isinstance(headers, dict):
            return {str(name).lower(): str(value) for name, value in headers.items()}
    return {}


def _find_wait_in_words(words: str) -> float | None:
    """Return the seconds in "try again in 1m2.5s", which OpenAI, Groq and Azure write; None when there are none."""
    match = _WAIT.search(words.lower())
    if match is None:
        return None
    hours, minutes, rest, unit = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest) / (1000 if unit == "ms" else 1) or None
