"""Export of a conversation as Markdown or JSON, with the user's API keys removed. No I/O."""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from streaming.escaping import to_markdown
from ui import strings
from ui.history import HistoryMessage, head_text, message_text, message_title
from ui.markdown.escaping import to_file

SCHEMA, VERSION = "streamgauge/conversations", 1
MAX_TITLE_CHARS = 60

ReceiptLookup = Callable[[str], Mapping[str, Any] | None]
"""Returns the fields of a receipt by its id; None if it is not found."""


def export_markdown(
    history: Sequence[HistoryMessage], facts: ReceiptLookup, exported_at: str, keys: Sequence[str] = ()
) -> str:
    """Format a conversation as Markdown; thinking is a block quote, a receipt is one line.

    Keys are removed before text is escaped, because an escaped key would not match.
    """
    lines = [f"# {strings.NAME}", "", f"{strings.EXPORTED} {exported_at}", ""]
    for message in _export_messages(history, facts):
        if "answered_by" in message:
            lines += [f"## {to_markdown(remove_keys(keys, message['answered_by']))}", ""]
        elif "receipt" in message:
            lines += [f"*{to_markdown(remove_keys(keys, message['summary']))}*", ""]
        elif "thinking" in message:
            lines += [f"> {line}".rstrip() for line in to_file(remove_keys(keys, message["thinking"])).splitlines()] + [
                ""
            ]
        else:
            if message["role"] == "user":
                lines += [f"## {strings.YOU}", ""]
            lines += [to_file(remove_keys(keys, message["content"])), ""]
    return remove_keys(keys, "\n".join(lines))


def export_json(
    history: Sequence[HistoryMessage], facts: ReceiptLookup, exported_at: str, keys: Sequence[str] = ()
) -> str:
    """Format a conversation as a JSON file that the page can import; each answer is followed by its receipt.

    Null is unknown. The page's script writes and reads the same schema (`ui/static/history.js`).
    """
    messages = list(_export_messages(history, facts))
    question = next((message["content"] for message in messages if message["role"] == "user"), "")
    title = textwrap.shorten(question, MAX_TITLE_CHARS, placeholder="…") or strings.CHAT
    conversation = {"title": title, "updated_at": exported_at, "messages": messages}
    written = {"schema": SCHEMA, "version": VERSION, "exported_at": exported_at, "conversations": [conversation]}
    return remove_keys(keys, json.dumps(written, ensure_ascii=False, indent=2))


def _export_messages(history: Sequence[HistoryMessage], facts: ReceiptLookup) -> Iterator[dict[str, Any]]:
    for turn in history:
        title, text = message_title(turn), message_text(turn)
        name = (turn.get("metadata") or {}).get("id")
        head = head_text(turn)
        if head is not None:
            yield {"role": "assistant", "answered_by": head}
        elif title is None:
            yield {"role": turn["role"], "content": text}
        elif name is None and title in (strings.THINKING_NOW, strings.THINKING_DONE):
            yield {"role": "assistant", "thinking": text}
        else:
            receipt = facts(str(name)) if name else None
            yield {"role": "assistant", "summary": title, "details": text, "receipt": receipt}


def remove_keys(keys: Sequence[str], text: str) -> str:
    """Return the text with the user's API keys replaced by a word."""
    for key in keys:
        text = text.replace(key, strings.KEY_REMOVED)
    return text
