"""What of the page's history a model is sent."""

from typing import Any

from streaming.messages import Message
from ui.conversation import messages, shown


def said(role: str, text: str, title: str | None = None) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}], "metadata": {"title": title}, "options": None}


def test_a_first_question_stands_alone() -> None:
    assert messages([], "Hello?", "  ") == (Message("user", "Hello?"),)


def test_a_system_prompt_comes_first() -> None:
    assert messages([], "Hello?", "Be brief.") == (Message("system", "Be brief."), Message("user", "Hello?"))


def test_thoughts_and_receipts_are_not_sent() -> None:
    history = [
        said("user", "One?"),
        said("assistant", "hm", "Thought"),
        said("assistant", "1."),
        said("assistant", "| Receipt |", "Complete"),
    ]
    assert messages(history, "Two?", "") == (
        Message("user", "One?"),
        Message("assistant", "1."),
        Message("user", "Two?"),
    )


def test_a_question_without_an_answer_is_left_out() -> None:
    history = [said("user", "One?"), said("assistant", "| Receipt |", "Stopped"), said("user", "Two?")]
    assert messages(history, "Three?", "") == (Message("user", "Three?"),)


def test_an_answer_around_a_thought_is_one_message() -> None:
    history = [
        said("user", "One?"),
        said("assistant", "It is "),
        said("assistant", "hm", "Thought"),
        said("assistant", "1."),
    ]
    assert messages(history, "Two?", "")[1] == Message("assistant", "It is 1.")


def test_older_forms_of_content_are_read_too() -> None:
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": ["1", {"type": "text", "text": "."}, {"type": "file", "file": {"path": "x"}}]},
        {"role": "system", "content": "not the page's to say"},
    ]
    assert messages(history, "Two?", "") == (
        Message("user", "One?"),
        Message("assistant", "1."),
        Message("user", "Two?"),
    )


def test_what_is_shown_keeps_its_white_space() -> None:
    turn = shown("  def f():\n      return 1\n")
    assert turn["content"] == [{"type": "text", "text": "  def f():\n      return 1\n"}]
    assert turn["metadata"] is None


def test_a_thought_carries_its_title_status_and_duration() -> None:
    turn = shown("hm", title="Thought", status="done", duration_s=1.4)
    assert turn["metadata"] == {"title": "Thought", "status": "done", "duration": 1.4}
