"""The form of a growing Markdown text that is drawn: without marks that later text turns into something else. No I/O.

An open emphasis or code span is closed, and an unfinished link, formula, table head or mark at the end is left out
until its rest arrives. An open code block loses its language, because a browser that highlights it would do so anew
with every update; it is highlighted when it is closed. What is left out is at most one link, formula or line.
"""

import re

MAX_HELD_CHARS = 400
"""The longest unfinished link or formula that is left out; longer ones are text that happens to have a bracket."""
MAX_BLOCK_CHARS = 2_000
"""The longest last paragraph that is searched for unfinished marks; a longer one is drawn as it is."""
_MAX_MARKS = 100

_FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_LINK = re.compile(r"!?\[[^\[\]\n]*(?:\](?:\([^()\n]*)?)?\Z")
_MATH_OPENER = re.compile(r"\$\$|\\[\[(]")
_TRAILING_MARKS = re.compile(
    r"(?:(?<![*_~])[*_~]+|(?<!`)`+|\\|\$|!|<|&#?\w{0,31}|^ {0,3}(?:#{1,6}|[-+]) ?)\Z", re.MULTILINE
)
_COMPLETE = re.compile(
    r"(?<!`)(`+)(?!`).{1,2000}?(?<!`)\1(?!`)|\$\$.{1,400}?\$\$|\\\[.{1,400}?\\\]|\\\(.{1,400}?\\\)", re.DOTALL
)
_OPEN_TICKS = re.compile(r"(?<!`)(`+)(?!`)")
_EMPHASIS = re.compile(
    r"(?<!\\)(?P<strong>\*\*|~~)|(?<![\w*\\])(?P<open>\*)(?=\w)|(?<=[\w.!?,;:)])(?P<close>\*)(?![\w*])"
)
_TABLE_DELIMITER = re.compile(r"^ {0,3}\|?[ \t]*+:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+\|?[ \t]*+$")


def to_drawable(text: str) -> str:
    """Return `text`, the beginning of a longer Markdown text, in the form to draw until more of it arrives."""
    fence = _find_open_fence(text)
    if fence is not None:
        return _draw_open_code(text, fence)
    ended = max(text.rfind("\n\n"), _end_of_last_fence(text))
    block = text[ended:].lstrip("\n")
    return text.removesuffix(block) + _draw_open_block(block)


def _find_open_fence(text: str) -> re.Match[str] | None:
    opened: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        if opened is None:
            opened = line
        elif line["fence"].startswith(opened["fence"]) and not line["info"].strip():
            opened = None
    return opened


def _end_of_last_fence(text: str) -> int:
    return max((line.end() for line in _FENCE.finditer(text)), default=0)


def _draw_open_code(text: str, fence: re.Match[str]) -> str:
    """Draw an open code block without its language, and without a last line that may become its closing fence."""
    if fence.end() == len(text):
        return text[: fence.start()]
    code = text[fence.end() :]
    last_line = code[code.rfind("\n") + 1 :]
    if last_line.strip() and fence["fence"].startswith(last_line.strip()):
        code = code[: -len(last_line)]
    return text[: fence.end("fence")] + code


def _draw_open_block(block: str) -> str:
    if len(block) > MAX_BLOCK_CHARS:
        return block
    if block.lstrip().startswith("|") and not _has_table_head(block):
        return ""
    block = block[: _start_of_open_formula(_mask(block))]
    ticks = _OPEN_TICKS.search(_mask(block))
    if ticks is not None:
        content = block[ticks.end() :]
        return block.rstrip("`") + ticks[1] if content.strip("` \n") else block[: ticks.start()]
    link = _LINK.search(_mask(block))
    if link and len(link[0]) <= MAX_HELD_CHARS:
        block = block[: link.start()]
    masked = _mask(block)
    marks = _TRAILING_MARKS.search(masked, max(0, len(masked) - _MAX_MARKS))
    return _close_emphasis(block[: marks.start()] if marks else block)


def _mask(block: str) -> str:
    """Replace complete code spans and formulas, in which marks have no meaning, by as many NUL characters."""
    return _COMPLETE.sub(lambda result: "\0" * len(result[0]), block)


def _has_table_head(block: str) -> bool:
    """Return whether a table's delimiter row has ended, without which its head is a line of prose."""
    lines = block.split("\n")
    return (len(lines) > 2 and _TABLE_DELIMITER.match(lines[1]) is not None) or len(lines) > 3


def _start_of_open_formula(masked: str) -> int:
    """Return the position of a formula that is not closed yet, or the length of the block."""
    opener = _MATH_OPENER.search(masked)
    is_held = opener is not None and len(masked) - opener.start() <= MAX_HELD_CHARS
    return opener.start() if opener is not None and is_held else len(masked)


def _close_emphasis(block: str) -> str:
    """Close the emphasis that is open at the end of a block, innermost first, before its trailing white space."""
    opened: list[str] = []
    for mark in _EMPHASIS.finditer(_mask(block)):
        if mark["strong"] and mark["strong"] in opened:
            opened.remove(mark["strong"])
        elif mark["strong"] or mark["open"]:
            opened.append(mark[0])
        elif "*" in opened:
            opened.remove("*")
    body = block.rstrip()
    for mark_text in reversed(opened):
        body = body.removesuffix(mark_text) if body.endswith(mark_text) else body + mark_text
    return body + block[len(block.rstrip()) :] if opened else block
