"""The guard's variables: safe defaults, and errors that name the variable."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.budget import Budget
from guard.config import GuardConfig
from guard.content_filter import DEFAULT_BLOCKLIST
from guard.identity import make_key
from guard.validation import RULES, InputLimits
from guard.variables import MAX_BODY_BYTES, MAX_JSON_DEPTH
from streaming.errors import UsageError

NAMES = (
    "RATE_LIMIT", "TRUSTED_HOPS", "API_KEYS", "MAX_MESSAGE_CHARS", "MAX_CONVERSATION_CHARS", "MAX_TURNS",
    "MAX_BODY_BYTES", "MAX_JSON_DEPTH", "VALIDATION", "VALIDATION_OFF", "CONTENT_FILTER", "BLOCKLIST", "OUTPUT_FILTER",
    "OUTPUT_BANNED", "OUTPUT_BANNED_FILE", "BUDGETS", "BUDGET_TOKENS_PER_CALLER", "BUDGET_TOKENS_TOTAL",
    "BUDGET_USD_PER_CALLER", "BUDGET_USD_TOTAL", "BUDGET_STREAMS_PER_CALLER", "BUDGET_STREAMS_TOTAL",
    "MAX_OUTPUT_TOKENS", "UNPRICED_USD_PER_1M",
)  # fmt: skip


def test_config_defaults_are_safe_for_public_demo() -> None:
    read = GuardConfig.from_env({})
    assert str(read.rate) == "10 per 1 minute"
    assert (read.hops, bool(read.keys.digests), read.blocklist, read.output_filter, read.banned) == (
        0,
        False,
        DEFAULT_BLOCKLIST,
        True,
        (),
    )
    limits = read.limits
    assert (limits.message_chars, limits.body_bytes, limits.json_depth, limits.off) == (
        32_000,
        262_144,
        16,
        frozenset({"script", "sql"}),
    )
    assert read.budget == Budget(None, None, Decimal(1), Decimal(10), 16, 256, 4096)
    assert read.rate is not None and (read.budget.streams_per_caller or 0) > read.rate.amount, "the rate decides"
    assert read == GuardConfig.from_env({name: " " for name in NAMES})
    assert (read.limits, read.budget, read.rate) == (
        GuardConfig().limits,
        GuardConfig().budget,
        GuardConfig().rate,
    )


def test_space_trusts_one_proxy_hop() -> None:
    assert GuardConfig.from_env({"SPACE_ID": "a/b"}).hops == 1
    assert GuardConfig.from_env({"SPACE_ID": "a/b", "TRUSTED_HOPS": "0"}).hops == 0


def test_every_guard_variable_is_read(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Über Secret\n\nother\n", encoding="utf-8")
    key, line = make_key("ann")
    read = GuardConfig.from_env(
        {
            "RATE_LIMIT": "100/hour",
            "TRUSTED_HOPS": "2",
            "API_KEYS": line,
            "VALIDATION_OFF": "script, SQL",
            "CONTENT_FILTER": "off",
            "OUTPUT_FILTER": "OFF",
            "OUTPUT_BANNED": "Foo, b\u200bar,",
            "OUTPUT_BANNED_FILE": str(words),
            "BUDGET_USD_TOTAL": "off",
            "BUDGET_USD_PER_CALLER": "2.50",
            "BUDGET_TOKENS_TOTAL": "1000",
            "MAX_OUTPUT_TOKENS": "off",
            "UNPRICED_USD_PER_1M": " 15 / 120.5 ",
            "MAX_TURNS": "3",
        }
    )
    assert read.rate is not None and (read.rate.amount, read.rate.get_expiry()) == (100, 3600)
    assert (read.hops, read.keys.lookup(key), read.limits.turns) == (2, "ann", 3)
    assert read.limits.off == {"script", "sql"} and read.blocklist is None and not read.output_filter
    assert read.banned == ("foo", "bar", "uber secret", "other")
    assert read.budget == Budget(None, 1000, Decimal("2.50"), None, 16, 256, None, (Decimal(15), Decimal("120.5")))
    assert line.partition(":")[2] not in repr(read)


def test_strict_validation_enables_additional_rules() -> None:
    strict = GuardConfig.from_env({"VALIDATION": " Strict "}).limits
    assert (strict.message_chars, strict.off) == (4_000, frozenset())
    assert GuardConfig.from_env({"VALIDATION": "default"}).limits == InputLimits()
    some = GuardConfig.from_env({"VALIDATION": "strict", "VALIDATION_OFF": "sql", "MAX_MESSAGE_CHARS": "500"}).limits
    assert (some.message_chars, some.off) == (500, frozenset({"sql"}))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "unicode"])
def test_each_validation_rule_can_be_disabled(rule: str) -> None:
    limits = GuardConfig.from_env({"VALIDATION": "strict", "VALIDATION_OFF": rule}).limits
    assert limits.off == {rule}
    assert (limits.body_bytes == MAX_BODY_BYTES, limits.json_depth == MAX_JSON_DEPTH) == (
        rule == "size",
        rule == "depth",
    )


def test_rate_limit_and_budgets_can_be_off() -> None:
    read = GuardConfig.from_env({"RATE_LIMIT": "off", "BUDGETS": "off"})
    assert read.rate is None
    assert read.budget.bounds() == (None,) * 6 and read.budget.clamp_output_tokens(None) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("RATE_LIMIT", v)
            for v in ("10", "ten/minute", "0/minute", "10/fortnight", "1/second;5/minute", "9" * 50 + "/hour")
        ),
        *(("TRUSTED_HOPS", v) for v in ("-1", "1.5", "17", "many", "²", "9" * 5000)),
        ("API_KEYS", "ann"),
        ("MAX_MESSAGE_CHARS", "0"),
        ("MAX_JSON_DEPTH", "501"),
        *(("VALIDATION", v) for v in ("on", "off", "strict,default", "4000")),
        ("VALIDATION_OFF", "script,unicode"),
        ("VALIDATION_OFF", "everything"),
        ("CONTENT_FILTER", "no"),
        ("BLOCKLIST", "/nowhere/list.toml"),
        ("BLOCKLIST", "a\0b"),
        ("OUTPUT_BANNED", "a"),
        ("OUTPUT_BANNED", "x" * 65),
        ("OUTPUT_BANNED", "[word]"),
        ("OUTPUT_BANNED", "fine, Moved, remove"),
        ("OUTPUT_BANNED_FILE", "/nowhere"),
        ("BUDGETS", "1"),
        ("BUDGET_TOKENS_TOTAL", "1e6"),
        *(("BUDGET_USD_TOTAL", v) for v in ("-1", "NaN", "Infinity", "1e99", "five", "$5")),
        ("MAX_OUTPUT_TOKENS", "none"),
        *(("UNPRICED_USD_PER_1M", v) for v in ("15", "15/", "1/2/3", "-1/2", "NaN/1", "1/1e9", "off", "free")),
    ],
)
def test_invalid_variable_is_named_in_one_line(name: str, value: str) -> None:
    with pytest.raises(UsageError) as excinfo:
        GuardConfig.from_env({name: value})
    assert str(excinfo.value).startswith(f"{name}: ")
    assert "write " in str(excinfo.value) or "`python -m guard NAME`" in str(excinfo.value)
    assert "\n" not in str(excinfo.value) and len(str(excinfo.value)) < 200


@given(st.sampled_from(NAMES), st.text(max_size=30))
def test_any_variable_value_is_read_or_rejected(name: str, value: str) -> None:
    try:
        assert isinstance(GuardConfig.from_env({name: value}), GuardConfig)
    except UsageError as error:
        assert name in str(error)  # noqa: PT017 - either outcome is right
