"""Facts about services and models, as dated entries in `facts.toml` and in the file that PROVIDER_FACTS names.

Facts become outdated. Therefore every entry names its source, the day it was checked and how it was confirmed. If a
service rejects a setting that the facts allow, the request is retried without it (`providers.models.fitting`). A
retirement date causes a warning and blocks nothing.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints, ValidationError

from streaming.errors import UsageError

BUILT_IN = Path(__file__).with_name("facts.toml")
VARIABLE = "PROVIDER_FACTS"
MAX_FILE_BYTES = 1_000_000
RETIRING_DAYS = 30
"""A model whose retirement is at most so many days away counts as retiring."""

Setting = Literal["temperature", "top_p", "top_k", "max_tokens", "effort", "stream_options"]
EffortField = Literal["reasoning_effort", "reasoning", "think", "thinking", "thinking_and_reasoning_effort"]
"""The field of a chat request that carries the effort. The Anthropic and Responses dialects have fixed fields instead.

`reasoning`: an object with `effort`; `think`: Ollama's flag or level; `thinking`: an object that switches thinking on
or off; `thinking_and_reasoning_effort`: DeepSeek's two fields.
"""
Confirmation = Literal["page", "sdk", "recording", "report", "unconfirmed"]
Day = Annotated[date, Strict()]
Flag = Annotated[bool, Strict()]
Number = Annotated[int, Strict()]
Word = Annotated[str, StringConstraints(min_length=1, max_length=300, strip_whitespace=True)]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Words = Annotated[tuple[Word, ...], BeforeValidator(_as_list), Field(min_length=1)]


class Entry(BaseModel):
    """The fields that every entry has: its source, the day it was checked, and how it was confirmed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Word
    checked: Day
    confirmed: Confirmation


class ServiceFacts(Entry):
    """The address of one service and an example of its models.

    `example_is_placeholder`: the service's owner chooses the models' names. When `lists_models` is false, the service
    has no list of models.
    """

    service: Word
    address: Word | None = None
    example: Word
    example_is_placeholder: Flag = False
    lists_models: Flag = True


class ModelEntry(Entry):
    """What certain models of certain services accept. `models` are patterns; a field that is None states nothing."""

    service: Words
    models: Words
    own_address_only: Flag = False
    takes: tuple[Setting, ...] = ()
    refuses: tuple[Setting, ...] | None = None
    takes_with_effort_none: tuple[Setting, ...] | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    max_temperature: float | None = Field(None, gt=0)
    max_output_tokens: Number | None = Field(None, ge=1)
    effort_field: EffortField | None = None
    effort_values: tuple[Word, ...] | None = None
    thinks: Flag | None = None
    thinks_unseen: Flag | None = None
    thinking_room: Number | None = Field(None, ge=0, le=1_000_000)
    retires: Day | None = None
    successor: Word | None = None

    def matches(self, service: str, model: str, *, own_address: bool) -> bool:
        """Return whether the entry applies to this model."""
        if service not in self.service or (self.own_address_only and not own_address):
            return False
        return any(fnmatchcase(model.lower(), pattern.lower()) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known about one model from all entries that apply to it. None means unknown.

    Empty `effort_values`: the model accepts no effort. `thinking_room`: the number of tokens for thinking to add to the
    vendor's limit beside the visible answer. `checked` is the earliest day of the entries that apply.
    """

    refuses: frozenset[Setting] = frozenset()
    takes_with_effort_none: frozenset[Setting] = frozenset()
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    max_temperature: float | None = None
    max_output_tokens: int | None = None
    effort_field: EffortField = "reasoning_effort"
    effort_values: tuple[str, ...] | None = None
    thinks: bool = False
    thinks_unseen: bool = False
    thinking_room: int = 0
    retires: date | None = None
    successor: str | None = None
    checked: date | None = None

    def refuses_setting(self, setting: Setting, effort: str | None) -> bool:
        """Return whether the model is known to reject a setting when it is combined with this effort."""
        return setting in self.refuses and not (effort == "none" and setting in self.takes_with_effort_none)

    def takes_effort(self, effort: str) -> bool:
        """Return whether the model may accept this effort. True when its efforts are unknown."""
        return self.effort_values is None or effort in self.effort_values

    def room_for_thinking(self, effort: str | None) -> int:
        """Return the tokens to add to the vendor's limit, so that thinking does not use up the visible answer's."""
        return 0 if effort == "none" and self.takes_effort("none") else self.thinking_room

    def describe_retirement(self, model: str, today: date) -> str | None:
        """Return a sentence with the model's retirement date and its successor, None when no date is known."""
        if self.retires is None:
            return None
        follows = f"; its successor is {self.successor}" if self.successor else ""
        verb = "was retired" if self.retires <= today else "retires"
        return f"{model} {verb} on {self.retires.isoformat()}{follows}"

    def is_retiring(self, today: date) -> bool:
        """Return whether the model is retired or will be within RETIRING_DAYS."""
        return self.retires is not None and (self.retires - today).days <= RETIRING_DAYS


class Facts:
    """All entries about services and models, the built-in ones first. Immutable."""

    def __init__(self, services: Sequence[ServiceFacts] = (), models: Sequence[ModelEntry] = ()) -> None:
        self._services = {entry.service: entry for entry in services}
        self.models = tuple(models)

    def extend(self, other: "Facts") -> "Facts":
        """Return the entries of both; those of `other` take precedence."""
        services = (*self.service_entries, *other.service_entries)
        return Facts(services, (*self.models, *other.models))

    @property
    def service_entries(self) -> tuple[ServiceFacts, ...]:
        """The entries about services."""
        return tuple(self._services.values())

    def service(self, name: str) -> ServiceFacts | None:
        """Return the facts about a service, None when it has no entry."""
        return self._services.get(name)

    def services(self) -> tuple[str, ...]:
        """Return the names of all services that entries mention."""
        named = [name for entry in self.models for name in entry.service]
        return tuple(dict.fromkeys([*self._services, *named]))

    def model(self, service: str, model: str, *, own_address: bool = True) -> ModelFacts:
        """Return the facts about a model. `own_address`: requests go to the vendor's own address."""
        model_facts = ModelFacts()
        for entry in self.models:
            if entry.matches(service, model, own_address=own_address):
                model_facts = _merge(model_facts, entry)
        return model_facts


def _merge(facts: ModelFacts, entry: ModelEntry) -> ModelFacts:
    """Return the facts updated with one entry, whose values take precedence."""
    names: tuple[str, ...] = (
        "max_tokens_field",
        "max_temperature",
        "max_output_tokens",
        "effort_field",
        "effort_values",
    )
    names += ("thinks", "thinks_unseen", "thinking_room", "retires", "successor")
    changes = {name: value for name in names if (value := getattr(entry, name)) is not None}
    refuses = facts.refuses if entry.refuses is None else frozenset(entry.refuses)
    changes["refuses"] = refuses - frozenset(entry.takes)
    if entry.takes_with_effort_none is not None:
        changes["takes_with_effort_none"] = frozenset(entry.takes_with_effort_none)
    changes["checked"] = entry.checked if facts.checked is None else min(entry.checked, facts.checked)
    return replace(facts, **changes)


@lru_cache(maxsize=1)
def load_built_in_facts() -> Facts:
    """Return the facts that are part of this project."""
    return read_facts(BUILT_IN)


def load_facts(path: str | None, services: Sequence[str] = ()) -> Facts:
    """Return the built-in facts, extended by those of a file if `path` is set.

    `services`: the service names that the file may use; an empty sequence allows any. Raises UsageError naming the file
    and the line.
    """
    if path is None:
        return load_built_in_facts()
    try:
        return load_built_in_facts().extend(read_facts(Path(path).expanduser(), services))
    except UsageError as error:
        raise UsageError(f"{VARIABLE}: {error}") from None


def read_facts(path: Path, services: Sequence[str] = ()) -> Facts:
    """Read a file of facts. Raises UsageError naming the file and, if possible, the line."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path}: larger than {MAX_FILE_BYTES} bytes (use a smaller file)")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise UsageError(f"{path}: {reason} (name a TOML file that can be read)") from None
    return parse_facts(text, str(path), services)


def parse_facts(text: str, name: str, services: Sequence[str] = ()) -> Facts:
    """Parse the text of a file of facts. `name` is the file's name in errors. Raises UsageError naming the line."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{name}: not TOML: {error}") from None
    lines = _Lines(text, name)
    for key, value in data.items():
        if key not in ("service", "model"):
            raise UsageError(f"{lines.where(key)}unknown key {key!r} (write [[service]] or [[model]] entries)")
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise UsageError(f"{lines.where(key)}{key} must be a list of entries (write [[{key}]])")
    parsed = Facts(
        [_parse_entry(ServiceFacts, entry, lines, "service", n) for n, entry in enumerate(data.get("service", ()))],
        [_parse_entry(ModelEntry, entry, lines, "model", n) for n, entry in enumerate(data.get("model", ()))],
    )
    if services and (unknown := [service for service in parsed.services() if service not in services]):
        raise UsageError(
            f"{lines.where_text(unknown[0])}there is no service {unknown[0]!r} (use one of {', '.join(services)})"
        )
    return parsed


def _parse_entry(cls: Any, entry: Mapping[str, Any], lines: "_Lines", kind: str, number: int) -> Any:
    try:
        return cls.model_validate(entry)
    except ValidationError as error:
        # A misspelt field often causes another error, that of a missing field: report the misspelling first.
        first = min(error.errors(), key=lambda fields: fields["type"] != "extra_forbidden")
        key = str(first["loc"][0]) if first["loc"] else ""
        where = lines.where_in_entry(kind, number, key)
        problem = _problem(first, key, entry, tuple(cls.model_fields))
        raise UsageError(f"{where}[[{kind}]] {number + 1}: {problem}") from None


def _problem(error: Any, key: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> str:
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=1)
        return f"unknown field {key!r} ({f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(known)})"
    if error["type"] == "missing":
        hint = "the day it was checked, as 2026-11-28" if key == "checked" else "every entry needs it"
        return f"{key} is missing ({hint})"
    return f"{key} cannot be {str(entry.get(key))[:60]!r}: {error['msg'][:1].lower()}{error['msg'][1:]}"


class _Lines:
    """A finder of the line numbers of entries and keys, which the TOML parser does not report."""

    def __init__(self, text: str, name: str) -> None:
        self._lines = text.splitlines()
        self._name = name

    def where(self, key: str) -> str:
        """Return `FILE, line N: ` for a top-level key or table."""
        return self._at(next(self._matching(rf"\s*(?:\[\[?\s*)?[\"']?{re.escape(key)}\b"), 1))

    def where_text(self, text: str) -> str:
        """Return `FILE, line N: ` for the first line that contains a text in quotes."""
        return self._at(next(self._matching(rf".*[\"']{re.escape(text)}[\"']"), 1))

    def where_in_entry(self, kind: str, number: int, key: str) -> str:
        """Return `FILE, line N: ` for a key of the entry with index `number`, else for the entry itself."""
        heads = list(self._matching(rf"\s*\[\[\s*[\"']?{kind}[\"']?\s*\]\]"))
        if number >= len(heads):
            return self.where(kind)
        others = [line for line in self._matching(r"\s*\[") if line > heads[number]]
        end = min([line for line in others if self._lines[line - 1].lstrip().startswith("[[")], default=10**9)
        keys = self._matching(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]")
        return self._at(next((line for line in keys if heads[number] < line < end), heads[number]))

    def _at(self, line: int) -> str:
        return f"{self._name}, line {line}: "

    def _matching(self, pattern: str) -> Iterator[int]:
        return (number for number, line in enumerate(self._lines, start=1) if re.match(pattern, line))
