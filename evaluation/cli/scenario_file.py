"""Reading of scenario files in TOML: every option of `run` by name, validated, with line numbers in error messages.

`docs/scenario.toml` is an example with every key. Options on the command line override the file.
"""

import difflib
import math
import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from evaluation.analysis import slo
from evaluation.answer_checks import AnswerCheck, parse_check
from evaluation.backends.service_process import validate_url
from evaluation.cli.timeouts import parse_timeouts
from evaluation.prompt_file import Prompt, read_prompts
from evaluation.scenario import ARRIVALS
from providers.pricing import TokenPrices
from streaming import strategies
from streaming.errors import UsageError
from streaming.session import Timeouts


@dataclass(frozen=True, slots=True)
class ScenarioFile:
    """A parsed scenario file: `values` by option name, converted to their types, and `lines` by key."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def location_of(self, key: str) -> str:
        """Return the prefix `FILE, line N: ` for an error message about a key; empty if the file does not have it."""
        return f"{self.path}, line {self.lines[key]}: " if key in self.lines else ""


def read_scenario_file(path: Path) -> ScenarioFile:
    """Read and validate a scenario file.

    Raises UsageError, on one line and with the file and line number, when the file or a value is invalid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"scenario {path}: {reason}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"scenario {path}: not TOML: {error}") from None
    reader = _ScenarioFileReader(path, text)
    values = {key: reader.read_value(key, value) for key, value in data.items()}
    if "prompts" in values and "prompts_file" in values:
        reader.raise_at("prompts_file", "prompts and prompts_file are both set (set one of them)")
    if "prompts_file" in values:
        values["prompts"] = reader.read_prompts_file(values.pop("prompts_file"))
    return ScenarioFile(path, values, {key: reader.line_of(key) for key in data})


def _whole_number_checker(least: int) -> Callable[[Any], int]:
    def check_whole_number(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return check_whole_number


def _number_checker(least: float, *, above: bool = False) -> Callable[[Any], float]:
    def check_number(value: Any) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < least or (above and value == least):
            raise ValueError(f"a number {'above' if above else 'of at least'} {least:g}")
        return float(value)

    return check_number


def _check_names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError('a list of names, as in ["local", "sim:steady"]')
    return tuple(name.strip() for name in value)


def _check_transports(value: Any) -> tuple[str, ...]:
    return _check_names([value] if isinstance(value, str) else value)


def _efforts(value: Any) -> tuple[str, ...]:
    return tuple(name.lower() for name in _check_names([value] if isinstance(value, str) else value))


def _check_url(value: Any) -> str:
    return validate_url(_check_text(value))


def _check_slo(value: Any) -> str:
    text = _check_text(value)
    slo.parse_slo(text)
    return text


def _check_strategies(value: Any) -> tuple[str, ...]:
    return tuple(str(strategies.parse(name)) for name in _check_names(value))


def _check_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a non-empty string")
    return value


def _check_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _check_arrivals(value: Any) -> str:
    if value not in ARRIVALS:
        raise ValueError(" or ".join(f'"{name}"' for name in ARRIVALS))
    return str(value)


def _check_timeouts(value: Any) -> Timeouts:
    return parse_timeouts(_check_text(value))


def _check_share(value: Any) -> float:
    number = _number_checker(0.0)(value)
    if number > 1:
        raise ValueError("a number from 0 to 1")
    return number


def _check_expected(value: Any) -> AnswerCheck:
    return parse_check(value)


def _check_usd(value: Any) -> Decimal:
    _number_checker(0.0)(value)
    return Decimal(str(value))


KEY_CHECKERS: dict[str, Callable[[Any], Any]] = {
    "providers": _check_names,
    "strategies": _check_strategies,
    "transport": _check_transports,
    "url": _check_url,
    "prompts_file": _check_text,
    "prompt_count": _whole_number_checker(1),
    "repeats": _whole_number_checker(1),
    "concurrency": _whole_number_checker(1),
    "rate": _number_checker(0.0, above=True),
    "arrivals": _check_arrivals,
    "max_tokens": _whole_number_checker(1),
    "temperature": _number_checker(0.0),
    "effort": _efforts,
    "seed": _whole_number_checker(0),
    "retries": _whole_number_checker(0),
    "warm_up": _check_flag,
    "fresh": _check_flag,
    "warm": _check_flag,
    "timeouts": _check_timeouts,
    "record": _check_flag,
    "plots": _check_flag,
    "slo": _check_slo,
    "max_cost_usd": _check_usd,
    "calibration": _check_text,
    "resume": _check_flag,
    "retry_failed": _check_flag,
    "max_failures": _check_share,
    "dry_run": _check_flag,
    "out": _check_text,
}
_PATH_KEYS = ("prompts_file", "calibration", "out")
PROMPT_KEY_CHECKERS: dict[str, Callable[[Any], Any]] = {
    "id": _check_text,
    "prompt": _check_text,
    "expected_tokens": _whole_number_checker(1),
    "expected": _check_expected,
}
PRICE_KEY_CHECKERS: dict[str, Callable[[Any], Any]] = {"input": _check_usd, "output": _check_usd, "cached": _check_usd}


class _ScenarioFileReader:
    """A validator of values. It finds line numbers by searching for the key, because tomllib has none."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._lines_by_key: dict[str, list[int]] = {}

    def read_value(self, key: str, value: Any) -> Any:
        if key == "prompts":
            return self._check_prompts(value)
        if key == "prices":
            return self._check_prices(value)
        checked = self._check_value(
            key, key, value, {**KEY_CHECKERS, "prompts": _check_text, "prices": _check_text}, self.line_of(key)
        )
        if key not in _PATH_KEYS:
            return checked
        return self._path.parent / checked if key == "prompts_file" else Path(checked)

    def line_of(self, key: str, nth: int = 0, after: int = 0) -> int:
        """Return the line number of the n-th occurrence, from 0, of a key or table after line `after`.

        The last occurrence if there are fewer; `after`, or 1 if that is 0, if there is none.
        """
        if key not in self._lines_by_key:
            quoted = rf"(?:{re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')"
            start = re.compile(rf"\s*(?:{quoted}\s*[=.]|\[\[?\s*{quoted}\s*[\].])|.*[{{,]\s*{quoted}\s*=")
            self._lines_by_key[key] = [number for number, line in enumerate(self._lines, start=1) if start.match(line)]
        line_numbers = self._lines_by_key[key]
        first = bisect_right(line_numbers, after)
        return line_numbers[min(first + nth, len(line_numbers) - 1)] if first < len(line_numbers) else max(after, 1)

    def raise_at(self, key: str, words: str) -> None:
        raise UsageError(f"{self._path}, line {self.line_of(key)}: {words}")

    def read_prompts_file(self, file: Path) -> tuple[Prompt, ...]:
        """Read the file of prompts. Raises UsageError, with the line that names the file, when it is invalid."""
        try:
            return read_prompts(file)
        except UsageError as error:
            raise UsageError(f"{self._path}, line {self.line_of('prompts_file')}: {error}") from None

    def _check_value(self, name: str, key: str, value: Any, keys: Mapping[str, Callable[[Any], Any]], line: int) -> Any:
        where = f"{self._path}, line {line}: "
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(keys)}"
            raise UsageError(f"{where}{key!r} is not a key ({hint})")
        try:
            return keys[key](value)
        except ValueError as error:
            raise UsageError(f"{where}{name}: invalid value (write {error})") from None
        except UsageError as error:
            words = str(error).removeprefix("--")
            raise UsageError(f"{where}{words if words.startswith(name) else f'{name}: {words}'}") from None

    def _check_prompts(self, value: Any) -> tuple[Prompt, ...]:
        if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
            self.raise_at("prompts", "prompts: not a list of tables (write [[prompts]], each with id and prompt)")
        prompts: list[Prompt] = []
        seen: set[str] = set()
        for place, entry in enumerate(value):
            head = self.line_of("prompts", place)
            checked = {
                k: self._check_value(k, k, v, PROMPT_KEY_CHECKERS, self.line_of(k, after=head))
                for k, v in entry.items()
            }
            if missing := {"id", "prompt"} - set(checked):
                raise UsageError(
                    f"{self._path}, line {head}: the prompt has no {' and no '.join(sorted(missing))} (add it)"
                )
            if checked["id"] in seen:
                raise UsageError(
                    f"{self._path}, line {self.line_of('id', after=head)}: the id is used already (use unique ids)"
                )
            seen.add(checked["id"])
            prompts.append(
                Prompt(checked["id"], checked["prompt"], checked.get("expected_tokens"), checked.get("expected"))
            )
        return tuple(prompts)

    def _check_prices(self, value: Any) -> dict[str, TokenPrices]:
        if not isinstance(value, dict):
            self.raise_at("prices", 'prices: not a table (write [prices], "MODEL" = { input = 1.0, output = 2.0 })')
        prices: dict[str, TokenPrices] = {}
        for model, pair in value.items():
            line = self.line_of(model, after=self.line_of("prices") - 1)
            if not isinstance(pair, dict) or not {"input", "output"} <= set(pair):
                raise UsageError(
                    f"{self._path}, line {line}: not a price (write {{ input = 1.0, output = 2.0 }}, USD per 1M tokens)"
                )
            checked = {
                k: self._check_value(f"the price's {k}", k, v, PRICE_KEY_CHECKERS, line) for k, v in pair.items()
            }
            prices[model] = TokenPrices(checked["input"], checked["output"], checked.get("cached"))
        return prices
