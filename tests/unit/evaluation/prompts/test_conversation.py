"""Prompts of several user turns, and the state of a conversation."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.prompts.conversation import Conversation
from evaluation.prompts.prompt_file import Prompt, Turn, prompt_from_fields, read_prompts
from streaming.errors import UsageError
from streaming.messages import Message

USER_1, USER_2, USER_3 = (Message("user", text) for text in ("One?", "Two?", "Three?"))


def as_json(*messages: Message) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def test_user_messages_at_the_end_are_turns() -> None:
    system, answer = Message("system", "Be brief."), Message("assistant", "Zero.")
    prompt = prompt_from_fields({"id": "a", "messages": as_json(system, USER_1, answer, USER_2, USER_3)})
    assert (prompt.history, prompt.text, prompt.turns) == ((system, USER_1, answer), "Two?", (Turn("Three?"),))
    single = prompt_from_fields({"id": "a", "messages": as_json(USER_1, answer, USER_2)})
    assert (single.text, single.turns) == ("Two?", ())
    before = prompt_from_fields({"id": "a", "prompt": "Three?", "messages": as_json(USER_1, answer)})
    assert (before.history, before.text, before.turns) == ((USER_1, answer), "Three?", ())


def test_turns_follow_the_prompt_with_their_think_times() -> None:
    fields: dict[str, Any] = {"id": "a", "prompt": "One?", "turns": ["Two?", {"prompt": "Three?", "think_s": 2}]}
    assert prompt_from_fields(fields).turns == (Turn("Two?"), Turn("Three?", 2.0))
    both = prompt_from_fields({"id": "a", "messages": as_json(USER_1, USER_2), "turns": ["Three?"]})
    assert (both.text, both.turns) == ("One?", (Turn("Two?"), Turn("Three?")))


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ("Two?", "turns is invalid"),
        (["Two?", " "], "turns: turn 2 is invalid"),
        ([{"text": "Two?"}], "turns: turn 1 is invalid"),
        ([{"prompt": "Two?", "think_s": -1}], "think_s of turn 1 is invalid"),
        ([{"prompt": "Two?", "think_s": True}], "think_s of turn 1 is invalid"),
        (["\ud800"], "not valid Unicode"),
    ],
)
def test_invalid_turns_name_what_is_wrong(turns: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        prompt_from_fields({"id": "a", "prompt": "One?", "turns": turns})


def test_invalid_turn_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "x", "turns": [3]}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2: turns: turn 1 is invalid"):
        read_prompts(file)


def test_conversation_sends_what_was_said_before() -> None:
    conversation = Conversation(Prompt("a", "One?", turns=(Turn("Two?", 1.5), Turn("Three?"))), (USER_1,))
    assert (conversation.turn, conversation.context_tokens) == (1, 0)
    assert conversation.add_answer("First.", 12) == Turn("Two?", 1.5)
    assert list(conversation.messages) == [USER_1, Message("assistant", "First."), USER_2]
    assert (conversation.turn, conversation.context_tokens) == (2, 12)
    assert conversation.add_answer("Second.") == Turn("Three?")
    assert list(conversation.messages)[2:] == [USER_2, Message("assistant", "Second."), USER_3]
    assert (conversation.turn, conversation.context_tokens) == (3, None)
    assert conversation.add_answer("Third.") is None and conversation.turn == 3
