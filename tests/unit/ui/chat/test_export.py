"""Tests of the export of a conversation."""

import json
from typing import Any

from markdown_it import MarkdownIt

from ui.chat import export
from ui.history import assistant_message, head_message, user_message
from ui.markdown.escaping import escape_prose

HISTORY: list[Any] = [
    user_message("Is a<b>?"),
    head_message("gpt-x · OpenAI", "batch:100ms"),
    assistant_message(escape_prose("Let me see: <i>"), title="Thought", status="done"),
    assistant_message(escape_prose("Yes, a<b> & `x<y>`.")),
    assistant_message("| Receipt |", title="Done · 12 characters", receipt="receipt-1"),
    user_message("My key is sk-secret-123"),
    assistant_message("not sent", title="Not sent"),
]


def receipt_facts(name: str) -> dict[str, Any] | None:
    return {"served_by": "local", "cost_usd": None} if name == "receipt-1" else None


def test_json_export_has_messages_and_receipts() -> None:
    data = json.loads(export.export_json(HISTORY, receipt_facts, "2026-01-02", ["sk-secret-123"]))
    assert (data["schema"], data["version"], data["exported_at"]) == ("streamgauge/conversations", 1, "2026-01-02")
    (conversation,) = data["conversations"]
    assert (conversation["title"], conversation["updated_at"]) == ("Is a<b>?", "2026-01-02")
    assert conversation["messages"] == [
        {"role": "user", "content": "Is a<b>?"},
        {"role": "assistant", "answered_by": "gpt-x · OpenAI · batch:100ms"},
        {"role": "assistant", "thinking": "Let me see: <i>"},
        {"role": "assistant", "content": "Yes, a<b> & `x<y>`."},
        {
            "role": "assistant",
            "summary": "Done · 12 characters",
            "details": "| Receipt |",
            "receipt": {"served_by": "local", "cost_usd": None},
        },
        {"role": "user", "content": "My key is [key]"},
        {"role": "assistant", "summary": "Not sent", "details": "not sent", "receipt": None},
    ]


def test_markdown_export_keeps_order_and_removes_keys() -> None:
    written = export.export_markdown(HISTORY, receipt_facts, "2026-01-02", ["sk-secret-123"])
    parts = [
        "## You",
        "Is a&lt;b>?",
        "## gpt-x · OpenAI · batch:100ms",
        "> Let me see: &lt;i>",
        "Yes, a&lt;b> & `x<y>`.",
        "*Done · 12",
        "[key]",
        "*Not sent*",
    ]
    places = [written.index(part) for part in parts]
    assert places == sorted(places)
    assert "sk-secret-123" not in written


def test_markdown_export_of_hostile_conversation_has_no_html_or_images() -> None:
    hostile = "![x](http://tracker.example/p.png) <img src=http://tracker.example/q.png> ![r][1] `![kept](code)`"
    history: list[Any] = [
        user_message(hostile),
        assistant_message(escape_prose(hostile), title="Thought", status="done"),
        assistant_message(escape_prose(hostile)),
        assistant_message("", title=f"Failed: {hostile} key_one&two", receipt="receipt-1"),
    ]
    written = export.export_markdown(history, receipt_facts, "2026-01-02", ["key_one&two"])
    rendered = MarkdownIt("commonmark", {"html": True}).render(written + "\n[1]: http://tracker.example/r.png\n")
    assert "<img" not in rendered and rendered.count("<code>![kept](code)</code>") == 3
    assert "key" not in written.replace("[key]", "").replace("\\[key\\]", "")
