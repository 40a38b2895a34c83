"""Conversion between Gradio's chat history and the messages that are sent to a model. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from streaming.messages import Message, Role
from ui import strings
from ui.markdown.escaping import escape_prose, unescape_prose

HistoryMessage = Mapping[str, Any]
"""A message in Gradio's format: role, content (text or a list of typed parts) and metadata.

A title in the metadata marks thinking or a receipt, neither of which is part of the model's answer.
"""


HEAD_ID = "head"
"""The id in the metadata of the heading above an answer."""


def assistant_message(
    text: str,
    *,
    title: str | None = None,
    status: str | None = None,
    duration_s: float | None = None,
    receipt: str | None = None,
) -> HistoryMessage:
    """Create an assistant message. Its text is a typed part, because Gradio would dedent a bare string.

    `receipt` is the id of the receipt that the message summarises.
    """
    marks = {"title": title, "status": status, "duration": duration_s, "id": receipt}
    metadata = {key: value for key, value in marks.items() if value is not None}
    return {"role": "assistant", "content": [{"type": "text", "text": text}], "metadata": metadata or None}


def head_message(model: str, strategy: str) -> HistoryMessage:
    """Create the heading above an answer: who answers, and how its text is released. It is no part of the answer."""
    text = f'<h2 class="sg-who">{escape(model)} <small>{escape(strategy)}</small></h2>'
    return {
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "metadata": {"id": HEAD_ID, "log": f"{model} · {strategy}"},
    }


def user_message(text: str) -> HistoryMessage:
    """Create a user message with HTML tags escaped, so that the chat shows them as text."""
    return {"role": "user", "content": [{"type": "text", "text": escape_prose(text)}]}


def to_messages(history: Sequence[HistoryMessage], question: str, system: str) -> tuple[Message, ...]:
    """Build the messages to send to the model, with alternating user and assistant roles.

    Omits thinking, receipts, and user messages whose answer was stopped or failed before any text.
    """
    out: list[Message] = []
    for message in [*_spoken_messages(history), Message("user", question)]:
        before = out.pop() if out and out[-1].role == message.role else None
        joined = before.content + message.content if before and message.role == "assistant" else message.content
        out.append(Message(message.role, joined))
    return (*([Message("system", system)] if system.strip() else []), *out)


def message_text(turn: HistoryMessage) -> str:
    """Return the original text of a message, with HTML entities unescaped."""
    content = turn["content"]
    parts = content if isinstance(content, list) else [content]
    texts = (p if isinstance(p, str) else p.get("text", "") for p in parts if isinstance(p, (str, Mapping)))
    return unescape_prose("".join(texts))


def message_title(turn: HistoryMessage) -> str | None:
    """Return the title that marks a message as thinking or a receipt; None for user and answer text."""
    return (turn.get("metadata") or {}).get("title")


def head_text(turn: HistoryMessage) -> str | None:
    """Return who answers and how, if a message is the heading above an answer; otherwise None."""
    marks = turn.get("metadata") or {}
    return str(marks.get("log") or "") if marks.get("id") == HEAD_ID else None


def is_unfinished(history: Sequence[HistoryMessage]) -> bool:
    """Return whether the last message of a conversation has no whole answer: a receipt, or why it was not sent."""
    thinking = (strings.THINKING_NOW, strings.THINKING_DONE)
    return bool(history) and message_title(history[-1]) in (None, *thinking)


def mark_cut(
    history: Sequence[HistoryMessage],
    outcome: str = strings.OUTCOMES["truncated"],
    reason: str = strings.ANSWER_CUT,
) -> list[HistoryMessage]:
    """Return an unfinished conversation with no thinking under way, and an ending that says how and why it ended."""
    ended = [_end_thinking(turn) for turn in history]
    kept = strings.KEPT if has_partial_answer(history) else strings.NOTHING_KEPT
    return [*ended, assistant_message(f"{reason} {kept}", title=outcome)]


def has_partial_answer(history: Sequence[HistoryMessage]) -> bool:
    """Return whether the last message of a conversation is text of an answer."""
    last = history[-1]
    return last["role"] == "assistant" and message_title(last) is None and head_text(last) is None


def _end_thinking(turn: HistoryMessage) -> HistoryMessage:
    marks = turn.get("metadata") or {}
    if marks.get("status") != "pending":
        return turn
    return {**turn, "metadata": {**marks, "title": strings.THINKING_DONE, "status": "done"}}


def _spoken_messages(history: Sequence[HistoryMessage]) -> Iterator[Message]:
    roles: dict[str, Role] = {"user": "user", "assistant": "assistant"}
    for turn in history:
        role, text = roles.get(turn["role"]), message_text(turn)
        if role and text.strip() and not message_title(turn) and head_text(turn) is None:
            yield Message(role, text)
