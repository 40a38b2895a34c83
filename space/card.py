"""The front matter of README.md, from which Hugging Face configures a Space, with the line of each field."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

README = "README.md"
_FENCE = "---"


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule at a line of a file, and the change that mends it. Line 0 stands for the whole file."""

    file: str
    line: int
    text: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text} ({self.remedy})"


class CardError(Exception):
    """Raised when a README has no front matter that can be read. `problem` says where and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Card:
    """The fields of a card by name, and the line of the README on which each begins."""

    fields: Mapping[str, Any]
    lines: Mapping[str, int]

    def problem(self, name: str, text: str, remedy: str) -> Problem:
        """Return a problem of the field `name`; a missing field belongs to the first line."""
        return Problem(README, self.lines.get(name, 1), f"{name}: {text}", remedy)


def read_card(path: Path) -> Card:
    """Return the card of a README. Raises CardError when it has no front matter, or one that is not a mapping."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines[:1] != [_FENCE] or _FENCE not in lines[1:]:
        raise CardError(
            Problem(README, 1, "the front matter is missing", "begin the file with a block between two ---")
        )
    text = "\n".join(lines[1 : lines.index(_FENCE, 1)])
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 2 if mark is not None else 1
        raise CardError(
            Problem(README, line, "the front matter is not YAML", "write name: value on each line")
        ) from None
    if not isinstance(node, yaml.MappingNode):
        raise CardError(Problem(README, 2, "the front matter has no fields", "write name: value on each line"))
    return Card(fields, {key.value: key.start_mark.line + 2 for key, _ in node.value})
