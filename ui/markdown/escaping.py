"""Escaping of a model's text for the chat: angle brackets in prose are shown as text, never parsed as tags. No I/O.

The chat renders Markdown, in which `a<b` or `List<String>` outside code starts a tag and hides the text after it.
Outside code, `<` and any `&` that starts an entity are replaced by entities. Code and backslash escapes are unchanged.
"""

import re
from collections.abc import Callable

_CODE = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[^\n]*(?:\n(?:.*\n)*? {0,3}(?P=fence)[`~]*[ \t]*$|(?:\n.*)*\Z)"
    r"|(?<!`)(?P<ticks>`+)(?!`)(?:[^\n]|\n(?!\n)){1,2000}?(?<!`)(?P=ticks)(?!`)"
    r"|\\[^\w\s]|(?P<address>(?:(?:ftp|https?)://|www\.)\S*)",
    re.MULTILINE,
)
"""Matches text to leave unchanged: a fenced block (to its closing fence or the end), a code span, a backslash escape.

A bare URL is matched as well, but as prose: backticks inside it start no code span.
"""
_TAG = re.compile(r"<|&(?=#?\w{1,32};)")
_ENTITY = re.compile(r"&(lt|amp);")
_CHARACTERS = {"lt": "<", "amp": "&"}
_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def escape_prose(text: str) -> str:
    """Escape tags and entities outside code. Appending to `text` appends to the result, except around code spans."""
    return _replace_outside_code(text, lambda prose: _TAG.sub(lambda match: _ENTITIES[match[0]], prose))


def to_file(text: str) -> str:
    """Return a model's Markdown that is safe to open in any viewer: without HTML and without images."""
    return _replace_outside_code(escape_prose(text), lambda prose: prose.replace("![", "\\!["))


def unescape_prose(text: str) -> str:
    """Reverse `escape_prose`."""
    return _replace_outside_code(text, lambda prose: _ENTITY.sub(lambda match: _CHARACTERS[match[1]], prose))


def _replace_outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for code in _CODE.finditer(text):
        if code["address"]:
            continue
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])
