"""The form of a text in which it is compared: what a reader sees. Pure.

Case, width, accents, invisible characters and the alphabet of a look-alike do not count.

Look-alikes are Unicode's confusables (UTS 39, as `confusable_homoglyphs` packages them): a character outside ASCII that
can be taken for a Latin letter, a digit or a hyphen folds to it. Scripts that are written without spaces stay as they
are: a word would have no edge beside them.
"""

import re
import unicodedata

from confusable_homoglyphs.confusables import confusables_data

_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_KEPT_CONTROLS = frozenset("\t\n\r")
_MAX_CACHED = 70_000
_WITHOUT_SPACES = ("CJK", "KATAKANA", "HIRAGANA", "HANGUL", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_DASH = "\u2014"
"""A break in a sentence, not a hyphen."""
_NAMED_LETTER = re.compile(r"(?:LATIN LETTER SMALL CAPITAL|(?:CROSSED )?NEGATIVE .* LETTER) ([A-Z])")
"""Letters in another form that Unicode's table of confusables leaves out."""
MAX_EXPANSION = 4
"""Characters that one folds to at most; the few that stand for more are whole Arabic phrases."""


def _is_invisible(char: str) -> bool:
    """Tell whether a character has no place of its own on the screen: joiners, marks, selectors, controls."""
    category = unicodedata.category(char)
    if category == "Cc":
        return char not in _KEPT_CONTROLS
    selector = "\ufe00" <= char <= "\ufe0f" or "\u180b" <= char <= "\u180f" or "\U000e0100" <= char <= "\U000e01ef"
    return category == "Cf" or selector or char in _FILLERS or unicodedata.combining(char) != 0


def _strip_marks(text: str) -> str:
    return "".join([char for char in unicodedata.normalize("NFKD", text) if not _is_invisible(char)])


def _latin(char: str) -> str:
    """Return the Latin letters or digits that a folded character can be taken for; itself when there are none."""
    if char.isascii() or unicodedata.name(char, "").startswith(_WITHOUT_SPACES):
        return char
    if (named := _NAMED_LETTER.fullmatch(unicodedata.name(char, ""))) is not None:
        return named[1].lower()
    if char == _DASH:
        return char
    # Both cases count as one, so a small letter may be taken for what its capital looks like.
    for form in (char, char.upper()):
        seen = [_strip_marks(similar["c"].lower()).lower() for similar in confusables_data.get(form, ())]
        found = [text for text in seen if text.isascii() and (text.isalnum() or text == "-")]
        if found:
            # A letter before a digit, and one character before a ligature.
            return min(found, key=lambda text: (not text.isalpha(), len(text)))
    return char


class _NormalizationCache(dict[str, str]):
    """The folded form of single characters, remembered: a character folds the same whatever stands around it."""

    def __missing__(self, char: str) -> str:
        plain = _strip_marks(unicodedata.normalize("NFKD", char).casefold())
        folded = "".join([_latin(part) for part in plain])[:MAX_EXPANSION]
        if len(self) < _MAX_CACHED:
            self[char] = folded
        return folded


NORMALIZED = _NormalizationCache()
"""A function that returns one character's folded form: none, one or several characters."""


def normalize(text: str) -> str:
    """Return the text as it is compared; linear, and at most `MAX_EXPANSION` times as long."""
    return "".join([NORMALIZED[char] for char in text])
