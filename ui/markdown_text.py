"""Between what a model wrote and what the chat draws: angle brackets in prose are text, never tags. Pure.

The chat draws Markdown, in which `a<b` or `List<String>` outside of code begins a tag and swallows what follows.
There `<`, and `&` before a name and `;`, are written as entities. Code is left alone, and
what is escaped with a backslash.
"""

import re
from collections.abc import Callable

_CODE = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[^\n]*(?:\n(?:.*\n)*? {0,3}(?P=fence)[`~]*[ \t]*$|(?:\n.*)*\Z)"
    r"|(?<!`)(?P<ticks>`+)(?!`)(?:[^\n]|\n(?!\n)){1,2000}?(?<!`)(?P=ticks)(?!`)"
    r"|\\[^\w\s]|(?P<address>(?:(?:ftp|https?)://|www\.)\S*)",
    re.MULTILINE,
)
"""What is left alone: a fenced block, to its fence or the end of the text, a span of code in a paragraph, an escape.

A bare address is prose to its end, whatever is in it.
"""
_TAG = re.compile(r"<|&(?=#?\w{1,32};)")
_ENTITY = re.compile(r"&(lt|amp);")
_CHARACTERS = {"lt": "<", "amp": "&"}
_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def escape_prose(text: str) -> str:
    """Write a model's text so that all of it is seen; appending to `text` appends to the result, code spans aside."""
    return _replace_outside_code(text, lambda prose: _TAG.sub(lambda found: _ENTITIES[found[0]], prose))


def to_file(text: str) -> str:
    """Return a model's Markdown for a file that anything may open: no HTML, and no image to load."""
    return _replace_outside_code(escape_prose(text), lambda prose: prose.replace("![", "\\!["))


def unescape_prose(text: str) -> str:
    """Give back what was `escape_prose`."""
    return _replace_outside_code(text, lambda prose: _ENTITY.sub(lambda found: _CHARACTERS[found[1]], prose))


def _replace_outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for code in _CODE.finditer(text):
        if code["address"]:
            continue
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])
