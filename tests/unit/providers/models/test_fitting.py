"""Fitting of requests to their models: dropped settings, learning from rejections, and the fields of effort."""

import json
from typing import Any

import pytest

from providers.http.errors import ServiceLabels, error_from_response
from providers.models.facts import load_built_in_facts
from providers.models.fitting import SettingsFitter, build_effort_fields
from providers.models.setting_rejections import SettingRejectedError
from streaming.messages import ChatRequest, Message

REQUEST = ChatRequest((Message("user", "Hi"),), model="m", temperature=0.2, max_tokens=10)


def find_rejected_settings(status: int, body: Any) -> dict[str, bool]:
    error = error_from_response(ServiceLabels("X", "http://x"), "m", status, {}, json.dumps(body))
    if not isinstance(error, SettingRejectedError):
        return {}
    return {entry.setting: entry.is_about_value for entry in error.rejections}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
               "'max_completion_tokens' instead.", "param": "max_tokens", "code": "unsupported_parameter"}},
         {"max_tokens": False}),
        (400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.2 with this model. Only the "
               "default (1) value is supported.", "param": "temperature", "code": "unsupported_value"}},
         {"temperature": False}),
        (400, {"type": "error", "error": {"type": "invalid_request_error",
               "message": "`temperature` is deprecated for this model."}}, {"temperature": False}),
        (400, {"type": "error", "error": {"type": "invalid_request_error",
               "message": "temperature: Input should be less than or equal to 1"}}, {"temperature": True}),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"],
               "msg": "Extra inputs are not permitted"}]}, {"stream_options": False}),
        (400, {"error": "\"llama3.2\" does not support thinking"}, {"effort": False}),
        (400, {"error": "Model grok-4.5 does not support parameter reasoningEffort."}, {"effort": False}),
        (400, {"error": {"message": "Invalid value: 'max'. Supported values are: 'low', 'high'.",
               "param": "reasoning_effort", "code": "invalid_value"}}, {"effort": True}),
        (400, {"error": {"message": "The prompt is too long"}}, {}),
        (401, {"error": {"message": "temperature is not supported"}}, {}),
    ],
)  # fmt: skip
def test_rejection_names_its_settings(status: int, body: Any, expected: dict[str, bool]) -> None:
    assert find_rejected_settings(status, body) == expected


def learn(fitter: SettingsFitter, request: ChatRequest, status: int, message: str, param: str) -> bool:
    body = json.dumps({"error": {"message": message, "param": param}})
    error = error_from_response(ServiceLabels("X", "http://x"), request.model, status, {}, body)
    assert isinstance(error, SettingRejectedError)
    return fitter.learn(fitter.fit(request), error.rejections)


def test_rejected_setting_is_dropped_from_later_requests_of_that_model_only() -> None:
    fitter = SettingsFitter()
    assert fitter.fit(REQUEST).dropped == ()
    assert learn(fitter, REQUEST, 400, "temperature is not supported", "temperature")
    fitted = fitter.fit(REQUEST)
    assert (fitted.request.temperature, fitted.dropped) == (None, ("temperature",))
    assert fitted.notices[0].detail == {"settings": "temperature"}
    assert not learn(fitter, REQUEST, 400, "temperature is not supported", "temperature")
    other = ChatRequest(REQUEST.messages, model="other", temperature=0.2)
    assert fitter.fit(other).request.temperature == 0.2


def test_rejected_max_tokens_field_is_replaced_once_and_never_dropped() -> None:
    fitter = SettingsFitter()
    assert learn(fitter, REQUEST, 400, "max_tokens is not supported", "max_tokens")
    fitted = fitter.fit(REQUEST)
    assert (fitted.max_tokens_field, fitted.request.max_tokens) == ("max_completion_tokens", 10)
    assert not learn(fitter, REQUEST, 400, "max_completion_tokens is not supported", "max_completion_tokens")


def test_room_for_thinking_is_added_to_the_limit_except_with_effort_none() -> None:
    fitter = SettingsFitter(load_built_in_facts(), "openai")
    request = ChatRequest(REQUEST.messages, model="gpt-6.1-terra", max_tokens=10)
    assert fitter.fit(request).request.max_tokens == 10 + 8192
    quiet = ChatRequest(REQUEST.messages, model="gpt-6.1-terra", max_tokens=10, effort="none", temperature=0.5)
    assert (fitter.fit(quiet).request.max_tokens, fitter.fit(quiet).request.temperature) == (10, 0.5)


@pytest.mark.parametrize(
    ("place", "effort", "fields"),
    [
        ("reasoning_effort", "low", {"reasoning_effort": "low"}),
        ("reasoning", "high", {"reasoning": {"effort": "high"}}),
        ("think", "none", {"think": False}),
        ("think", "low", {"think": "low"}),
        ("think", "max", {"think": True}),
        ("thinking", "none", {"thinking": {"type": "disabled"}}),
        ("thinking_and_reasoning_effort", "low", {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}),
    ],
)
def test_effort_is_sent_in_each_vendors_fields(place: Any, effort: str, fields: dict[str, Any]) -> None:
    assert build_effort_fields(place, effort) == fields
