"""What may be asked, and what of a conversation is sent."""

from decimal import Decimal
from typing import Any

import pytest

from guard.validation import Limits, validated
from streaming.errors import UsageError
from tests.unit.ui.house import House, Slow
from ui import texts
from ui.questions import CHARS_PER_TOKEN, LOCAL_CONTEXT_TOKENS, Question, budget, checked

LISTING = House(Slow()).listing()


def turns(count: int, chars: int) -> list[dict[str, Any]]:
    """Give so many questions, each with its answer, numbered and filled up to a length."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": f"{i}".ljust(chars, ".")} for i in range(2 * count)]


def test_a_conversation_that_fits_is_sent_whole() -> None:
    asked = checked(Question("And?", turns(3, 10), "local"), LISTING, Limits())
    assert asked.left_out == 0 and len(asked.request.messages) == 7


def test_a_longer_one_loses_its_oldest_questions_with_their_answers_but_never_the_system_prompt() -> None:
    asked = checked(Question("And?", turns(10, 2000), "local", system="Be brief.", max_tokens="400"), LISTING, Limits())
    messages = asked.request.messages
    assert messages[0].content == "Be brief." and messages[-1].content == "And?"
    assert messages[1].role == "user", "the first turn that is left is a question"
    assert asked.left_out == 20 + 2 - len(messages) > 0
    room = (LOCAL_CONTEXT_TOKENS - 400) * CHARS_PER_TOKEN
    assert room - 4000 < sum(len(message.content) for message in messages) <= room


def test_more_is_sent_where_more_can_be_taken() -> None:
    assert checked(Question("And?", turns(10, 2000), "ollama:a"), LISTING, Limits()).left_out == 0


@pytest.mark.parametrize("limits", [Limits(conversation_chars=12_000), Limits(turns=7)], ids=["length", "turns"])
def test_a_conversation_is_never_longer_than_this_service_lets_through(limits: Limits) -> None:
    asked = checked(Question("And?", turns(10, 2000), "ollama:a", system="Be brief."), LISTING, limits)
    assert asked.left_out > 0
    assert validated(asked.request.messages, limits) == asked.request.messages


def test_a_question_alone_is_never_left_out() -> None:
    asked = checked(Question("x" * 4000, turns(1, 4000), "local", max_tokens="100000"), LISTING, Limits())
    assert [message.content for message in asked.request.messages] == ["x" * 4000]


@pytest.mark.parametrize(("text", "amount"), [("", None), (" ", None), ("0.5", "0.5"), ("$2", "2"), ("0", "0")])
def test_a_budget_may_be_left_out(text: str, amount: str | None) -> None:
    assert budget(text) == (None if amount is None else Decimal(amount))


@pytest.mark.parametrize("text", ["-1", "one", "inf", "nan", "1/2"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="amount in USD"):
        budget(text)


def test_who_is_not_listed_cannot_be_asked() -> None:
    with pytest.raises(UsageError) as caught:
        checked(Question("Hi", provider="openai:a@https://elsewhere.example"), LISTING, Limits())
    assert str(caught.value) == texts.UNKNOWN_PROVIDER.format(name="openai:a@https://elsewhere.example")
