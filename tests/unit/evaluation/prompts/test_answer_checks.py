"""Checks of answers: each kind, and definitions that are no checks."""

from typing import Any

import pytest

from evaluation.prompts.answer_checks import parse_check

_SCHEMA = {"json_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


@pytest.mark.parametrize(
    ("expected", "text", "correct"),
    [
        ({"exact": "ping"}, " Ping.\n", True),
        ({"exact": "ping"}, "ping pong", False),
        ({"contains": ["Lisbon"]}, "It is lisbon, of course.", True),
        ({"contains": "Lisbon"}, "Porto", False),
        ({"contains": ["one", "two"]}, "Two and one", True),
        ({"contains": ["one", "two"]}, "Two", False),
        ({"number": 42}, "17 + 25 = 42.", True),
        ({"number": 42}, "42 is what 17 + 26 is not: that is 43", False),
        ({"number": 1440}, "There are 1,440 minutes.", True),
        ({"number": -3.5}, "x = -3.5", True),
        ({"number": 3.14, "tolerance": 0.01}, "3.145", True),
        ({"number": 3.14, "tolerance": 0.01}, "3.16", False),
        ({"number": 42}, "forty-two", False),
        ({"regex": r"\bAu\b"}, "The symbol is Au.", True),
        ({"regex": r"\bAu\b"}, "Aurum", False),
        ({"contains": ["x"]}, "", False),
        (_SCHEMA, '{"city": "Lisbon"}', True),
        (_SCHEMA, '```json\n{"city": "Lisbon"}\n```', True),
        (_SCHEMA, 'Sure:\n~~~\n{"city": "Lisbon"}\n~~~\nAnything else?', True),
        (_SCHEMA, '```\n{"city": 5}\n```\nor rather\n```\n{"city": "Lisbon"}\n```', True),
        (_SCHEMA, '{"city": 5}', False),
        (_SCHEMA, "{}", False),
        (_SCHEMA, 'The answer is {"city": "Lisbon"}.', False),
        (_SCHEMA, '{"city": "Lisbon", "degrees": NaN}', False),
        (_SCHEMA, "[" * 100_000, False),
        (_SCHEMA, "", False),
    ],
)
def test_answer_is_correct_if_it_fits_the_check(expected: Any, text: str, correct: bool) -> None:
    assert parse_check(expected).is_correct(text) is correct


@pytest.mark.parametrize(
    "expected",
    [
        None, "Lisbon", {}, {"exact": "a", "regex": "b"}, {"exact": ""}, {"exact": 5}, {"contains": []},
        {"contains": [1]}, {"number": "42"}, {"number": True}, {"number": 1, "tolerance": -1}, {"regex": "("},
        {"exact": "a", "tolerance": 1}, {"number": 1, "tolerence": 1}, {"number": float("inf")},
    ],
)  # fmt: skip
def test_invalid_check_is_rejected(expected: Any) -> None:
    with pytest.raises(ValueError, match=r"one of exact|a text|a number|a list|a regular"):
        parse_check(expected)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"pattern": "("}, "regex"),
        ({"$ref": "#/$defs/missing"}, "does not exist"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "other documents are not followed"),
        ({"$ref": "file:///etc/hostname"}, "other documents are not followed"),
        ({"const": float("nan")}, "JSON compliant"),
        ([], "not an object"),
        ("object", "not an object"),
    ],
)
def test_invalid_json_schema_is_rejected_with_the_reason(schema: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"a JSON Schema, as in .*{reason}"):
        parse_check({"json_schema": schema})
