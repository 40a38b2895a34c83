"""Errors in the words of many vendors: each is recognised by its code, else by its message, else by its status."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from providers.decoding.vendor_errors import error_from_payload
from providers.http.errors import ServiceLabels, error_from_response
from providers.models.setting_rejections import SettingRejectedError

LABELS = ServiceLabels("X", "https://x.example/v1", "X_API_KEY", "X_BASE_URL")
REJECTED_SETTING = "setting"
ERRORS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "vendor_responses" / "errors.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
"""The kind of each error (`setting`: a setting is rejected), its HTTP status and its body, in the vendors' words."""


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: f"{case['kind']}-{case['status']}")
def test_vendors_error_is_recognised(case: dict[str, Any]) -> None:
    kind = case["kind"]
    error = error_from_response(LABELS, "m", case["status"], httpx2.Headers({}), json.dumps(case["body"]))
    found = REJECTED_SETTING if isinstance(error, SettingRejectedError) else error.kind
    assert found == kind, error.message
    assert "\n" not in error.message


def test_temperature_that_has_one_allowed_value_is_left_out() -> None:
    body = {"error": {"message": "invalid temperature: only 1 is allowed for this model"}}
    error = error_from_response(LABELS, "m", 400, httpx2.Headers({}), json.dumps(body))
    assert isinstance(error, SettingRejectedError)
    assert [(found.setting, found.is_about_value) for found in error.rejections] == [("temperature", False)]


@pytest.mark.parametrize(
    ("status", "words", "recovery"),
    [
        (429, "Request too large for m on tokens per min (TPM): Limit 30000, Requested 40000.", "next"),
        (500, "model requires more system memory (8.4 GiB) than is available (5.0 GiB)", "next"),
        (400, "Your organization must be verified to stream this model.", "fallback"),
        (429, "Rate limit reached for m on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.", "retry"),
    ],
)
def test_recovery_follows_the_words_of_an_error(status: int, words: str, recovery: str) -> None:
    error = error_from_response(LABELS, "m", status, httpx2.Headers({}), json.dumps({"error": {"message": words}}))
    assert error.recovery == recovery


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        ("Rate limit reached. Please try again in 11.054s. Visit our page.", 11.054),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 350ms.", 0.35),
        ("Please retry after 12 seconds.", 12.0),
        ("Please wait 3600 seconds before retrying.", 3600.0),
        ("Please try again in a while.", None),
    ],
)
def test_wait_is_read_from_the_words_where_no_header_names_it(words: str, wait_s: float | None) -> None:
    body = json.dumps({"error": {"message": words}})
    assert error_from_response(LABELS, "m", 429, httpx2.Headers({}), body).retry_after_s == wait_s
    assert error_from_response(LABELS, "m", 429, httpx2.Headers({"retry-after": "3"}), body).retry_after_s == 3.0


def test_account_without_access_is_not_called_a_wrong_key() -> None:
    body = json.dumps({"error": {"message": "This organization has been disabled."}})
    assert error_from_response(LABELS, "m", 400, httpx2.Headers({}), body).message == (
        "X: access denied (400): This organization has been disabled"
    )


@pytest.mark.parametrize(
    ("words", "kind", "wait_s"),
    [
        ("Rate limit exceeded, please try again in 2.5s", "rate_limited", 2.5),
        ("You have run out of credits. Purchase more.", "billing", None),
        ("The upstream closed the connection", "server_error", None),
    ],
)
def test_error_in_a_stream_without_code_is_recognised_by_its_words(words: str, kind: str, wait_s: float | None) -> None:
    error = error_from_payload({"message": words})
    assert (error.kind, error.retry_after_s) == (kind, wait_s)
