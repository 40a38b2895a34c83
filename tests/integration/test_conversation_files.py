"""Tests of the page's script that writes and reads files of conversations, which Node.js runs here."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.chat import export
from ui.history import assistant_message, head_message, message_text, user_message
from ui.markdown.escaping import escape_prose, unescape_prose
from ui.request_filter.event_schema import is_message
from ui.theme import STATIC

SCRIPT = Path(__file__).with_name("conversation_files.mjs")
QUESTION = {"role": "user", "content": "x"}
HISTORY: list[Any] = [
    user_message("Is `a<b>` or List<String> a tag? &amp;"),
    head_message("gpt-x · <OpenAI>", "batch:100ms"),
    assistant_message(escape_prose("Let me see: <i>"), title="Thought", status="done", duration_s=1.5),
    assistant_message(escape_prose("Yes:\n\n```\na<b>\n```\n& List<String>.")),
    assistant_message("| Receipt | |\n|---|---|\n| a | b |", title="gpt-x · TTFT 0.2 s", status="done", receipt="one"),
]


class Script:
    """The page's script in a process of Node.js."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def call(self, name: str, *values: Any) -> dict[str, Any]:
        """Call a function of the script; return its `value`, or the `error` and the `kind` that it threw."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *values]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    node = shutil.which("node")
    assert node is not None, "node is needed for what these tests use of JavaScript: install it"
    command = [node, str(SCRIPT), str(STATIC / "branches.js"), str(STATIC / "history.js")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        yield Script(process)
        assert process.stdin is not None
        process.stdin.close()


def make_file(*conversations: Any, schema: Any = export.SCHEMA, version: Any = export.VERSION) -> str:
    return json.dumps({"schema": schema, "version": version, "conversations": conversations})


def test_exported_file_is_imported_as_it_was_drawn(script: Script) -> None:
    record = {"title": "Tags", "updated": 0, "settings": {"provider": "local", "streamed": False}, "messages": HISTORY}
    written = script.call("toFile", [record], "2026-01-02")["value"]
    (read,) = script.call("readFile", written)["value"]
    assert {name: read[name] for name in ("title", "updated", "settings")} == {
        k: record[k] for k in ("title", "updated", "settings")
    }
    texts = [[message_text(message) for message in messages] for messages in (HISTORY, read["messages"])]
    assert texts[0][2:] == texts[1][2:] and texts[0][0] == texts[1][0]
    assert read["messages"][1]["metadata"] == HISTORY[1]["metadata"]
    assert "&#60;OpenAI&#62;" in read["messages"][1]["content"][0]["text"]
    assert script.call("toFile", [{**read, "updated": 0}], "2026-01-02")["value"] == written


def test_file_of_the_service_is_imported_with_the_same_texts(script: Script) -> None:
    exported = export.export_json(HISTORY, lambda name: {"served_by": name}, "2026-01-02T03:04:05Z")
    (read,) = script.call("readFile", exported)["value"]
    assert read["title"] == "Is `a<b>` or List<String> a tag? &amp;"
    assert [message_text(message) for message in read["messages"]][2:] == [message_text(turn) for turn in HISTORY][2:]
    own = json.loads(script.call("toFile", [{**read, "messages": HISTORY}], "")["value"])["conversations"][0][
        "messages"
    ]
    assert own == [
        {name: value for name, value in message.items() if name != "receipt"}
        for message in json.loads(exported)["conversations"][0]["messages"]
    ]


@given(text=st.text(alphabet=st.sampled_from("a <>&;`~\n\\[lt]:/.wamp#é😀"), max_size=60))
def test_text_is_escaped_as_by_the_service(script: Script, text: str) -> None:
    assert script.call("escape", text)["value"] == escape_prose(text)
    assert script.call("unescape", text)["value"] == unescape_prose(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system"]) | JSON_VALUES,
        **{
            name: st.text(max_size=40) | st.just("<img src=x onerror=alert(1)>\ud800") | JSON_VALUES
            for name in ("content", "thinking", "summary", "details", "answered_by")
        },
    },
)
PATHS = st.lists(st.lists(st.integers(-1, 3) | JSON_VALUES, max_size=3), max_size=3)
BRANCHES = st.fixed_dictionaries(
    {
        "turns": st.lists(st.lists(MESSAGES, max_size=2), max_size=3) | JSON_VALUES,
        "paths": PATHS | JSON_VALUES,
        "shown": st.integers(-1, 3) | JSON_VALUES,
    }
)
CONVERSATIONS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, max_size=4) | JSON_VALUES},
    optional={
        "title": st.text(max_size=100) | JSON_VALUES,
        "updated_at": JSON_VALUES,
        "settings": JSON_VALUES,
        "branches": BRANCHES | JSON_VALUES,
    },
)


@given(conversation=CONVERSATIONS | JSON_VALUES)
def test_hostile_conversation_is_rejected_with_a_sentence_or_is_harmless(script: Script, conversation: Any) -> None:
    found = script.call("readFile", make_file(conversation))
    if "error" in found:
        assert found["error"] == "Not imported: conversation 1 of this file is damaged." and found["kind"] == "Error"
        return
    (read,) = found["value"]
    hidden = [message for turn in read.get("tree", {"turns": {}})["turns"].values() for message in turn]
    assert read["messages"] and all(is_message(message, 10_000) for message in [*read["messages"], *hidden])
    assert 0 < len(read["title"]) <= 2 * 60 and isinstance(read["settings"], dict)
    for message in [*read["messages"], *hidden]:
        text = message["content"][0]["text"]
        if (message["metadata"] or {}).get("id") != "head":
            assert escape_prose(unescape_prose(text)) == text
        assert "<img" not in text and "<img" not in str((message["metadata"] or {}).get("title"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "null",
        "{}",
        '{"messages": []}',
        make_file(schema="other"),
        make_file(version="1"),
        "[" * 100_000,
    ],
)
def test_foreign_file_is_rejected_with_a_sentence(script: Script, text: str) -> None:
    assert script.call("readFile", text)["error"].startswith(
        "Not imported: this is no file of conversations from this page."
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (make_file(version=2), "a newer version"),
        (make_file({"messages": [{**QUESTION, "content": "x" * 2_000_000}]}), "conversation 1 of this file is too l"),
        (make_file({"messages": [QUESTION] * 2001}), "conversation 1 of this file is too long"),
        (make_file({"messages": [QUESTION]}, {"messages": [3]}), "conversation 2 of this file is damaged"),
        (" " * 20_000_001, "larger than 20 MB"),
    ],
)  # fmt: skip
def test_file_that_cannot_be_read_whole_is_rejected_as_a_whole(script: Script, text: str, words: str) -> None:
    assert words in script.call("readFile", text)["error"]


def test_settings_of_wrong_names_types_or_sizes_are_left_out(script: Script) -> None:
    settings = {
        "provider": "local", "model": 3, "strategy": "x" * 201, "system": "Be brief.", "streamed": "yes",
        "timed_words": True, "key": "sk-1", "__proto__": {"own": "x"},
    }  # fmt: skip
    (read,) = script.call("readFile", make_file({"messages": [QUESTION], "settings": settings}))["value"]
    assert read["settings"] == {"provider": "local", "system": "Be brief.", "timed_words": True}


def test_title_is_first_question_cut_at_60_characters(script: Script) -> None:
    def title(question: str) -> str:
        value: str = script.call("titleOf", [user_message(question)])["value"]
        return value

    assert title("Is List<String>\n a tag?") == "Is List<String> a tag?"
    assert title("😀" * 61) == "😀" * 59 + "…" and title("a" * 60) == "a" * 60
    assert script.call("titleOf", [])["value"] == "Conversation"
