"""Between Gradio's history and the messages that a model gets. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streaming.messages import Message, Role
from ui.markdown_text import escape_prose, unescape_prose

HistoryMessage = Mapping[str, Any]
"""A message as Gradio has it: role, content (text, or a list of typed parts) and metadata, whose title makes it a
thought or a receipt, which no model ever wrote as its answer."""


def assistant_message(
    text: str,
    *,
    title: str | None = None,
    status: str | None = None,
    duration_s: float | None = None,
    receipt: str | None = None,
) -> HistoryMessage:
    """Make an assistant's message; text in a typed part is shown as it is, where a bare string would be dedented.

    `receipt` is the id of the facts that the message sums up.
    """
    marks = {"title": title, "status": status, "duration": duration_s, "id": receipt}
    metadata = {key: value for key, value in marks.items() if value is not None}
    return {"role": "assistant", "content": [{"type": "text", "text": text}], "metadata": metadata or None}


def user_message(text: str) -> HistoryMessage:
    """Make the visitor's message, all of which is seen: the chat would draw a tag in it."""
    return {"role": "user", "content": [{"type": "text", "text": escape_prose(text)}]}


def to_messages(history: Sequence[HistoryMessage], question: str, system: str) -> tuple[Message, ...]:
    """Give what the model is sent, user and assistant in turn.

    Left out are thoughts, receipts and questions that were never answered (stopped or failed before any text).
    """
    out: list[Message] = []
    for message in [*_spoken_messages(history), Message("user", question)]:
        before = out.pop() if out and out[-1].role == message.role else None
        joined = before.content + message.content if before and message.role == "assistant" else message.content
        out.append(Message(message.role, joined))
    return (*([Message("system", system)] if system.strip() else []), *out)


def message_text(turn: HistoryMessage) -> str:
    """Give what was written in a message, as it was written."""
    content = turn["content"]
    parts = content if isinstance(content, list) else [content]
    texts = (p if isinstance(p, str) else p.get("text", "") for p in parts if isinstance(p, (str, Mapping)))
    return unescape_prose("".join(texts))


def message_title(turn: HistoryMessage) -> str | None:
    """Give the title that makes a message a thought or a receipt; None for what was said."""
    return (turn.get("metadata") or {}).get("title")


def _spoken_messages(history: Sequence[HistoryMessage]) -> Iterator[Message]:
    roles: dict[str, Role] = {"user": "user", "assistant": "assistant"}
    for turn in history:
        role, text = roles.get(turn["role"]), message_text(turn)
        if role and text.strip() and not message_title(turn):
            yield Message(role, text)
