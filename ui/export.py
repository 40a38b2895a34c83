"""A conversation as a file to keep: Markdown to read, JSON to work with. Pure; keys of the visitor's are taken out."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evaluation.escaping import to_markdown
from ui import texts
from ui.conversation import Turn, text_of, title_of
from ui.markdown import to_file

Facts = Callable[[str], Mapping[str, Any] | None]
"""Gives what an answer came to, by the id of its receipt."""


def as_markdown(history: Sequence[Turn], facts: Facts, exported_at: str, keys: Sequence[str] = ()) -> str:
    """Write a conversation for people; thinking is quoted, a receipt is one line.

    Keys go first: escaped ones would not be found.
    """
    lines = [f"# {texts.NAME}", "", f"{texts.EXPORTED} {exported_at}", ""]
    for message in _messages(history, facts):
        if "receipt" in message:
            lines += [f"*{to_markdown(_without(keys, message['summary']))}*", ""]
        elif "thinking" in message:
            lines += [f"> {line}".rstrip() for line in to_file(_without(keys, message["thinking"])).splitlines()] + [""]
        else:
            who = texts.YOU if message["role"] == "user" else texts.MODEL
            lines += [f"## {who}", "", to_file(_without(keys, message["content"])), ""]
    return _without(keys, "\n".join(lines))


def as_json(history: Sequence[Turn], facts: Facts, exported_at: str, keys: Sequence[str] = ()) -> str:
    """Write a conversation for programs: messages in order, each answer followed by its receipt; null is unknown."""
    found = {"exported_at": exported_at, "messages": list(_messages(history, facts))}
    return _without(keys, json.dumps(found, ensure_ascii=False, indent=2))


def _messages(history: Sequence[Turn], facts: Facts) -> Iterator[dict[str, Any]]:
    for turn in history:
        title, text = title_of(turn), text_of(turn)
        name = (turn.get("metadata") or {}).get("id")
        if title is None:
            yield {"role": turn["role"], "content": text}
        elif name is None and title in (texts.THINKING_NOW, texts.THINKING_DONE):
            yield {"role": "assistant", "thinking": text}
        else:
            yield {"role": "assistant", "summary": title, "receipt": facts(str(name)) if name else None}


def _without(keys: Sequence[str], text: str) -> str:
    for key in keys:
        text = text.replace(key, texts.KEY_REMOVED)
    return text
