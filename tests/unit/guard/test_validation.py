"""Validation of messages: what each rule rejects, and that ordinary messages pass."""

import json
import re
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import validation
from guard.rejection import RejectionError
from guard.validation import (
    STRICT,
    InputLimits,
    check_depth,
    check_size,
    json_depth,
    strip_control_chars,
    validate_conversation,
)
from streaming.messages import Message

LIMITS = InputLimits()
"""The default limits; the guide's rules are tested under `STRICT`."""


def rejecting_rule(text: str, limits: InputLimits = LIMITS) -> str | None:
    try:
        validate_conversation([Message("user", text)], limits)
    except RejectionError as rejection:
        return rejection.rule
    return None


SCRIPTS = [
    "<script>alert(1)</script>",
    "< SCRIPT src=//x>",
    "</script>",
    "<scr\u200bipt>",
    "＜script＞",
    "&lt;script&gt;",
    "javascript:alert(1)",
    "JaVaScRiPt : void(0)",
    "java\nscript:alert(1)",
    "&#106;avascript:alert(1)",
    "&#x00006A;avascript:alert(1)",
    "[x](javascript://%0aalert(1))",
    "vbscript:msgbox(1)",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "data:text/html;base64,PHNjcmlwdD4=",
    "jav\x00ascript:alert(1)",
]
INJECTIONS = [
    "' OR 1=1 --",
    "' or 'a'='a",
    "x' OR 'x' LIKE 'x",
    "') or ('1'='1",
    '" or ""="',
    "1 OR 1=1",
    "' OR true --",
    "admin' --",
    "admin'#",
    "x'; DROP TABLE users; --",
    "1; drop database prod",
    "'; DELETE FROM users --",
    "' UNION SELECT a FROM b",
    "1 UNION ALL SELECT name, password FROM users",
    "UNION/**/SELECT a FROM b",
    "union\tselect a\nfrom b",
    "'; EXEC xp_cmdshell('dir')",
    "1 AND sleep(5)",
    "' OR pg_sleep(5) --",
    "select ' UNION SELECT password FROM users",
]
HARMLESS_TEXTS = [
    "How do I SELECT name FROM users?",
    "Please select a table and drop it.",
    "What is the union of both? Select from these.",
    "SELECT a FROM x UNION SELECT b FROM y: why is it slow?",
    "BEGIN; UPDATE accounts SET a = 1; COMMIT;",
    "INSERT INTO t VALUES ('a'); INSERT INTO t VALUES ('b');",
    "WHERE name = 'bob' OR name = 'eve'",
    "x = 1 or y = 2",
    "JavaScript: where do I begin?",
    "Is TypeScript like JavaScript: typed?",
    "Rock 'n' roll or blues?",
    "don't; drop the table",
    "the boys' -- all of them",
    "She said 'yes' or 'no'",
    "if a < b and b > c:",
    "Write a script for a play",
    "1 < 2 on = off",
    "Drop the bass; select a union delegate",
    "What does xp_cmdshell do?",
    "It's 'x' # a comment",
    "# Title\n'quoted'\n-- sig",
    "Ist 'a' oder 'b' richtig?",
    "用户的问题是什么？",
    "مرحبا",
    "What's an iframe onload event?",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_script_injection_is_rejected(text: str) -> None:
    assert rejecting_rule(text, STRICT) == rejecting_rule(f"Hello, {text} and so on", STRICT) == "validation.script"
    assert rejecting_rule(text, InputLimits(off=frozenset({"script"}))) is None
    assert rejecting_rule(text) is None


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_injection_is_rejected(text: str) -> None:
    assert rejecting_rule(text, STRICT) == rejecting_rule(text.lower(), STRICT) == "validation.sql"
    assert rejecting_rule(text, InputLimits(off=frozenset({"sql"}))) is None
    assert rejecting_rule(text) is None


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_harmless_questions_pass_unchanged(text: str) -> None:
    assert validate_conversation([Message("user", text)], STRICT) == (Message("user", text),)


@pytest.mark.parametrize(("limits", "chars"), [(LIMITS, 32_000), (STRICT, 4_000)], ids=["default", "strict"])
def test_message_length_over_limit_is_rejected(limits: InputLimits, chars: int) -> None:
    assert rejecting_rule("a" * chars, limits) is None
    assert rejecting_rule("a" * (chars + 1), limits) == "validation.length"
    assert rejecting_rule("a" * (chars + 1), replace(limits, off=limits.off | {"length"})) is None


def test_message_over_length_limit_is_rejected() -> None:
    expected = r"^turn 2 of the conversation: 4,001 characters are too many \(write at most 4,000\)$"
    with pytest.raises(RejectionError, match=expected) as excinfo:
        validate_conversation([Message("user", "a"), Message("system", "a" * 4001), Message("user", "b")], STRICT)
    assert (excinfo.value.rule, excinfo.value.kind, excinfo.value.status) == ("validation.length", "invalid", 400)
    with pytest.raises(RejectionError, match=r"^the message: 4,001 characters"):
        validate_conversation([Message("user", "a"), Message("assistant", "b"), Message("user", "a" * 4001)], STRICT)


def test_conversation_over_total_limits_is_rejected() -> None:
    many = [Message("user", "a")] * 101
    with pytest.raises(RejectionError, match="more than 100 turns"):
        validate_conversation(many, LIMITS)
    assert len(validate_conversation(many, InputLimits(off=frozenset({"turns"})))) == 101
    with pytest.raises(RejectionError, match="more than 64,000 characters"):
        validate_conversation([Message("assistant", "a" * 64_000), Message("user", "b")], LIMITS)


def test_assistant_messages_may_be_long_and_contain_scripts() -> None:
    answer = Message("assistant", "Write <script>alert(1)</script>, then ' OR 1=1 --" + "." * 5000)
    socket = (Message("user", "How?"), answer, Message("user", "Thanks"))
    assert validate_conversation(socket, STRICT) == socket
    with pytest.raises(RejectionError, match="surrogate"):
        validate_conversation([Message("assistant", "\udfff"), Message("user", "a")], LIMITS)


@pytest.mark.parametrize("text", ["", "\x00", " \n\t", "\u200b\u200d", "\u3164"])
def test_empty_question_is_rejected(text: str) -> None:
    assert rejecting_rule(text) == "validation.empty"
    assert rejecting_rule(text, InputLimits(off=frozenset({"empty"}))) is None


def test_empty_conversation_is_rejected() -> None:
    with pytest.raises(RejectionError, match="write a message"):
        validate_conversation([], LIMITS)


def test_lone_surrogate_is_always_rejected() -> None:
    assert (
        rejecting_rule("a\ud800")
        == rejecting_rule("\udc00", InputLimits(off=frozenset(validation.RULES)))
        == "validation.unicode"
    )


def test_control_characters_are_stripped_and_joiners_kept() -> None:
    assert strip_control_chars("a\x00b\x1b[31mc\x7f\x85d\u202ee\u202d") == "ab[31mcde"
    assert strip_control_chars("a\r\nb\rc\n\td") == "a\nb\nc\n\td"
    kept = "👩‍👩‍👧 क्‍ष \u2067עברית\u2069 \u202bx\u202c e\u0301"
    assert strip_control_chars(kept) == kept
    assert validate_conversation([Message("user", "a\x00b")], LIMITS) == (Message("user", "ab"),)
    untouched = replace(LIMITS, off=frozenset({"controls"}))
    assert validate_conversation([Message("user", "a\x00b")], untouched) == (Message("user", "a\x00b"),)


@given(st.lists(st.text(st.characters(categories=None), max_size=60), max_size=4))
def test_any_text_is_cleaned_or_rejected(texts: list[str]) -> None:
    cleaned: tuple[Message, ...] = ()
    with suppress(RejectionError):
        cleaned = validate_conversation([Message("user", text) for text in texts], LIMITS)
    assert [strip_control_chars(m.content) for m in cleaned] == [m.content for m in cleaned]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('[]{}"\\ab', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=4), inner, max_size=3),
    max_leaves=12,
)


def reference_depth(value: object) -> int:
    if isinstance(value, (dict, list)):
        return 1 + max(map(reference_depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@given(JSON, st.booleans())
def test_json_depth_equals_depth_of_parsed_value(value: object, ascii_only: bool) -> None:
    assert json_depth(json.dumps(value, ensure_ascii=ascii_only).encode()) == reference_depth(value)


@given(st.binary(max_size=300))
def test_json_depth_of_any_bytes_is_bounded(body: bytes) -> None:
    assert 0 <= json_depth(body) <= body.count(b"[") + body.count(b"{")


def test_json_depth_handles_pathological_nesting() -> None:
    assert json_depth(b"[" * 1_000_000) == 1_000_000
    assert json_depth(b'{"a":' * 200_000) == 200_000
    assert json_depth(b'"' + b"\\" * 999_999) == json_depth(b'"[[[[') == json_depth(b"") == json_depth(b"]]]]") == 0
    assert json_depth(('["' + "[" * 20 + '"]').encode("utf-16")) >= 1, (
        "where strings cannot be told, all brackets count"
    )
    check_depth(b"[" * 16 + b"]" * 16, LIMITS)
    with pytest.raises(RejectionError, match="deeper than 16") as excinfo:
        check_depth(b"[" * 17, LIMITS)
    assert (excinfo.value.rule, excinfo.value.status) == ("validation.depth", 400)


def test_body_over_size_limit_is_rejected() -> None:
    check_size(262_144, LIMITS)
    with pytest.raises(RejectionError, match="larger than 262,144 bytes") as excinfo:
        check_size(262_145, LIMITS)
    assert (excinfo.value.rule, excinfo.value.kind, excinfo.value.status) == ("validation.size", "too_large", 413)


@pytest.mark.parametrize("pattern", validation.PATTERNS)
def test_validation_patterns_have_no_unbounded_backtracking(pattern: re.Pattern[str]) -> None:
    """All repeats are bounded or possessive: the cost at one place has a bound."""
    bare = re.sub(r"\\.|\[(?:\\.|[^\]])*\]", "x", pattern.pattern)
    assert re.findall(r"[*+]", re.sub(r"[*+?}]\+", "", bare)) == []


def test_long_character_reference_is_accepted() -> None:
    assert rejecting_rule("&#" + "9" * 60_000, replace(STRICT, message_chars=100_000)) is None
