"""Parsing of the query of the page's address: a tab, and settings of that tab. Anybody can write one. No I/O."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from guard.secret_patterns import contains_token
from providers.models.source import ProviderRow
from streaming import strategies
from streaming.errors import UsageError
from ui import entry_strings, strings
from ui.form import MAX_MODEL_CHARS, MAX_TOKENS_RANGE, resolve_full_name

TAB = "tab"
FIRST_TAB = "chat"
COLUMN_COUNTS = range(2, 5)
INTERVAL_RANGE_MS = (10, 1000)
MAX_QUERY_CHARS = 4_000
_MAX_FIELDS = 32
_MAX_SHOWN_CHARS = 40
_MAX_PROBLEM_CHARS = 200
_YES_NO = {"1": "1", "true": "1", "0": "0", "false": "0"}


@dataclass(frozen=True, slots=True)
class PageOffer:
    """What the page has to choose from: its providers, those of the chat's picker, and the pipeline's scenarios."""

    providers: Sequence[ProviderRow]
    chat_providers: Collection[str] = ()
    scenarios: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. `settings` are the valid parameters of `tab`; `problems` says why others are ignored."""

    tab: str
    settings: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def parse_address(query: str, offer: PageOffer) -> Address:
    """Parse the query of an address, with or without its question mark. Unknown parameters are those of others."""
    try:
        pairs = parse_qsl(query[:MAX_QUERY_CHARS].removeprefix("?"), max_num_fields=_MAX_FIELDS)
    except ValueError:
        return Address(FIRST_TAB, problems=(entry_strings.ADDRESS_LONG,))
    given = {name: value.strip() for name, value in pairs if value.strip()}
    reading = _Reading(offer)
    tab = given.get(TAB, FIRST_TAB)
    if tab not in _PARSERS:
        reading.problems.append(entry_strings.ADDRESS_TAB.format(tab=_quote(tab)))
        return Address(FIRST_TAB, problems=tuple(reading.problems))
    for name, parse in _PARSERS[tab].items():
        if name in given:
            reading.take(name, given[name], parse)
    return Address(tab, reading.settings, tuple(reading.problems))


def split_models(models: str, providers: Sequence[ProviderRow]) -> list[tuple[str, str]]:
    """Return provider and model of each full name in a comma-separated list; the model is empty for the default.

    Raises UsageError for a name that is none of this page.
    """
    return [_split_name(name.strip(), providers) for name in models.split(",")]


def split_strategies(names: str, count: int) -> list[str]:
    """Return the strategies of `count` columns from one for all, or one for each, comma-separated."""
    listed = [name.strip() for name in names.split(",")]
    return listed * count if len(listed) == 1 else listed


@dataclass(slots=True)
class _Reading:
    """The settings read so far, in the order of the parsers, of which later ones may depend on earlier ones."""

    offer: PageOffer
    settings: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def take(self, name: str, value: str, parse: "_Parser") -> None:
        """Add a valid parameter to the settings, or what is wrong with it to the problems."""
        try:
            self.settings[name] = parse(value, self)
        except UsageError as error:
            quoted = name if contains_token(value) else f"{name} {_quote(value)}"
            self.problems.append(_truncate(f"{quoted}: {error}", _MAX_PROBLEM_CHARS))


_Parser = Callable[[str, _Reading], str]
"""Returns the value of a parameter as it is written. Raises UsageError."""


def _parse_provider(value: str, reading: _Reading) -> str:
    if value not in reading.offer.chat_providers:
        raise UsageError(entry_strings.ADDRESS_PROVIDER)
    return value


def _parse_model(value: str, reading: _Reading) -> str:
    chosen = reading.settings.get("provider")
    row = next((row for row in reading.offer.providers if row.name == chosen), None)
    if row is None:
        raise UsageError(entry_strings.ADDRESS_MODEL)
    resolve_full_name(row, value)
    return value


def _parse_strategy(value: str, reading: _Reading) -> str:
    del reading
    return str(strategies.parse(value))


def _parse_max_tokens(value: str, reading: _Reading) -> str:
    del reading
    return _parse_whole_number(value, *MAX_TOKENS_RANGE)


def _parse_whole_number(value: str, least: int, most: int) -> str:
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and least <= int(value) <= most):
        raise UsageError(entry_strings.ADDRESS_NUMBER.format(least=least, most=most))
    return str(int(value))


def _parse_models(value: str, reading: _Reading) -> str:
    models = split_models(value, reading.offer.providers)
    if len(models) not in COLUMN_COUNTS:
        raise UsageError(entry_strings.ADDRESS_COUNT)
    return ",".join(name.strip() for name in value.split(","))


def _split_name(name: str, providers: Sequence[ProviderRow]) -> tuple[str, str]:
    if any(row.name == name for row in providers):
        return name, ""
    provider, _, model = name.partition(":")
    row = next((row for row in providers if row.name.partition(":")[0] == provider and not row.simulated), None)
    if row is None or not model or len(name) > MAX_MODEL_CHARS:
        shown = strings.MODEL if contains_token(name) else _quote(name)
        raise UsageError(entry_strings.ADDRESS_COMPARED.format(name=shown))
    resolve_full_name(row, model)
    return row.name, model


def _parse_strategies(value: str, reading: _Reading) -> str:
    names = [str(strategies.parse(name.strip())) for name in value.split(",")]
    count = len(reading.settings["models"].split(",")) if "models" in reading.settings else max(COLUMN_COUNTS)
    if len(names) != 1 and len(names) != count:
        raise UsageError(entry_strings.ADDRESS_STRATEGIES.format(count=count))
    return ",".join(names)


def _parse_yes_no(value: str, reading: _Reading) -> str:
    del reading
    if value.lower() not in _YES_NO:
        raise UsageError(entry_strings.ADDRESS_YES_NO)
    return _YES_NO[value.lower()]


def _parse_scenario(value: str, reading: _Reading) -> str:
    if value not in reading.offer.scenarios:
        raise UsageError(entry_strings.ADDRESS_SCENARIO)
    return value


def _parse_kind(value: str, reading: _Reading) -> str:
    del reading
    if value not in strategies.STRATEGIES:
        raise UsageError(entry_strings.ADDRESS_KIND.format(kinds=", ".join(strategies.STRATEGIES)))
    return value


def _parse_interval(value: str, reading: _Reading) -> str:
    del reading
    return _parse_whole_number(value, *INTERVAL_RANGE_MS)


def _quote(value: str) -> str:
    return f"“{_truncate(value, _MAX_SHOWN_CHARS)}”"


def _truncate(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[:chars] + "…"


_PARSERS: Mapping[str, Mapping[str, _Parser]] = {
    "chat": {
        "provider": _parse_provider,
        "model": _parse_model,
        "strategy": _parse_strategy,
        "max_tokens": _parse_max_tokens,
    },
    "compare": {
        "models": _parse_models,
        "strategy": _parse_strategies,
        "max_tokens": _parse_max_tokens,
        "blind": _parse_yes_no,
    },
    "pipeline": {
        "scenario": _parse_scenario,
        "left": _parse_kind,
        "right": _parse_kind,
        "interval": _parse_interval,
    },
    "results": {},
}
"""The parameters of each tab, in the order in which they are read."""

TABS = tuple(_PARSERS)
PARAMETERS = frozenset({TAB}.union(*_PARSERS.values()))
