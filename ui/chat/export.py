"""Export of a conversation as Markdown or JSON, with the user's API keys removed. No I/O."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from streaming.escaping import to_markdown
from ui import strings
from ui.history import HistoryMessage, message_text, message_title
from ui.markdown.escaping import to_file

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
        if "receipt" in message:
            lines += [f"*{to_markdown(_remove_keys(keys, message['summary']))}*", ""]
        elif "thinking" in message:
            lines += [
                f"> {line}".rstrip() for line in to_file(_remove_keys(keys, message["thinking"])).splitlines()
            ] + [""]
        else:
            who = strings.YOU if message["role"] == "user" else strings.MODEL
            lines += [f"## {who}", "", to_file(_remove_keys(keys, message["content"])), ""]
    return _remove_keys(keys, "\n".join(lines))


def export_json(
    history: Sequence[HistoryMessage], facts: ReceiptLookup, exported_at: str, keys: Sequence[str] = ()
) -> str:
    """Format a conversation as JSON: messages in order, each answer followed by its receipt; null is unknown."""
    conversation = {"exported_at": exported_at, "messages": list(_export_messages(history, facts))}
    return _remove_keys(keys, json.dumps(conversation, ensure_ascii=False, indent=2))


def _export_messages(history: Sequence[HistoryMessage], facts: ReceiptLookup) -> Iterator[dict[str, Any]]:
    for turn in history:
        title, text = message_title(turn), message_text(turn)
        name = (turn.get("metadata") or {}).get("id")
        if title is None:
            yield {"role": turn["role"], "content": text}
        elif name is None and title in (strings.THINKING_NOW, strings.THINKING_DONE):
            yield {"role": "assistant", "thinking": text}
        else:
            yield {"role": "assistant", "summary": title, "receipt": facts(str(name)) if name else None}


def _remove_keys(keys: Sequence[str], text: str) -> str:
    for key in keys:
        text = text.replace(key, strings.KEY_REMOVED)
    return text
