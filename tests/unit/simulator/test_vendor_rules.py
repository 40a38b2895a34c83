"""The vendors' rules: rejected settings, retired models, caches, billing and error formats."""

import json
from datetime import date
from typing import Any

import pytest

from simulator.vendor_rules import Rejection, VendorRules, error_body, split_vendor

RULES = VendorRules.load(date(2026, 12, 1))


def check(vendor: str, model: str, version: str | None = None, **fields: Any) -> Rejection | None:
    return RULES.check(vendor, model, {"model": model, **fields}, version)


@pytest.mark.parametrize(
    ("vendor", "model", "fields"),
    [
        ("openai", "gpt-5-mini", {"temperature": 0.2}),
        ("openai", "gpt-6.1-terra", {"top_p": 0.5}),
        ("openai", "o3-mini", {"max_tokens": 10}),
        ("openai", "gpt-4o", {"reasoning_effort": "low"}),
        ("openai", "gpt-6.2-sol", {"reasoning_effort": "none"}),
        ("openai", "gpt-4o", {"no_such_field": 1}),
        ("anthropic", "claude-haiku-5-5", {"temperature": 0.0}),
        ("mistral", "mistral-small-latest", {"stream_options": {}}),
        ("xai", "grok-4.3", {"reasoning_effort": "xhigh"}),
        ("xai", "grok-4-0709", {"reasoning_effort": "low"}),
        ("moonshot", "kimi-k2.6", {"temperature": 0.2}),
        ("groq", "llama-3.3-70b-versatile", {}),
        ("deepseek", "deepseek-chat", {}),
    ],
)
def test_unsupported_setting_is_rejected(vendor: str, model: str, fields: dict[str, Any]) -> None:
    assert check(vendor, model, **fields) is not None


@pytest.mark.parametrize(
    ("vendor", "model", "fields"),
    [
        ("openai", "gpt-6.1-terra", {"temperature": 0.2, "reasoning_effort": "none"}),
        ("openai", "gpt-6.1-terra", {"max_completion_tokens": 10, "reasoning_effort": "low"}),
        ("openai", "gpt-6.2-sol", {"reasoning_effort": "xhigh"}),
        ("openai", "gpt-4o", {"temperature": 0.2, "max_tokens": 10}),
        ("openai", "steady", {"temperature": 0.2}),
        ("groq", "openai/gpt-oss-120b", {"temperature": 0.2, "no_such_field": 1}),
        ("mistral", "mistral-small-latest", {"temperature": 0.2, "max_tokens": 10}),
        ("ollama", "llama3.2", {"options": {"temperature": 0.2}}),
    ],
)
def test_supported_setting_is_accepted(vendor: str, model: str, fields: dict[str, Any]) -> None:
    assert check(vendor, model, **fields) is None


def test_anthropic_rejections_depend_on_api_version() -> None:
    assert check("anthropic", "claude-3-opus", "2026-10-21", temperature=0.1) is not None
    assert check("anthropic", "claude-3-opus", "2023-06-01", temperature=0.1) is None


def test_model_is_retired_from_retirement_date_on() -> None:
    assert check("openai", "gpt-5-mini") is None
    later = VendorRules.load(date(2026, 12, 11)).check("openai", "gpt-5-mini", {}, None)
    assert later is not None
    assert (later.status, "gpt-6.1-terra" in later.message) == (404, True)
    assert RULES.shutdown_date("openai", "gpt-5-mini") == date(2026, 12, 11)
    assert "gpt-5-mini" in RULES.listed_models("openai")
    assert "grok-4" not in RULES.listed_models("xai")


def test_long_prompts_alone_are_cached() -> None:
    assert RULES.caches("openai", 1024)
    assert not RULES.caches("openai", 1023)
    assert not RULES.caches("groq", 5000)


@pytest.mark.parametrize(("vendor", "status"), [("mistral", 422), ("xai", 400), ("gemini", 400), ("groq", 400)])
def test_error_has_the_vendors_shape(vendor: str, status: int) -> None:
    body = error_body(vendor, Rejection(status, "THE-WORDS", "a_code", "temperature"))
    assert body is not None
    assert "THE-WORDS" in body.decode()
    assert isinstance(json.loads(body), list if vendor == "gemini" else dict)


@pytest.mark.parametrize(
    ("path", "vendor", "rest"),
    [
        ("/xai/v1/chat/completions", "xai", "/v1/chat/completions"),
        ("/groq/openai/v1/models", "groq", "/v1/models"),
        ("/gemini/v1beta/openai/chat/completions", "gemini", "/v1/chat/completions"),
        ("/deepseek/chat/completions", "deepseek", "/v1/chat/completions"),
        ("/anthropic/v1/messages", "anthropic", "/v1/messages"),
        ("/v1/chat/completions", None, "/v1/chat/completions"),
        ("/openai/v1/chat/completions", None, "/openai/v1/chat/completions"),
        ("/openai/deployments/d/chat/completions", None, "/openai/deployments/d/chat/completions"),
    ],
)
def test_path_names_the_vendor(path: str, vendor: str | None, rest: str) -> None:
    assert split_vendor(path) == (vendor, rest)


def test_every_entry_has_a_source_and_a_date() -> None:
    table = RULES.table
    entries = [*table["refused"], *table["effort"], *table["retired"], *table["usage"].values(), table["cache"]]
    assert all(entry["source"] and isinstance(entry["checked"], date) for entry in entries)
