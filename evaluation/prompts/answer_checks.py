"""Checks of an answer's text against what the prompt file expects.

The kinds are `exact`, `contains`, `number`, `regex` and `json_schema`.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Never

if TYPE_CHECKING:
    from jsonschema_rs import Validator

_NUMBER_PATTERN = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_FENCED_PATTERN = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_MAX_REASON_CHARS = 200
KINDS = ("exact", "contains", "number", "regex", "json_schema")


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """What a right answer is; exactly one of the kinds.

    `exact`: the text, apart from white space around it, a final full stop, and upper and lower case. `contains`: each
    of these strings occurs, in upper or lower case. `number`: the last number in the text is within `tolerance` of it.
    `regex`: the pattern is found in the text, as by `re.search`. `json_schema`: the text, or else its last fenced
    block, is JSON that a JSON Schema (here as JSON text) accepts.
    """

    exact: str | None = None
    contains: tuple[str, ...] = ()
    number: float | None = None
    tolerance: float = 0.0
    regex: str | None = None
    json_schema: str | None = None

    def is_correct(self, text: str) -> bool:
        """Return whether an answer is right."""
        if self.exact is not None:
            return _normalize(text) == _normalize(self.exact)
        if self.contains:
            return all(part.casefold() in text.casefold() for part in self.contains)
        if self.regex is not None:
            return re.search(self.regex, text) is not None
        if self.json_schema is not None:
            return _is_accepted(_make_validator(self.json_schema), text)
        numbers = _NUMBER_PATTERN.findall(text)
        return bool(numbers) and abs(float(numbers[-1].replace(",", "")) - (self.number or 0.0)) <= self.tolerance


def _normalize(text: str) -> str:
    return text.strip().removesuffix(".").rstrip().casefold()


def _is_accepted(validator: "Validator", text: str) -> bool:
    blocks = [block for _, block in _FENCED_PATTERN.findall(text)]
    for source in (text, *blocks[-1:]):
        try:
            return bool(validator.is_valid(json.loads(source, parse_constant=_reject_constant)))
        except (ValueError, RecursionError):
            continue
    return False


def _reject_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=256)
def _make_validator(schema: str) -> "Validator":
    """Return the validator of a JSON Schema. Raises ValueError if it is invalid, or refers to another document."""
    from jsonschema_rs import validator_for  # here because few prompt files have a schema

    return validator_for(json.loads(schema), retriever=_reject_reference)


def _reject_reference(uri: str) -> Never:
    raise ValueError("references to other documents are not followed")


def parse_check(fields: Any) -> AnswerCheck:
    """Return the check of a prompt file, such as `{"number": 42, "tolerance": 0.5}`.

    Raises ValueError, in words that follow "expected must be", when it is not a valid check.
    """
    kinds = [kind for kind in KINDS if kind in fields] if isinstance(fields, dict) else []
    if len(kinds) != 1 or set(fields) - {kinds[0], "tolerance"} or ("tolerance" in fields and kinds != ["number"]):
        raise ValueError(f'one of {", ".join(KINDS)}, as in {{"contains": ["Lisbon"]}}')
    kind, value = kinds[0], fields[kinds[0]]
    if kind == "number":
        return _number_check(value, fields.get("tolerance", 0.0))
    if kind == "contains":
        return _contains_check([value] if isinstance(value, str) else value)
    if kind == "json_schema":
        return _schema_check(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f'a text, as in {{"{kind}": "Lisbon"}}')
    if kind == "exact":
        return AnswerCheck(exact=value)
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return AnswerCheck(regex=value)


def _number_check(value: Any, tolerance: Any) -> AnswerCheck:
    if not _is_number(value) or not _is_number(tolerance) or tolerance < 0:
        raise ValueError('a number, as in {"number": 42, "tolerance": 0.5}')
    return AnswerCheck(number=float(value), tolerance=float(tolerance))


def _contains_check(parts: Any) -> AnswerCheck:
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) and part for part in parts):
        raise ValueError('a list of strings, as in {"contains": ["Lisbon"]}')
    return AnswerCheck(contains=tuple(parts))


def _schema_check(schema: Any) -> AnswerCheck:
    try:
        if not isinstance(schema, dict):
            raise ValueError("it is not an object")
        check = AnswerCheck(json_schema=json.dumps(schema, allow_nan=False))
        _make_validator(str(check.json_schema))
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:_MAX_REASON_CHARS]
        raise ValueError(f'a JSON Schema, as in {{"json_schema": {{"type": "object"}}}}: {reason}') from None
    return check


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
