"""Validation of requests: size limits, valid Unicode, removal of control characters, and strict mode. Performs no I/O.

Strict mode also rejects script and SQL patterns. The `script` and `sql` rules are off by default and on in `STRICT`:
ordinary requests about code contain scripts and SQL, which cannot harm a page that renders all text as plain text.

Validation keeps newlines, tabs, joiners (required by emoji and Indic scripts) and bidirectional isolates and embeddings
(required by Arabic and Hebrew). It removes all other control characters and the two bidirectional overrides (U+202D,
U+202E), whose only effect is to disguise a text.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, get_args

from guard.rejection import RejectionError
from guard.text_normalization import normalize
from streaming.messages import Message

Rule = Literal["length", "turns", "unicode", "empty", "controls", "size", "depth", "script", "sql"]
RULES: tuple[Rule, ...] = get_args(Rule)
STRICT_RULES: frozenset[Rule] = frozenset({"script", "sql"})
"""The rules that only `VALIDATION=strict` enables."""
MAX_MESSAGE_CHARS = 32_000
MAX_STRICT_MESSAGE_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class InputLimits:
    """The size limits of a request. `off` contains the disabled rules.

    `message_chars` limits each user message, and `conversation_chars` limits all turns together, including answers.
    """

    message_chars: int = MAX_MESSAGE_CHARS
    conversation_chars: int = 64_000
    turns: int = 100
    body_bytes: int = 262_144
    json_depth: int = 16
    off: frozenset[Rule] = STRICT_RULES


STRICT = InputLimits(message_chars=MAX_STRICT_MESSAGE_CHARS, off=frozenset())
"""The limits of `VALIDATION=strict`."""


def check_size(body_bytes: int, limits: InputLimits) -> None:
    """Reject a body that is too large, even before it has arrived completely. Raises RejectionError."""
    if body_bytes > limits.body_bytes:
        raise RejectionError(
            "validation.size", "too_large", f"the body: larger than {limits.body_bytes:,} bytes (send less)"
        )


def check_depth(body: bytes, limits: InputLimits) -> None:
    """Reject JSON that is nested too deeply, before it is parsed. Raises RejectionError."""
    if json_depth(body) > limits.json_depth:
        raise RejectionError(
            "validation.depth", "invalid", f"the body: JSON nested deeper than {limits.json_depth} levels (flatten it)"
        )


_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTH_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def json_depth(body: bytes) -> int:
    """Return the nesting depth of brackets outside strings in UTF-8 JSON, in linear time and without recursion.

    In UTF-16 or UTF-32, which contain null bytes, strings cannot be recognized: there every opening bracket counts.
    """
    if b"\0" in body:
        return body.count(b"[") + body.count(b"{")
    brackets = _JSON_STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_DEPTH_STEPS.__getitem__, brackets), initial=0))


def validate_conversation(messages: Sequence[Message], limits: InputLimits) -> tuple[Message, ...]:
    """Validate the conversation and return it without control characters.

    The `length`, `script` and `sql` rules do not apply to the model's answers, which may be longer than a user message
    and may explain scripts and SQL. Raises RejectionError, which names the rule and the turn, for an invalid message.
    """
    _check_conversation(messages, limits)
    cleaned = []
    for number, message in enumerate(messages, 1):
        # The last turn is the new message; for earlier turns, the error message includes the turn number.
        where = "the message" if number == len(messages) else f"turn {number} of the conversation"
        _check_unicode(message.content, where, limits)
        text = message.content if "controls" in limits.off else strip_control_chars(message.content)
        if message.role != "assistant":
            _check_user_text(text, where, limits)
        cleaned.append(replace(message, content=text))
    if "empty" not in limits.off and not (cleaned and normalize(cleaned[-1].content).strip()):
        raise _rejection("empty", "the last message: has no text (write a message)")
    return tuple(cleaned)


def _check_conversation(messages: Sequence[Message], limits: InputLimits) -> None:
    if "turns" not in limits.off and len(messages) > limits.turns:
        raise _rejection("turns", f"the conversation: more than {limits.turns} turns (begin a new one)")
    if "length" not in limits.off and sum(len(m.content) for m in messages) > limits.conversation_chars:
        raise _rejection(
            "length", f"the conversation: more than {limits.conversation_chars:,} characters (begin a new one)"
        )


def _check_unicode(text: str, where: str, limits: InputLimits) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        # This rule cannot be disabled: no wire format can encode such a text.
        raise _rejection("unicode", f"{where}: not valid Unicode (remove the lone surrogate)") from None


def _check_user_text(text: str, where: str, limits: InputLimits) -> None:
    if "length" not in limits.off and len(text) > limits.message_chars:
        raise _rejection(
            "length", f"{where}: {len(text):,} characters are too many (write at most {limits.message_chars:,})"
        )
    if {"script", "sql"} <= limits.off:
        return
    seen = _normalize_markup(text)
    if "script" not in limits.off and _SCRIPT.search(seen) is not None:
        raise _rejection("script", f"{where}: contains a script that a browser would run (describe it in words)")
    if "sql" not in limits.off and _injects_sql(seen):
        raise _rejection("sql", f"{where}: contains an SQL injection (describe it in words)")


def _rejection(rule: Rule, message: str) -> RejectionError:
    return RejectionError(f"validation.{rule}", "invalid", message)


_CONTROL_CHARS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e]")


def strip_control_chars(text: str) -> str:
    """Remove control characters and bidirectional overrides, and convert all line ends to newlines."""
    return _CONTROL_CHARS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


_SPACE = re.compile(r"\s+")
# No code point has more digits, and very long numbers cannot be parsed.
_CHARACTER_REFERENCE = re.compile(r"(&#[xX]?)0*+([0-9a-fA-F]{0,8})[0-9a-fA-F]*+")
_SQL_COMMENT = re.compile(r"/\*[^*]{0,64}\*/")


def _normalize_markup(text: str) -> str:
    """Return the text as a browser or a database interprets it: entities, width, case, comments and spaces resolved."""
    unescaped = html.unescape(_CHARACTER_REFERENCE.sub(r"\1\2", text))
    return _SPACE.sub(" ", _SQL_COMMENT.sub(" ", normalize(unescaped)))


# All repetitions are bounded, and the input has single spaces only. Code must follow the scheme, so that
# "JavaScript: where do I begin?" does not match.
_SCRIPT_SCHEME = " ?".join("javascript")
_SCRIPT = re.compile(
    r"< ?/? ?script\b"
    r"|<[a-z][^<>]{0,200}[ /\"']on[a-z]{3,24} ?="
    rf"|\b(?:{_SCRIPT_SCHEME}|vbscript) ?: ?(?://|%|[\w$.]{{1,40}} ?[(=\[`])"
    r"|\bdata ?: ?text/html ?[;,]"
)
_SQL = re.compile(
    r"['\"] ?\)? ?(?:or|and|\|\||&&) ?\(? ?['\"]?(?P<left>\w{0,32})['\"]? ?(?:=|like) ?['\"]?(?P=left)(?!\w)"
    r"|\b(?:or|and) (?P<number>\d{1,9}) ?= ?(?P=number)(?!\w)"
    r"|['\"] ?\)? ?or (?:true|1|not false) ?(?:--|#|;|\Z)"
    r"|; ?(?:drop|truncate) (?:table|database|schema|view|user)\b"
    r"|['\"] ?\)? ?; ?(?:delete from|insert into|update \w{1,64} set|alter table|exec|shutdown)\b[^;]{0,200}--"
    r"|['\")\d] ?union (?:all |distinct )?select\b"
    r"|['\")\d] ?(?:or|and|;) ?(?:select )?(?:sleep|pg_sleep|benchmark|waitfor delay|extractvalue|updatexml) ?[(']"
    r"|; ?exec(?:ute)? (?:master\.{1,2})?xp_cmdshell\b"
    r"|(?:^|[\s=:])\w{1,64}' ?(?:--|#|/\*) ?\Z"
)
_SQL_UNION = re.compile(r"\bunion (?:all |distinct )?select\b[^;]{0,200}\bfrom\b")
PATTERNS = (_CHARACTER_REFERENCE, _SCRIPT, _SQL, _SQL_UNION)
"""All patterns that are searched in messages."""


def _injects_sql(seen: str) -> bool:
    if _SQL.search(seen) is not None:
        return True
    # A complete query that contains UNION is a legitimate request about SQL; a text that starts with UNION extends
    # another query.
    union = _SQL_UNION.search(seen)
    return union is not None and "select" not in seen[: union.start()]
