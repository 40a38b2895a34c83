"""Normalization of text to the form used for comparison, which approximates what a reader sees. Performs no I/O.

Normalization ignores case, width, accents, invisible characters and the alphabet of look-alike characters.

Look-alikes are Unicode confusables (UTS 39, as packaged by `confusable_homoglyphs`): a non-ASCII character that
resembles a Latin letter, a digit or a hyphen folds to it. Scripts written without spaces are not folded, because a word
next to them would have no boundary.
"""

import re
import unicodedata

from confusable_homoglyphs.confusables import confusables_data

_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_KEPT_CONTROLS = frozenset("\t\n\r")
_MAX_CACHED = 70_000
_WITHOUT_SPACES = ("CJK", "KATAKANA", "HIRAGANA", "HANGUL", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_DASH = "\u2014"
"""The em dash, which separates clauses and does not fold to a hyphen."""
_NAMED_LETTER = re.compile(r"(?:LATIN LETTER SMALL CAPITAL|(?:CROSSED )?NEGATIVE .* LETTER) ([A-Z])")
"""The Unicode names of letter variants that are missing from the table of confusables."""
MAX_EXPANSION = 4
"""The maximum number of characters that one character folds to. The few that exceed it are whole Arabic phrases."""


def _is_invisible(char: str) -> bool:
    """Return whether a character takes no space on the screen: joiners, marks, variation selectors and controls."""
    category = unicodedata.category(char)
    if category == "Cc":
        return char not in _KEPT_CONTROLS
    selector = "\ufe00" <= char <= "\ufe0f" or "\u180b" <= char <= "\u180f" or "\U000e0100" <= char <= "\U000e01ef"
    return category == "Cf" or selector or char in _FILLERS or unicodedata.combining(char) != 0


def _strip_marks(text: str) -> str:
    return "".join([char for char in unicodedata.normalize("NFKD", text) if not _is_invisible(char)])


def _latin(char: str) -> str:
    """Return the Latin letters or digits that a folded character resembles, or the character itself if none."""
    if char.isascii() or unicodedata.name(char, "").startswith(_WITHOUT_SPACES):
        return char
    if (named := _NAMED_LETTER.fullmatch(unicodedata.name(char, ""))) is not None:
        return named[1].lower()
    if char == _DASH:
        return char
    # Case is ignored, so a lower-case letter also matches what its upper-case form resembles.
    for form in (char, char.upper()):
        seen = [_strip_marks(similar["c"].lower()).lower() for similar in confusables_data.get(form, ())]
        letters = [text for text in seen if text.isascii() and (text.isalnum() or text == "-")]
        if letters:
            # Prefer a letter to a digit, and a single character to a ligature.
            return min(letters, key=lambda text: (not text.isalpha(), len(text)))
    return char


class _NormalizationCache(dict[str, str]):
    """A cache of the folded forms of single characters, which do not depend on context."""

    def __missing__(self, char: str) -> str:
        plain = _strip_marks(unicodedata.normalize("NFKD", char).casefold())
        folded = "".join([_latin(part) for part in plain])[:MAX_EXPANSION]
        if len(self) < _MAX_CACHED:
            self[char] = folded
        return folded


NORMALIZED = _NormalizationCache()
"""The mapping from a character to its folded form of zero or more characters."""


def normalize(text: str) -> str:
    """Return the normalized text, at most `MAX_EXPANSION` times as long as the input. Runs in linear time."""
    return "".join([NORMALIZED[char] for char in text])
