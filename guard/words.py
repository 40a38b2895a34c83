"""Splitting of text into words for the block list, including the gaps between them. Performs no I/O.

Disguised words are resolved to words of the block list: digits and signs in place of letters (`b0mb`, `k!ll`), repeated
letters (`kiiill`), spaced letters (`b o m b`) and split words (`bo-mb`, `bo mb`). No other word is changed.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby, product
from typing import NamedTuple

from guard.text_normalization import normalize

_WORD = re.compile(r"[$@]?[^\W_]++(?:[@$!|+]{1,2}[^\W_]++)*+")
_PARTS = re.compile(r"[^\W_]+")
_APOSTROPHES = "'’ʼ‘`´"
_POSSESSIVE = re.compile(rf"[{_APOSTROPHES}]\s")
_CLAUSE_END = re.compile(rf"[.,;:!?()\[\]{{}}<>/\"“”„«»…—–\n\r。，！？]|[{_APOSTROPHES}]\s|\s-+\s")
_SIGNS: dict[str, str] = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "il", "|": "il", "+": "t",
}  # fmt: skip
_REPEATED = re.compile(r"(.)\1\1")
_MAX_REPEATED = 200
_MAX_SIGNS = 6
_MAX_LETTERS = 24


class Word(NamedTuple):
    """A folded word. `ends_clause` marks the last word of a clause, and `possessive` marks a possessive form.

    `gap` is the text between this word and the next one.
    """

    text: str
    ends_clause: bool = False
    possessive: bool = False
    gap: str = " "


class Vocabulary:
    """The set of words that disguised words are resolved to."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(words)
        self._beginnings = {word[:size] for word in self._words for size in range(1, len(word))}

    def split(self, text: str) -> list[Word]:
        """Split the text into words, in linear time."""
        words = _join_spaced_letters(_read_words(normalize(text), self._words), self._words, self._beginnings)
        return _join_cut_words(words, self._words, self._beginnings)


def _read_words(folded: str, known: Collection[str]) -> list[Word]:
    words: list[Word] = []
    matches = list(_WORD.finditer(folded))
    starts = [*(match.start() for match in matches[1:]), len(folded)]
    for match, start in zip(matches, starts, strict=False):
        text, gap = match[0], folded[match.end() : start]
        if text == "s" and words and words[-1].gap in _APOSTROPHES:
            # "wife's" is one possessive word.
            words[-1] = Word(words[-1].text, False, True, gap)
            continue
        possessive = text[-1] == "s" and _POSSESSIVE.fullmatch(gap) is not None
        ends = gap != " " and not possessive and _CLAUSE_END.search(gap) is not None
        if text in known or text.isalpha():
            words.append(Word(text if text in known else _collapse_repeats(text, known), ends, possessive, gap))
        else:
            words += _undo_disguise(text, Word(text, ends, possessive, gap), known)
    if words:
        words[-1] = Word(words[-1].text, True)
    return words


def _collapse_repeats(text: str, known: Collection[str]) -> str:
    if _REPEATED.search(text) is None:
        return text
    runs = [(char, len(list(run))) for char, run in groupby(text[:_MAX_REPEATED])]
    once = "".join(char * (1 if count > 2 else count) for char, count in runs)
    twice = "".join(char * min(count, 2) for char, count in runs)
    return next((form for form in (once, twice) if form in known), text)


def _undo_disguise(text: str, word: Word, known: Collection[str]) -> Iterator[Word]:
    plain_form = next((plain for plain in _plain_forms(text) if plain in known), None)
    parts = [plain_form] if plain_form else _PARTS.findall(text)
    for part in parts[:-1]:
        yield Word(part, gap="+")
    yield word._replace(text=parts[-1])


def _plain_forms(text: str) -> Iterator[str]:
    """Yield the few possible plain forms of a word with digits or signs in place of letters."""
    signs = sum(char in _SIGNS for char in text)
    if 0 < signs <= _MAX_SIGNS and len(text) <= _MAX_LETTERS and signs < len(text):
        yield from map("".join, product(*(_SIGNS.get(char, char) for char in text)))


def _is_letter(word: Word) -> bool:
    return len(word.text) == 1 and (word.text.isalpha() or word.text in _SIGNS)


def _join_spaced_letters(words: list[Word], known: Collection[str], beginnings: Collection[str]) -> list[Word]:
    """Join runs of three or more single letters and find the known words in them."""
    joined: list[Word] = []
    for single, run in groupby(words, _is_letter):
        letters = list(run)
        if single and len(letters) > 2:
            joined += _split_segments(letters, known, beginnings)
        else:
            joined += letters
    return joined


def _split_segments(letters: Sequence[Word], known: Collection[str], beginnings: Collection[str]) -> Iterator[Word]:
    """Yield the longest known word at each position, or the single letter if there is none."""
    plain = "".join(_SIGNS.get(word.text, word.text)[0] for word in letters)
    place = 0
    while place < len(plain):
        size = longest = 1
        while place + size < len(plain) and plain[place : place + size] in beginnings:
            size += 1
            if plain[place : place + size] in known:
                longest = size
        text = plain[place : place + longest] if longest > 1 else letters[place].text
        place += longest
        yield letters[place - 1]._replace(text=text)


def _join_cut_words(words: list[Word], known: Collection[str], beginnings: Collection[str]) -> list[Word]:
    """Join two or three consecutive parts that together form a known word but are not known words themselves."""
    joined: list[Word] = []
    place = 0
    while place < len(words):
        size = 1
        if words[place].text in beginnings:
            size = next((size for size in (3, 2) if _is_cut(words[place : place + size], size, known)), 1)
        last = words[place + size - 1]
        joined.append(last if size == 1 else last._replace(text="".join(w.text for w in words[place : place + size])))
        place += size
    return joined


def _is_cut(part: Sequence[Word], size: int, known: Collection[str]) -> bool:
    if len(part) < size or "".join([word.text for word in part]) not in known:
        return False
    # Hyphenated parts may include a known word ("sui-ci-de"), but known words separated by spaces are not joined.
    tight = not any("\n" in word.gap or " " in word.gap for word in part[:-1])
    return tight or not any(word.text in known for word in part)
