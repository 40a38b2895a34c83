"""What is not answered at all: a block list by category, offline, as data (`blocklist.toml`); others plug in beside it.

A phrase is a row of words; `a|b` is either word, and `…` in front stands for every way of asking that the list names
(`asking`): "how to", "give me instructions for". Articles and the like do not count. Only whole words match.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from guard.folding import fold
from streaming.errors import UsageError

DEFAULT_LIST = Path(__file__).with_name("blocklist.toml")
_WORD = re.compile(r"[^\W_]+")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_UNHEARD = frozenset(re.findall(r"\w+", "a an the some any my your his her our their own this that please just really"))
_MOST_WORDS = 12
_MOST_VARIANTS = 5_000


@dataclass(frozen=True, slots=True)
class Blocked:
    """A text that is not let through, and the category it fell under; `message` is for who wrote it, if any."""

    category: str
    message: str | None = None


class ContentFilter(Protocol):
    """What judges a text before it is asked. It may not raise, and takes time in proportion to the text."""

    def check(self, text: str) -> Blocked | None:
        """Give why the text is not let through; None lets it through."""


@dataclass(slots=True)
class _Node:
    """The words that may follow; `category` where a phrase ends."""

    next: dict[str, "_Node"] = field(default_factory=dict)
    category: str | None = None

    def add(self, words: Sequence[str], category: str) -> None:
        node = self
        for word in words:
            node = node.next.setdefault(word, _Node())
        node.category = node.category or category

    def ends(self, words: Sequence[str], start: int) -> Iterator[tuple[int, str]]:
        node: _Node | None = self
        for place in range(start, len(words)):
            node = node.next.get(words[place]) if node else None
            if node is None:
                return
            if node.category is not None:
                yield place + 1, node.category


class BlockList:
    """Phrases by category. Raises UsageError when a phrase cannot be read."""

    def __init__(
        self,
        categories: Mapping[str, Iterable[str]],
        asking: Iterable[str] = (),
        messages: Mapping[str, str] | None = None,
    ) -> None:
        self._messages = dict(messages or {})
        self._asking, self._asked, self._said = _Node(), _Node(), _Node()
        for phrase in asking:
            _add(self._asking, phrase, "asking")
        for category, phrases in categories.items():
            for phrase in phrases:
                if phrase.startswith("…") and not self._asking.next:
                    raise UsageError(f"phrase {phrase!r} in {category}: needs a list `asking` for its …")
                _add(self._asked if phrase.startswith("…") else self._said, phrase.removeprefix("…"), category)

    @classmethod
    def load(cls, path: Path) -> "BlockList":
        """Read a TOML or JSON file. Raises UsageError, naming the file and its fault."""
        try:
            text = path.read_text(encoding="utf-8")
            data: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
            return cls(**_checked(data))
        except OSError as error:
            raise UsageError(f"block list {path}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError, UsageError) as error:
            raise UsageError(f"block list {path}: {error}") from None

    def check(self, text: str) -> Blocked | None:
        """Give the category of the first phrase in the text; linear in its length."""
        words = [word for word in _WORD.findall(fold(text)) if word not in _UNHEARD]
        for start in range(len(words)):
            for _, category in self._said.ends(words, start):
                return self._blocked(category)
            for after, _ in self._asking.ends(words, start):
                for _, category in self._asked.ends(words, after):
                    return self._blocked(category)
        return None

    def _blocked(self, category: str) -> Blocked:
        return Blocked(category, self._messages.get(category))


def _checked(data: Any) -> dict[str, Any]:
    parts = {name: data.get(name) for name in ("categories", "asking", "messages")} if isinstance(data, dict) else {}
    categories, asking, messages = parts.get("categories"), parts.get("asking") or [], parts.get("messages") or {}
    if not isinstance(categories, dict) or not all(map(_NAME.fullmatch, categories)):
        raise UsageError("needs [categories]: lower-case names, each with a list of phrases")
    for name, phrases in [*categories.items(), ("asking", asking)]:
        if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
            raise UsageError(f"{name} must be a list of phrases in quotes")
    if not isinstance(messages, dict) or not all(isinstance(message, str) for message in messages.values()):
        raise UsageError("[messages] must have a text for each category that it names")
    return {"categories": categories, "asking": asking, "messages": messages}


def _add(root: _Node, phrase: str, category: str) -> None:
    choices = [[_WORD.findall(fold(option)) for option in word.split("|")] for word in phrase.split()]
    if not 0 < len(choices) <= _MOST_WORDS or any(len(option) != 1 for word in choices for option in word):
        raise UsageError(f"phrase {phrase!r} in {category}: write 1 to {_MOST_WORDS} words, `a|b` for either")
    if (count := math.prod(map(len, choices))) > _MOST_VARIANTS:
        raise UsageError(f"phrase {phrase!r} in {category}: stands for {count:,} phrases: write several")
    for variant in product(*choices):
        words = [option[0] for option in variant if option[0] not in _UNHEARD]
        if not words:
            raise UsageError(f"phrase {phrase!r} in {category}: only words that do not count")
        root.add(words, category)
