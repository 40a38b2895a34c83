"""Reading of scenario files in TOML: every option of `run` by name, validated, with line numbers in error messages.

`docs/scenario.toml` is an example with every key. Options on the command line override the file.
"""

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.cli.run_model import TABLES, InvalidValueError, Location, PromptEntry, RunModel, validate_values
from evaluation.prompts.prompt_file import Prompt, read_prompts
from streaming.errors import UsageError


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
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"scenario {path}: not TOML: {error}") from None
    lines = _LineFinder(text)
    try:
        values = _read_prompts(validate_values(data, lines.locate), path.parent)
    except InvalidValueError as error:
        raise UsageError(f"{path}, line {lines.locate(error.location)}: {error}") from None
    return ScenarioFile(path, values, {key: lines.line_of(key) for key in data})


def _read_prompts(model: RunModel, folder: Path) -> dict[str, Any]:
    """Return the values that were set, the prompts read from their file, which is relative to the scenario's folder."""
    values = {key: getattr(model, key) for key in model.model_fields_set}
    if model.prompts is not None and model.prompts_file is not None:
        raise InvalidValueError("prompts and prompts_file are both set (set one of them)", ("prompts_file",))
    if model.prompts is not None:
        values["prompts"] = _make_prompts(model.prompts)
    if model.trace is not None:
        values["trace"] = str(folder / model.trace)
    if model.prompts_file is not None:
        del values["prompts_file"]
        try:
            values["prompts"] = read_prompts(folder / model.prompts_file)
        except UsageError as error:
            raise InvalidValueError(str(error), ("prompts_file",)) from None
    return values


def _make_prompts(entries: tuple[PromptEntry, ...]) -> tuple[Prompt, ...]:
    if not entries:
        raise InvalidValueError(TABLES["prompts"], ("prompts",))
    seen: set[str] = set()
    for place, entry in enumerate(entries):
        if entry.id in seen:
            raise InvalidValueError("the id is used already (use unique ids)", ("prompts", place, "id"))
        if entry.system is not None and any(message.role == "system" for message in entry.messages):
            words = "system and a system message are both set (set one of them)"
            raise InvalidValueError(words, ("prompts", place, "system"))
        seen.add(entry.id)
    return tuple(
        Prompt(
            entry.id, entry.prompt, entry.expected_tokens, entry.expected, entry.system, entry.messages,
            entry.max_tokens, turns=entry.turns,
        )
        for entry in entries
    )  # fmt: skip


class _LineFinder:
    """Finds the lines of keys by searching for them, since tomllib keeps none."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._lines_by_key: dict[str, list[int]] = {}

    def locate(self, location: Location) -> int:
        """Return the line of a value of the file's model."""
        first, *rest = location
        if first == "prices" and rest:
            return self.line_of(str(rest[0]), after=self.line_of("prices") - 1)
        if first != "prompts" or not rest:
            return self.line_of(str(first))
        head = self.line_of("prompts", int(rest[0]))
        return self.line_of(str(rest[1]), after=head) if rest[1:] else head

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
