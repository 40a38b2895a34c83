"""A scenario as a TOML file: every option of `run` by its name, checked, and the line at fault named.

`docs/scenario.toml` is an example with every key. The command's own options win over the file.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from evaluation import slo
from evaluation.scenario import ARRIVALS, Prompt, read_prompts
from evaluation.service import checked
from providers.pricing import TokenPrices
from streaming import strategies
from streaming.errors import UsageError


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a file asks for: `values` by the names of the options, already of their types."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def where(self, key: str) -> str:
        """Give `FILE, line N: ` for a key, so that a complaint about its value can name it."""
        return f"{self.path}, line {self.lines[key]}: " if key in self.lines else ""


def read(path: Path) -> Recipe:
    """Read a scenario file. Raises UsageError in one line that names the file and, where there is one, the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"scenario {path}: {reason}") from None
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"scenario {path}: not TOML: {error}") from None
    reader = _Reader(path, text)
    values = {key: reader.value(key, value) for key, value in found.items()}
    if "prompts" in values and "prompts_file" in values:
        reader.fail("prompts_file", "prompts and prompts_file exclude each other")
    if "prompts_file" in values:
        values["prompts"] = reader.prompts_of(values.pop("prompts_file"))
    return Recipe(path, values, {key: reader.line(key) for key in found})


def _whole(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number from {least} on")
        return value

    return check


def _number(least: float, *, above: bool = False) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < least or (above and value == least):
            raise ValueError(f"a number {'above' if above else 'from'} {least:g}{'' if above else ' on'}")
        return float(value)

    return check


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError('a list of names, as in ["local", "sim:steady"]')
    return tuple(name.strip() for name in value)


def _transports(value: Any) -> tuple[str, ...]:
    return _names([value] if isinstance(value, str) else value)


def _efforts(value: Any) -> tuple[str, ...]:
    return tuple(name.lower() for name in _names([value] if isinstance(value, str) else value))


def _url(value: Any) -> str:
    return checked(_text(value))


def _slo(value: Any) -> str:
    text = _text(value)
    slo.parse(text)
    return text


def _strategies(value: Any) -> tuple[str, ...]:
    return tuple(str(strategies.parse(name)) for name in _names(value))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _arrivals(value: Any) -> str:
    if value not in ARRIVALS:
        raise ValueError(" or ".join(f'"{name}"' for name in ARRIVALS))
    return str(value)


def _money(value: Any) -> Decimal:
    _number(0.0)(value)
    return Decimal(str(value))


_KEYS: dict[str, Callable[[Any], Any]] = {
    "providers": _names,
    "strategies": _strategies,
    "transport": _transports,
    "url": _url,
    "prompts_file": _text,
    "prompt_count": _whole(1),
    "repeats": _whole(1),
    "concurrency": _whole(1),
    "rate": _number(0.0, above=True),
    "arrivals": _arrivals,
    "max_tokens": _whole(1),
    "temperature": _number(0.0),
    "effort": _efforts,
    "seed": _whole(0),
    "retries": _whole(0),
    "warm_up": _flag,
    "record": _flag,
    "plots": _flag,
    "slo": _slo,
    "max_cost_usd": _money,
    "calibration": _text,
    "resume": _flag,
    "dry_run": _flag,
    "out": _text,
}
_PATHS = ("prompts_file", "calibration", "out")
_PROMPT_KEYS: dict[str, Callable[[Any], Any]] = {"id": _text, "prompt": _text, "expected_tokens": _whole(1)}
_PRICE_KEYS: dict[str, Callable[[Any], Any]] = {"input": _money, "output": _money, "cached": _money}


class _Reader:
    """Checks values; finds a value's line by its key, since the parser keeps none."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def value(self, key: str, value: Any) -> Any:
        if key == "prompts":
            return self._prompts(value)
        if key == "prices":
            return self._prices(value)
        checked = self._checked(key, key, value, {**_KEYS, "prompts": _text, "prices": _text}, self.line(key))
        if key not in _PATHS:
            return checked
        return self._path.parent / checked if key == "prompts_file" else Path(checked)

    def line(self, key: str, nth: int = 0, after: int = 0) -> int:
        """Give the line on which a key, or a table of this name, stands for the n-th time; 1 when it is not found."""
        quoted = rf"(?:{re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')"
        start = re.compile(rf"\s*(?:{quoted}\s*[=.]|\[\[?\s*{quoted}\s*[\].])|.*[{{,]\s*{quoted}\s*=")
        found = [number for number, line in enumerate(self._lines, start=1) if number > after and start.match(line)]
        return found[min(nth, len(found) - 1)] if found else max(after, 1)

    def fail(self, key: str, words: str) -> None:
        raise UsageError(f"{self._path}, line {self.line(key)}: {words}")

    def prompts_of(self, file: Path) -> tuple[Prompt, ...]:
        """Read the file of prompts; what is wrong with it is said with the line that names it."""
        try:
            return read_prompts(file)
        except UsageError as error:
            raise UsageError(f"{self._path}, line {self.line('prompts_file')}: {error}") from None

    def _checked(self, name: str, key: str, value: Any, keys: Mapping[str, Callable[[Any], Any]], line: int) -> Any:
        where = f"{self._path}, line {line}: "
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(keys)}"
            raise UsageError(f"{where}there is no key {key!r}; {hint}")
        try:
            return keys[key](value)
        except ValueError as error:
            raise UsageError(f"{where}{name} must be {error}") from None
        except UsageError as error:
            words = str(error).removeprefix("--")
            raise UsageError(f"{where}{words if words.startswith(name) else f'{name}: {words}'}") from None

    def _prompts(self, value: Any) -> tuple[Prompt, ...]:
        if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
            self.fail("prompts", "prompts must be tables: [[prompts]], each with id and prompt")
        prompts: list[Prompt] = []
        for place, entry in enumerate(value):
            head = self.line("prompts", place)
            checked = {k: self._checked(k, k, v, _PROMPT_KEYS, self.line(k, after=head)) for k, v in entry.items()}
            if missing := {"id", "prompt"} - set(checked):
                raise UsageError(f"{self._path}, line {head}: this prompt has no {' and no '.join(sorted(missing))}")
            if checked["id"] in (prompt.id for prompt in prompts):
                raise UsageError(f"{self._path}, line {self.line('id', after=head)}: the id is there already")
            prompts.append(Prompt(checked["id"], checked["prompt"], checked.get("expected_tokens")))
        return tuple(prompts)

    def _prices(self, value: Any) -> dict[str, TokenPrices]:
        if not isinstance(value, dict):
            self.fail("prices", 'prices must be a table: [prices], "MODEL" = { input = 1.0, output = 2.0 }')
        found: dict[str, TokenPrices] = {}
        for model, pair in value.items():
            line = self.line(model, after=self.line("prices") - 1)
            if not isinstance(pair, dict) or not {"input", "output"} <= set(pair):
                raise UsageError(
                    f"{self._path}, line {line}: a price is {{ input = 1.0, output = 2.0 }}, USD for 1M tokens"
                )
            checked = {k: self._checked(f"the price's {k}", k, v, _PRICE_KEYS, line) for k, v in pair.items()}
            found[model] = TokenPrices(checked["input"], checked["output"], checked.get("cached"))
        return found
