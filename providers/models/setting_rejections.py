"""Detection of the settings that a rejection names, in `param` (OpenAI), `loc` (FastAPI), `field` (Google) or prose."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from providers.decoding.decoder import excerpt
from providers.models.facts import Setting
from streaming.errors import BadRequestError, Recovery

_NAMES: dict[str, Setting] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "stream_options": "stream_options",
    "include_usage": "stream_options",
    "reasoning_effort": "effort",
    "reasoning": "effort",
    "effort": "effort",
    "output_config": "effort",
    "thinking": "effort",
    "think": "effort",
    "reasoningeffort": "effort",
    "maxtokens": "max_tokens",
    "maxoutputtokens": "max_tokens",
}
"""The settings by the names of their fields in the vendors' APIs."""
_STATUSES = (400, 422)
_ABOUT_USE = re.compile(
    r"unsupported|not support|n[o']t support|not (be )?(allowed|permitted|accepted|available|recogni[sz]ed|applicable)"
    r"|unknown|unrecogni[sz]ed|unexpected|extra (inputs|fields?)|extra_forbidden|additional propert"
    r"|deprecated|no longer|not (a )?valid (parameter|field|argument)|does ?n[o']t (take|accept|have)"
    r"|cannot (both )?be (set|used|specified|provided)|may only be set|only \S{1,20} is (allowed|supported|accepted)"
    r"|must not be|only the default|is removed|has been removed|remove (it|this)|invalid (parameter|argument|field)",
    re.IGNORECASE,
)
_ABOUT_VALUE = re.compile(
    r"less than|greater than|at (most|least)|between|out of range|range|exceed|too (large|small|high|low|big)"
    r"|maximum|minimum|must be (one of|<|>|a )|should be|valid values|supported values|possible values"
    r"|unsupported[ _]value|invalid[ _]value|expected one of|is not one of",
    re.IGNORECASE,
)
_FIXED = re.compile(r"only the default|only be set|only \S{1,20} is (allowed|supported|accepted)", re.IGNORECASE)
_REJECTS_THINKING = re.compile(r"does ?n[o']t support (thinking|reasoning)|(thinking|reasoning) is not supported", re.I)


@dataclass(frozen=True, slots=True)
class FieldRejection:
    """A setting that a service rejected, with its message. `is_about_value`: another value may be accepted."""

    setting: Setting
    words: str
    is_about_value: bool = False


class SettingRejectedError(BadRequestError):
    """Raised when the provider rejected a setting of the request, not its messages."""

    kind = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        recovery: Recovery | None = None,
        rejections: tuple[FieldRejection, ...] = (),
    ) -> None:
        super().__init__(message, http_status=http_status, retry_after_s=retry_after_s, recovery=recovery)
        self.rejections = rejections

    def with_message(self, message: str) -> "SettingRejectedError":
        """Return the same error with another message."""
        return type(self)(
            message,
            http_status=self.http_status,
            retry_after_s=self.retry_after_s,
            recovery=self.recovery,
            rejections=self.rejections,
        )


def find_field_rejections(
    status: int, words: str, codes: str, objects: Sequence[Mapping[str, Any]]
) -> tuple[FieldRejection, ...]:
    """Return the settings that an error rejects, each once; none when the error has another subject.

    `words` is the error's message, `codes` are its codes, and `objects` all JSON objects in it.
    """
    if status not in _STATUSES:
        return ()
    rejections: dict[Setting, FieldRejection] = {}
    for setting, message in [*_find_in_fields(objects, words), *_find_in_message(words)]:
        about_value = _is_about_value(f"{message} {codes}" if message == words else message, codes)
        rejections.setdefault(setting, FieldRejection(setting, message, about_value))
    return tuple(rejections.values())


def _find_in_fields(objects: Sequence[Mapping[str, Any]], words: str) -> Iterable[tuple[Setting, str]]:
    """Yield each setting that the fields `param`, `field` or `loc` of an error name, with the message about it."""
    for item in objects:
        if (setting := _setting_of(item.get("param"))) or (setting := _setting_of(item.get("field"))):
            yield setting, excerpt(item.get("message") or item.get("description") or words)
        location = item.get("loc")
        if isinstance(location, list):
            names = [name for part in location if isinstance(part, str) and (name := _setting_of(part))]
            if names:
                yield names[0], excerpt(f"{item.get('msg') or words} {item.get('type') or ''}".strip())


def _find_in_message(words: str) -> Iterable[tuple[Setting, str]]:
    """Yield each setting that the message names, if the message says that something is not accepted."""
    if not (_ABOUT_USE.search(words) or _ABOUT_VALUE.search(words)):
        return
    if _REJECTS_THINKING.search(words):
        yield "effort", words
    # "Unsupported parameter: 'max_tokens' … Use 'max_completion_tokens' instead" rejects the first name only.
    rejecting = re.split(r"\b(?:use|try|instead)\b", words, maxsplit=1, flags=re.IGNORECASE)[0]
    for name in re.findall(r"[A-Za-z]+(?:_[A-Za-z]+)*(?:\.[a-z]+)?", rejecting):
        if name.lower() in ("reasoning", "thinking", "think", "effort") and not _is_quoted(name, rejecting):
            continue
        if setting := _setting_of(name):
            yield setting, words


def _is_quoted(name: str, words: str) -> bool:
    as_field = rf"['\"`]{name}['\"`.]|\b{name}:|^{name}\b|(parameter|field|argument):? {name}\b"
    return re.search(as_field, words) is not None


def _setting_of(value: object) -> Setting | None:
    if not isinstance(value, str):
        return None
    for part in re.split(r"[.\[\]]+", value.strip().lower()):
        if part in _NAMES:
            return _NAMES[part]
    return None


def _is_about_value(words: str, codes: str) -> bool:
    if _FIXED.search(words):
        return False
    if "unsupported_value" in codes or "invalid_value" in codes:
        return True
    if re.search(r"unsupported[ _](parameter|field)|extra|unknown|unrecogni[sz]ed", f"{words} {codes}", re.IGNORECASE):
        return False
    return _ABOUT_VALUE.search(words) is not None
