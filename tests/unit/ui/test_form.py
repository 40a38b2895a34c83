"""Tests of the form's validation and of trimming a conversation."""

from decimal import Decimal
from typing import Any

import pytest

from guard.validation import InputLimits, validate_conversation
from streaming.errors import UsageError
from tests.unit.ui.ui_fixtures import FakeProviders, SlowAdapter
from ui import strings
from ui.form import CHARS_PER_TOKEN, LOCAL_CONTEXT_TOKENS, ChatForm, parse_budget, shown_model, validate_form

LISTING = FakeProviders(SlowAdapter()).list_providers()


def make_turns(count: int, chars: int) -> list[dict[str, Any]]:
    """Return numbered user messages and answers, each padded to a length."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": f"{i}".ljust(chars, ".")} for i in range(2 * count)]


def test_conversation_that_fits_is_sent_whole() -> None:
    request = validate_form(ChatForm("And?", make_turns(3, 10), "local"), LISTING, InputLimits())
    assert request.left_out == 0 and len(request.request.messages) == 7


def test_long_conversation_drops_oldest_turns_but_not_system_prompt() -> None:
    request = validate_form(
        ChatForm("And?", make_turns(10, 2000), "local", system="Be brief.", max_tokens="400"), LISTING, InputLimits()
    )
    messages = request.request.messages
    assert messages[0].content == "Be brief." and messages[-1].content == "And?"
    assert messages[1].role == "user", "the first turn that is left is a question"
    assert request.left_out == 20 + 2 - len(messages) > 0
    room = (LOCAL_CONTEXT_TOKENS - 400) * CHARS_PER_TOKEN
    assert room - 4000 < sum(len(message.content) for message in messages) <= room


def test_larger_context_receives_more_turns() -> None:
    assert validate_form(ChatForm("And?", make_turns(10, 2000), "ollama:a"), LISTING, InputLimits()).left_out == 0


@pytest.mark.parametrize(
    "limits", [InputLimits(conversation_chars=12_000), InputLimits(turns=7)], ids=["length", "turns"]
)
def test_trimmed_conversation_passes_guard_limits(limits: InputLimits) -> None:
    request = validate_form(ChatForm("And?", make_turns(10, 2000), "ollama:a", system="Be brief."), LISTING, limits)
    assert request.left_out > 0
    assert validate_conversation(request.request.messages, limits) == request.request.messages


def test_current_question_is_never_dropped() -> None:
    request = validate_form(
        ChatForm("x" * 4000, make_turns(1, 4000), "local", max_tokens="100000"), LISTING, InputLimits()
    )
    assert [message.content for message in request.request.messages] == ["x" * 4000]


@pytest.mark.parametrize(("text", "amount"), [("", None), (" ", None), ("0.5", "0.5"), ("$2", "2"), ("0", "0")])
def test_empty_budget_is_none(text: str, amount: str | None) -> None:
    assert parse_budget(text) == (None if amount is None else Decimal(amount))


@pytest.mark.parametrize("text", ["-1", "one", "inf", "nan", "1/2"])
def test_invalid_budget_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="amount in USD"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("sk-proj-abcdefghij0123456789ABCDEF", ""),
        ("gsk_" + "aB3d" * 13, ""),
        ("hf_" + "aB3" * 12, ""),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M"),
    ],
)
def test_api_key_in_place_of_a_model_is_rejected_and_shown_nowhere(model: str, shown: str) -> None:
    form = ChatForm("Hi", provider="ollama:a", model=model)
    assert shown_model(form) == shown
    if shown:
        assert validate_form(form, LISTING, InputLimits()).name == f"ollama:{model}"
    else:
        with pytest.raises(UsageError) as excinfo:
            validate_form(form, LISTING, InputLimits())
        assert str(excinfo.value) == strings.SECRET_MODEL


def test_unlisted_provider_is_rejected() -> None:
    with pytest.raises(UsageError) as excinfo:
        validate_form(ChatForm("Hi", provider="openai:a@https://elsewhere.example"), LISTING, InputLimits())
    assert str(excinfo.value) == strings.UNKNOWN_PROVIDER.format(name="openai:a@https://elsewhere.example")
