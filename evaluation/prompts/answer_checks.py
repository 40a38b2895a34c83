"""Checks of an answer's text against what the prompt file expects: `exact`, `contains`, `number` or `regex`."""

import re
from dataclasses import dataclass
from typing import Any

_NUMBER_PATTERN = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
KINDS = ("exact", "contains", "number", "regex")


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """What a right answer is; exactly one of the kinds.

    `exact`: the text, apart from white space around it, a final full stop, and upper and lower case. `contains`: each
    of these strings occurs, in upper or lower case. `number`: the last number in the text is within `tolerance` of it.
    `regex`: the pattern is found in the text, as by `re.search`.
    """

    exact: str | None = None
    contains: tuple[str, ...] = ()
    number: float | None = None
    tolerance: float = 0.0
    regex: str | None = None

    def is_correct(self, text: str) -> bool:
        """Return whether an answer is right."""
        if self.exact is not None:
            return _normalize(text) == _normalize(self.exact)
        if self.contains:
            return all(part.casefold() in text.casefold() for part in self.contains)
        if self.regex is not None:
            return re.search(self.regex, text) is not None
        numbers = _NUMBER_PATTERN.findall(text)
        return bool(numbers) and abs(float(numbers[-1].replace(",", "")) - (self.number or 0.0)) <= self.tolerance


def _normalize(text: str) -> str:
    return text.strip().removesuffix(".").rstrip().casefold()


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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
