"""Escaping of untrusted text (names, prompt ids, error messages, machine strings) for each output format.

There is one function per format. Each takes raw text and returns a single line in which it escapes:

- `to_line`: terminals and logs. Control characters (including ANSI sequences), line breaks, direction overrides and
  surrogates are replaced; the other functions do the same first.
- `to_markdown`: HTML, images, links and bare addresses, code, emphasis, tables, headings, lists, quotes, math.
- `to_html`: tags, entities and quotation marks.
- `to_plotly`: the tags and entities that Plotly renders.
- `to_picture`: math, and names that Matplotlib's legend would hide.
- `to_csv`: spreadsheet formulas.
"""

import html
import re
import unicodedata
from collections.abc import Callable

Escape = Callable[[str], str]

_REPLACEMENT = "\ufffd"
_JOINERS = "\u200c\u200d"
"""Zero-width joiner and non-joiner, which Persian, Indic scripts and emoji need."""
_PUNCTUATION = re.compile(r"[\\`*\[\]<|~$&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""Characters that are Markdown markup; an underscore between letters or digits is not."""
_DOT_IN_A_NAME = re.compile(r"\.(?=[^\W\d_])")
_BLOCK_START = re.compile(r"^(?:([-+=>])|(\d{1,9})([.)])(?=\s|$))")
_FORMULA = re.compile(r"(^|;)([\s'\"]*)(?=[=+\-@＝＋－＠])")


def to_line(text: str) -> str:
    """Return text as one line that is safe to print on a terminal; unsafe characters become U+FFFD."""
    shown = " ".join(text.split())
    return shown if shown.isprintable() else "".join(map(_visible, shown))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    unwanted = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return _REPLACEMENT if unwanted else character


def to_markdown(text: str) -> str:
    """Return Markdown that renders as this plain text, in a paragraph, a table cell or a heading."""
    line = _PUNCTUATION.sub(r"\\\g<0>", to_line(text))
    # Renderers turn bare URLs, and some of them bare domain names, into links: break both up.
    line = _DOT_IN_A_NAME.sub(r"\\.", line).replace("://", r"\://").replace("//", r"/\/").replace("@", "\\@\u2060")
    return _BLOCK_START.sub(_escape_block_start, line)


def _escape_block_start(match: re.Match[str]) -> str:
    mark, number, after = match.groups()
    return f"\\{mark}" if mark else f"{number}\\{after}"


def to_html(text: str) -> str:
    """Return text escaped for HTML, for use between tags or in a quoted attribute."""
    return html.escape(to_line(text))


def to_plotly(text: str) -> str:
    """Return text escaped for a title, name or category of a Plotly figure, where Plotly renders some tags."""
    return html.escape(to_line(text), quote=False)


def to_picture(text: str) -> str:
    """Return text escaped for a Matplotlib figure, which renders text between two dollar signs as math.

    A name that begins with `_` is prefixed with a space, because the legend hides it otherwise.
    """
    line = to_line(text).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def to_csv(text: str) -> str:
    """Return text escaped for a CSV cell: an apostrophe is inserted before anything that looks like a formula.

    In locales with a decimal comma a semicolon separates cells, so a formula may also begin after a semicolon.
    """
    return _FORMULA.sub(r"\1'\2", to_line(text))
