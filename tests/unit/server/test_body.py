"""What a body may say, and how its faults are told."""

from typing import Any

import pytest
from pydantic import ValidationError

from server.body import NAMES_CHARS, ChatBody, ResumeBody, entry_number, unfit
from server.openai_body import OpenAIBody


def told(kind: type[ChatBody | OpenAIBody | ResumeBody], /, **fields: Any) -> str:
    with pytest.raises(ValidationError) as found:
        kind.model_validate(fields)
    return unfit(found.value.errors()).message


def test_the_system_prompt_is_the_first_turn() -> None:
    body = ChatBody.model_validate({"message": "a", "system": "be brief"})
    assert [(turn.role, turn.content) for turn in body.turns()] == [("system", "be brief"), ("user", "a")]


def test_providers_are_asked_in_the_order_written() -> None:
    assert ChatBody.model_validate({"message": "a", "provider": "a:b, c ,d"}).providers() == ["a:b", "c", "d"]


@pytest.mark.parametrize(
    ("last_id", "number"), [(None, 0), ("", 0), ("s:7", 7), ("7", 7), (7, 7), ("s:0", 0), ("0007", 7)]
)
def test_an_entrys_id_is_its_number(last_id: str | int | None, number: int) -> None:
    assert entry_number("s", last_id) == number


@pytest.mark.parametrize("last_id", ["t:7", "s:", "s:-1", "s:7.0", "s:٣", "s:" + "9" * 16, "s:s:7", " 7", -1, 10**15])
def test_what_is_no_id_of_the_stream_says_how_one_looks(last_id: str | int) -> None:
    with pytest.raises(ValueError, match="looks like s:7"):
        entry_number("s", last_id)


def test_faults_are_one_line_that_names_the_places() -> None:
    assert told(ChatBody, message=5, temperature=9, colour="red").count(";") == 2
    assert "temperature" in told(ChatBody, message="a", temperature=9)
    assert "messages.0.role" in told(ChatBody, messages=[{"role": "king", "content": "a"}])
    assert told(ChatBody, messages=[]).startswith("the body: ")
    assert "\n" not in told(OpenAIBody, model="p", messages=[])


@pytest.mark.parametrize("model", [ChatBody, OpenAIBody])
def test_names_are_short_enough_for_a_line_of_the_log(model: type[ChatBody | OpenAIBody]) -> None:
    question = {"messages": [{"role": "user", "content": "a"}]}
    name = "provider" if model is ChatBody else "model"
    assert model.model_validate({**question, name: "a" * NAMES_CHARS})
    assert str(NAMES_CHARS) in told(model, **question, **{name: "a" * (NAMES_CHARS + 1)})


def test_openais_limit_is_the_later_of_its_two_names() -> None:
    body = OpenAIBody.model_validate(
        {
            "model": "p", "messages": [{"role": "user", "content": "a"}],
            "max_tokens": 3, "max_completion_tokens": 4, "stream_options": {"include_usage": True},
        }
    )  # fmt: skip
    assert (body.chat().max_tokens, body.chat().stream, body.with_usage) == (4, False, True)
