"""Content filtering of requests: an offline block list by category (`blocklist.toml`), with room for other filters.

A phrase is a sequence of words: `a|b` matches either word, `a?` is optional, and `{group}` matches any word of a group.
A leading `…` stands for any phrase in the list's `asking` section, such as "how to" or "give me instructions for". Only
whole words match, as split by `guard.words`. Articles and the words in `ignored` may appear between the words of a
phrase and are not part of it unless written as `=my`. A possessive ("my mother's friend") may also appear there.

`>name` at the end of a phrase restricts what may follow it, so that "make a bomb" matches but "make a bomb calorimeter"
does not: either the clause ends, or one of that ending's phrases follows. If several of them match, the longest
decides. A leading `-` on an ending's phrase means that the blocked phrase does not match before it.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from guard.text_normalization import normalize
from guard.words import Vocabulary, Word
from streaming.errors import UsageError

DEFAULT_BLOCKLIST = Path(__file__).with_name("blocklist.toml")
_WORD = re.compile(r"[^\W_]+")
_CATEGORY_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_GROUP = re.compile(r"\{([a-z0-9-]{1,32})\}")
_IGNORED = tuple(re.findall(r"\w+", "a an the some any my your his her our their own this that please just really"))
_MAX_PHRASE_WORDS = 12
_MAX_SKIPPED = 4
"""The maximum number of consecutive ignored words inside a phrase. A longer run breaks the match."""


@dataclass(frozen=True, slots=True)
class BlockedText:
    """The category of a blocked text, with an optional `message` for its author."""

    category: str
    message: str | None = None


class ContentFilter(Protocol):
    """A filter that checks a text before it is sent. It must not raise, and must run in linear time."""

    def check(self, text: str) -> BlockedText | None:
        """Return the reason for blocking the text, or None to allow it."""


@dataclass(slots=True, eq=False)
class _PhraseNode:
    """A node in the phrase tree: the words that may follow, plus `category` and `ending` if a phrase ends here."""

    next: dict[str, list["_PhraseNode"]] = field(default_factory=dict)
    category: str | None = None
    ending: str = ""

    def add(self, choices: Sequence["_Choice"], category: str, ending: str = "") -> bool:
        """Add a phrase. Return whether it has at least one required word."""
        ends = [self]
        for choice in choices:
            node = _PhraseNode()
            for end in ends:
                for word in choice.words:
                    end.next.setdefault(word, []).append(node)
            ends = [node, *ends] if choice.optional else [node]
        if self in ends:
            return False
        for end in ends:
            end.category, end.ending = category, ending
        return True

    def find_ends(
        self, words: Sequence[Word], start: int, ignored: frozenset[str]
    ) -> Iterator[tuple[int, "_PhraseNode"]]:
        """Yield the end index and the last node of every phrase that begins at `start`."""
        paths = [(self, start, 0)]
        while paths:
            node, place, skipped = paths.pop()
            if node.category is not None:
                yield place, node
            if place == len(words):
                continue
            word = words[place]
            paths += [(follower, place + 1, 0) for follower in node.next.get(word.text, ())]
            if node is not self and node.next and skipped < _MAX_SKIPPED and (word.possessive or word.text in ignored):
                paths.append((node, place + 1, skipped + 1))


@dataclass(frozen=True, slots=True)
class _Choice:
    """The alternative words at one position in a phrase."""

    words: frozenset[str]
    optional: bool


class _Ending:
    """A tree of the phrases that may follow a blocked phrase."""

    def __init__(self, phrases: Iterable[str], name: str) -> None:
        self._follows = _PhraseNode()
        for phrase in phrases:
            choices = _choices(phrase.removeprefix("-"), f"ending {name}", {}, frozenset())
            self._follows.add(choices, "-" if phrase.startswith("-") else "+")

    def words(self) -> Iterator[str]:
        yield from _words_below(self._follows)

    def allows(self, words: Sequence[Word], place: int) -> bool:
        """Return whether a phrase may end before `words[place]`. The longest following phrase decides."""
        last = words[place - 1]
        if last.ends_clause:
            return True
        if last.possessive or last.gap == "-":
            return False
        longest = max(self._follows.find_ends(words, place, frozenset()), key=_by_length, default=None)
        return longest is not None and longest[1].category == "+"


def _by_length(end: tuple[int, _PhraseNode]) -> tuple[int, bool]:
    place, node = end
    return place, node.category == "-"


class BlockList:
    """A block list of phrases by category. Raises UsageError when a phrase is invalid."""

    def __init__(
        self,
        categories: Mapping[str, Iterable[str]],
        asking: Iterable[str] = (),
        messages: Mapping[str, str] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        endings: Mapping[str, Iterable[str]] | None = None,
        ignored: Iterable[str] = (),
    ) -> None:
        self._messages = dict(messages or {})
        self._groups = dict(groups or {})
        self._ignored = frozenset(map(normalize, (*_IGNORED, *ignored)))
        self._endings = {name: _Ending(phrases, name) for name, phrases in (endings or {}).items()}
        self._asking, self._asked, self._said = _PhraseNode(), _PhraseNode(), _PhraseNode()
        for phrase in asking:
            self._add(self._asking, phrase, "asking")
        for category, phrases in categories.items():
            for phrase in phrases:
                if phrase.startswith("…") and not self._asking.next:
                    raise UsageError(
                        f"phrase {phrase!r} in {category}: begins with … but the file has no `asking` list (add one)"
                    )
                self._add(self._asked if phrase.startswith("…") else self._said, phrase, category)
        roots = (self._asking, self._asked, self._said)
        phrases = {word for root in roots for word in _words_below(root)}
        follows = {word for ending in self._endings.values() for word in ending.words()}
        self._vocabulary = Vocabulary(phrases | follows | self._ignored)

    @classmethod
    def load(cls, path: Path) -> "BlockList":
        """Load a TOML or JSON file. Raises UsageError, which names the file and the problem, when it is invalid."""
        try:
            text = path.read_text(encoding="utf-8")
            data: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
            return cls(**_validate_blocklist(data))
        except OSError as error:
            raise UsageError(f"block list {path}: cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError, UsageError) as error:
            raise UsageError(f"block list {path}: {error}") from None

    def check(self, text: str) -> BlockedText | None:
        """Return the category of the first blocked phrase in the text, or None. Runs in linear time."""
        words = self._vocabulary.split(text)
        for start, word in enumerate(words):
            category = None
            if word.text in self._said.next:
                category = self._category(self._said, words, start)
            if category is None and word.text in self._asking.next:
                ends = {place for place, _ in self._asking.find_ends(words, start, self._ignored)}
                category = next(filter(None, (self._category(self._asked, words, place) for place in ends)), None)
            if category is not None:
                return BlockedText(category, self._messages.get(category))
        return None

    def _category(self, root: _PhraseNode, words: Sequence[Word], start: int) -> str | None:
        while root is self._asked and start < len(words) and words[start].text in self._ignored:
            start += 1
        for place, node in root.find_ends(words, start, self._ignored):
            if not node.ending or self._endings[node.ending].allows(words, place):
                return node.category
        return None

    def _add(self, root: _PhraseNode, phrase: str, category: str) -> None:
        pattern, _, ending = phrase.removeprefix("…").partition(">")
        if (name := ending.strip()) and name not in self._endings:
            raise UsageError(f"phrase {phrase!r} in {category}: there is no ending {name!r} (add it to [endings])")
        if not root.add(_choices(pattern, category, self._groups, self._ignored), category, name):
            raise UsageError(f"phrase {phrase!r} in {category}: has only ignored words (add another word)")


def _words_below(root: _PhraseNode) -> Iterator[str]:
    # Paths share nodes, and there are many more paths than nodes.
    seen, left = {root}, [root]
    while left:
        for word, nodes in left.pop().next.items():
            yield word
            left += (new := set(nodes) - seen)
            seen |= new


def _validate_blocklist(data: Any) -> dict[str, Any]:
    parts = data if isinstance(data, dict) else {}
    categories, messages = parts.get("categories"), parts.get("messages") or {}
    groups, endings = parts.get("groups") or {}, parts.get("endings") or {}
    asking, ignored = parts.get("asking") or [], parts.get("ignored") or []
    if not isinstance(categories, dict) or not all(map(_CATEGORY_NAME.fullmatch, categories)):
        raise UsageError("[categories]: missing or invalid (write lower-case names, each with a list of phrases)")
    for title, table in (("groups", groups), ("endings", endings)):
        if not isinstance(table, dict) or not all(map(_CATEGORY_NAME.fullmatch, table)):
            raise UsageError(f"[{title}]: invalid (write lower-case names, each with a list of phrases)")
    for table in (categories, groups, endings, {"asking": asking, "ignored": ignored}):
        for name, phrases in table.items():
            if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
                raise UsageError(f'{name}: not a list of strings (write ["a phrase", …])')
    if not isinstance(messages, dict) or not all(isinstance(message, str) for message in messages.values()):
        raise UsageError('[messages]: a message is not a string (write CATEGORY = "text")')
    return {
        "categories": categories,
        "asking": asking,
        "messages": messages,
        "groups": groups,
        "endings": endings,
        "ignored": ignored,
    }


def _choices(phrase: str, category: str, groups: Mapping[str, Sequence[str]], ignored: frozenset[str]) -> list[_Choice]:
    """Parse a phrase. A position that accepts an ignored word is optional. Raises UsageError if it is invalid."""

    def expand_group(match: re.Match[str]) -> str:
        if match[1] not in groups:
            raise UsageError(f"phrase {phrase!r} in {category}: there is no group {match[1]!r} (add it to [groups])")
        return "|".join(groups[match[1]])

    places = _GROUP.sub(expand_group, phrase).split()
    choices = [_read_choice(place, ignored) for place in places]
    if not 0 < len(choices) <= _MAX_PHRASE_WORDS or None in choices:
        fix = f"write 1 to {_MAX_PHRASE_WORDS} words, `a|b` for either, `a?` for an optional one"
        raise UsageError(f"phrase {phrase!r} in {category}: cannot be parsed ({fix})")
    return [choice for choice in choices if choice is not None]


def _read_choice(written: str, ignored: frozenset[str]) -> _Choice | None:
    """Parse the alternatives at one position in a phrase. Return None if one of them is not a single word."""
    counted, optional = set(), written.endswith("?")
    for option in written.removesuffix("?").split("|"):
        words = _WORD.findall(normalize(option))
        if len(words) != 1:
            return None
        if words[0] in ignored and not option.startswith("="):
            optional = True
        else:
            counted.add(words[0])
    return _Choice(frozenset(counted), optional)
