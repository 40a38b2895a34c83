"""What a reader sees in a text, for comparing: case, width, accents and invisible characters do not count. Pure."""

import unicodedata

_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_KEPT_CONTROLS = frozenset("\t\n\r")
_REMEMBERED = 70_000
LONGEST = 4
"""Characters that one folds to at most; the few that stand for more are whole Arabic phrases."""


def _vanishes(char: str) -> bool:
    """Tell whether a character has no place of its own on the screen: joiners, marks, selectors, controls."""
    category = unicodedata.category(char)
    if category == "Cc":
        return char not in _KEPT_CONTROLS
    selector = "\ufe00" <= char <= "\ufe0f" or "\u180b" <= char <= "\u180f" or "\U000e0100" <= char <= "\U000e01ef"
    return category == "Cf" or selector or char in _FILLERS or unicodedata.combining(char) != 0


class _Folds(dict[str, str]):
    """The folded form of single characters, remembered: a character folds the same whatever stands around it."""

    def __missing__(self, char: str) -> str:
        plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
        folded = "".join([c for c in plain if not _vanishes(c)][:LONGEST])
        if len(self) < _REMEMBERED:
            self[char] = folded
        return folded


FOLDS = _Folds()
"""Gives one character's folded form: none, one or several characters."""


def fold(text: str) -> str:
    """Give the text as it is compared; linear, and at most `LONGEST` times as long."""
    return "".join([FOLDS[char] for char in text])
