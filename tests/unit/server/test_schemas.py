"""Request bodies: accepted fields, and the messages for invalid ones."""

from typing import Any

import pytest
from pydantic import ValidationError

from server.openai_schemas import CompletionRequestBody
from server.schemas import MAX_NAMES_CHARS, ChatRequestBody, ResumeRequest, parse_event_id, validation_rejection
from streaming.messages import ChatRequest


def rejection_message(kind: type[ChatRequestBody | CompletionRequestBody | ResumeRequest], /, **fields: Any) -> str:
    with pytest.raises(ValidationError) as result:
        kind.model_validate(fields)
    return validation_rejection(result.value.errors()).message


def test_system_prompt_becomes_first_message() -> None:
    body = ChatRequestBody.model_validate({"message": "a", "system": "be brief"})
    assert [(turn.role, turn.content) for turn in body.all_messages()] == [("system", "be brief"), ("user", "a")]


def test_providers_keep_written_order() -> None:
    assert ChatRequestBody.model_validate({"message": "a", "provider": "a:b, c ,d"}).provider_list() == [
        "a:b",
        "c",
        "d",
    ]


@pytest.mark.parametrize(
    ("last_id", "number"), [(None, 0), ("", 0), ("s:7", 7), ("7", 7), (7, 7), ("s:0", 0), ("0007", 7)]
)
def test_parse_event_id_returns_number(last_id: str | int | None, number: int) -> None:
    assert parse_event_id("s", last_id) == number


@pytest.mark.parametrize("last_id", ["t:7", "s:", "s:-1", "s:7.0", "s:٣", "s:" + "9" * 16, "s:s:7", " 7", -1, 10**15])
def test_invalid_event_id_is_rejected_with_example(last_id: str | int) -> None:
    with pytest.raises(ValueError, match="not an id of this stream"):
        parse_event_id("s", last_id)


def test_validation_error_is_one_line_naming_fields() -> None:
    assert rejection_message(ChatRequestBody, message=5, temperature=9, colour="red").count(";") == 2
    assert "temperature" in rejection_message(ChatRequestBody, message="a", temperature=9)
    assert "messages.0.role" in rejection_message(ChatRequestBody, messages=[{"role": "king", "content": "a"}])
    assert rejection_message(ChatRequestBody, messages=[]).startswith("the body: ")
    assert "\n" not in rejection_message(CompletionRequestBody, model="p", messages=[])


@pytest.mark.parametrize("model", [ChatRequestBody, CompletionRequestBody])
def test_long_provider_names_are_rejected(model: type[ChatRequestBody | CompletionRequestBody]) -> None:
    question = {"messages": [{"role": "user", "content": "a"}]}
    name = "provider" if model is ChatRequestBody else "model"
    assert model.model_validate({**question, name: "a" * MAX_NAMES_CHARS})
    assert str(MAX_NAMES_CHARS) in rejection_message(model, **question, **{name: "a" * (MAX_NAMES_CHARS + 1)})


@pytest.mark.parametrize("model", [ChatRequestBody, CompletionRequestBody])
def test_ignore_eos_asks_for_an_answer_of_max_tokens(model: type[ChatRequestBody | CompletionRequestBody]) -> None:
    name = "provider" if model is ChatRequestBody else "model"
    question = {name: "local", "messages": [{"role": "user", "content": "a"}], "max_tokens": 9}

    def to_request(**fields: Any) -> ChatRequest:
        body = model.model_validate({**question, **fields})
        return (body if isinstance(body, ChatRequestBody) else body.to_chat_body()).to_chat_request(None)

    assert to_request(ignore_eos=True).ignores_end and to_request(ignore_eos=True).max_tokens == 9
    assert not to_request().ignores_end and not to_request(ignore_eos=False).ignores_end


def test_max_completion_tokens_overrides_max_tokens() -> None:
    body = CompletionRequestBody.model_validate(
        {
            "model": "p", "messages": [{"role": "user", "content": "a"}],
            "max_tokens": 3, "max_completion_tokens": 4, "stream_options": {"include_usage": True},
        }
    )  # fmt: skip
    assert (body.to_chat_body().max_tokens, body.to_chat_body().stream, body.include_usage) == (4, False, True)
