"""Tests of the messages that are sent to a model."""

from typing import Any

from streaming.messages import Message
from ui.history import assistant_message, to_messages


def history_message(role: str, text: str, title: str | None = None) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}], "metadata": {"title": title}, "options": None}


def test_first_question_is_sent_alone() -> None:
    assert to_messages([], "Hello?", "  ") == (Message("user", "Hello?"),)


def test_system_prompt_is_sent_first() -> None:
    assert to_messages([], "Hello?", "Be brief.") == (Message("system", "Be brief."), Message("user", "Hello?"))


def test_thoughts_and_receipts_are_not_sent_to_model() -> None:
    history = [
        history_message("user", "One?"),
        history_message("assistant", "hm", "Thought"),
        history_message("assistant", "1."),
        history_message("assistant", "| Receipt |", "Done"),
    ]
    assert to_messages(history, "Two?", "") == (
        Message("user", "One?"),
        Message("assistant", "1."),
        Message("user", "Two?"),
    )


def test_unanswered_question_is_omitted() -> None:
    history = [
        history_message("user", "One?"),
        history_message("assistant", "| Receipt |", "Stopped"),
        history_message("user", "Two?"),
    ]
    assert to_messages(history, "Three?", "") == (Message("user", "Three?"),)


def test_answer_split_by_thought_is_one_message() -> None:
    history = [
        history_message("user", "One?"),
        history_message("assistant", "It is "),
        history_message("assistant", "hm", "Thought"),
        history_message("assistant", "1."),
    ]
    assert to_messages(history, "Two?", "")[1] == Message("assistant", "It is 1.")


def test_older_content_formats_are_accepted() -> None:
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": ["1", {"type": "text", "text": "."}, {"type": "file", "file": {"path": "x"}}]},
        {"role": "system", "content": "not the page's to say"},
    ]
    assert to_messages(history, "Two?", "") == (
        Message("user", "One?"),
        Message("assistant", "1."),
        Message("user", "Two?"),
    )


def test_assistant_message_keeps_whitespace() -> None:
    turn = assistant_message("  def f():\n      return 1\n")
    assert turn["content"] == [{"type": "text", "text": "  def f():\n      return 1\n"}]
    assert turn["metadata"] is None


def test_thought_message_has_title_status_and_duration() -> None:
    turn = assistant_message("hm", title="Thought", status="done", duration_s=1.4)
    assert turn["metadata"] == {"title": "Thought", "status": "done", "duration": 1.4}
