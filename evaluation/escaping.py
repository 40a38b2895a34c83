"""Text that others wrote (names, prompt ids, error messages, machine strings) made harmless for each output format.

There is one function for each format, and each takes text as it came and returns it as one line:

- `to_line`: terminals and logs. Control characters (ANSI sequences among them), line breaks, overrides of direction and
  surrogates are defused; the other functions do the same first.
- `to_markdown`: HTML, images, links and bare addresses, code, emphasis, tables, headings, lists, quotes, math.
- `to_html`: tags, entities and quotation marks.
- `to_plotly`: the tags and entities that Plotly draws.
- `to_picture`: math, and the names that Matplotlib's legend leaves out.
- `to_csv`: formulas of spreadsheets.
"""

import html
import re
import unicodedata
from collections.abc import Callable

Escape = Callable[[str], str]

_REPLACEMENT = "\ufffd"
_JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners: Persian, Indic scripts and emoji need them."""
_PUNCTUATION = re.compile(r"[\\`*\[\]<|~$&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""An underscore between letters or digits is no markup."""
_DOT_IN_A_NAME = re.compile(r"\.(?=[^\W\d_])")
_BLOCK_START = re.compile(r"^(?:([-+=>])|(\d{1,9})([.)])(?=\s|$))")
_FORMULA = re.compile(r"(^|;)([\s'\"]*)(?=[=+\-@＝＋－＠])")


def to_line(text: str) -> str:
    """Return text as one line that a terminal only prints; what it must not print is a replacement character."""
    shown = " ".join(text.split())
    return shown if shown.isprintable() else "".join(map(_visible, shown))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    unwanted = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return _REPLACEMENT if unwanted else character


def to_markdown(text: str) -> str:
    """Return text as Markdown in which all of it is plain text, wherever in a line, a table's cell or a heading."""
    line = _PUNCTUATION.sub(r"\\\g<0>", to_line(text))
    # Renderers make links of bare addresses, some of bare domain names: none is left whole.
    line = _DOT_IN_A_NAME.sub(r"\\.", line).replace("://", r"\://").replace("//", r"/\/").replace("@", "\\@\u2060")
    return _BLOCK_START.sub(_escape_block_start, line)


def _escape_block_start(found: re.Match[str]) -> str:
    mark, number, after = found.groups()
    return f"\\{mark}" if mark else f"{number}\\{after}"


def to_html(text: str) -> str:
    """Return text for HTML, between tags or in a quoted attribute."""
    return html.escape(to_line(text))


def to_plotly(text: str) -> str:
    """Return text for a title, name or category of a Plotly figure, which draws some tags."""
    return html.escape(to_line(text), quote=False)


def to_picture(text: str) -> str:
    """Return text for a Matplotlib figure, which sets as math what stands between two dollar signs.

    Its legend leaves out names that begin with `_`.
    """
    line = to_line(text).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def to_csv(text: str) -> str:
    """Return text for a cell that no spreadsheet takes for a formula: an apostrophe stands before one.

    A semicolon separates cells where the comma is a decimal point, so that a formula may begin after one too.
    """
    return _FORMULA.sub(r"\1'\2", to_line(text))
