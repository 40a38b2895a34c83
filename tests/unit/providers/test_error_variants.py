"""Errors in the words of many vendors: each is recognised by its code, else by its message, else by its status."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

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
