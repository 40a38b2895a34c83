"""Tests of the page's script that keeps the branches of a conversation, which Node.js runs here."""

import itertools
import json
import random
from typing import Any

from tests.integration.test_conversation_files import Script, make_file
from tests.integration.test_conversation_files import script as script
from ui.history import assistant_message, message_text, user_message

Messages = list[Any]


def ask(messages: Messages, question: str) -> Messages:
    return [*messages, user_message(question), assistant_message(f"An answer to {question}")]


def questions(messages: Messages) -> list[str]:
    return [message_text(message) for message in messages if message["role"] == "user"]


class Conversation:
    """A conversation with branches, and all branches that it must have: paths of questions, each asked once."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._numbers = itertools.count()
        self.messages = ask([], self._next_question())
        self.tree = self._call("begin", "answer-0", self.messages)
        self.branches = [questions(self.messages)]

    def _call(self, name: str, *values: Any) -> Any:
        return self._script.call(name, *values)["value"]

    def _next_question(self) -> str:
        return f"question {next(self._numbers)}"

    def ask_next(self) -> None:
        self.branches.remove(questions(self.messages))
        self._ask()

    def _ask(self) -> None:
        self.messages = ask(self.messages, self._next_question())
        self.tree = self._call("follow", self.tree, self.messages)
        self.branches.append(questions(self.messages))

    def edit(self, at: int) -> None:
        shown = self._call("fork", self.tree, self.messages, at, f"answer-{next(self._numbers)}")
        self.tree, self.messages = shown["tree"], shown["messages"]
        self._ask()

    def show(self, at: int, step: int) -> None:
        index = self._call("findBranch", self.tree, at, step)
        if index >= 0:
            shown = self._call("show", self.tree, self.messages, index)
            self.tree, self.messages = shown["tree"], shown["messages"]

    def check(self) -> None:
        current = questions(self.messages)
        assert current in self.branches and len(self.tree["paths"]) == len(self.branches)
        # Questions are numbered in the order in which they were asked, and so are versions.
        for at, version in enumerate(self._call("versions", self.tree)):
            before = current[:at]
            all_at = sorted(
                {path[at] for path in self.branches if path[:at] == before and len(path) > at},
                key=lambda question: int(question.split()[1]),
            )
            assert (version["number"], version["count"]) == (all_at.index(current[at]) + 1, len(all_at))


def test_every_branch_is_kept_whatever_is_edited_and_shown(script: Script) -> None:
    for seed in range(20):
        rng, conversation = random.Random(seed), Conversation(script)
        for _ in range(25):
            at = rng.randrange(len(questions(conversation.messages)))
            match rng.randrange(3):
                case 0:
                    conversation.ask_next()
                case 1:
                    conversation.edit(at)
                case _:
                    conversation.show(at, rng.choice([-1, 1]))
            conversation.check()


def test_branch_that_ends_without_a_question_leaves_nothing(script: Script) -> None:
    messages = ask(ask([], "one"), "two")
    tree = script.call("begin", "a", messages)["value"]
    forked = script.call("fork", tree, messages, 1, "b")["value"]
    assert questions(forked["messages"]) == ["one"]
    index = next(n for n, path in enumerate(forked["tree"]["paths"]) if path["answer"] == "a")
    back = script.call("show", forked["tree"], forked["messages"], index)["value"]
    assert back["messages"] == messages
    assert [path["answer"] for path in back["tree"]["paths"]] == ["a"] and back["tree"]["turns"] == {}


def test_branches_are_exported_and_imported_with_new_ids(script: Script) -> None:
    conversation = Conversation(script)
    conversation.ask_next()
    conversation.edit(1)
    conversation.edit(0)
    record = {
        "title": "Branches",
        "updated": 0,
        "settings": {},
        "messages": conversation.messages,
        "tree": conversation.tree,
    }
    written = script.call("toFile", [record], "2026-01-02")["value"]
    (exported,) = json.loads(written)["conversations"]
    assert "answer-" not in json.dumps(exported["branches"]["paths"])
    (read,) = script.call("readFile", written)["value"]
    assert [message_text(turn) for turn in read["messages"]] == [message_text(turn) for turn in conversation.messages]
    assert {path["answer"] for path in read["tree"]["paths"]}.isdisjoint(
        path["answer"] for path in conversation.tree["paths"]
    )
    conversation.tree = read["tree"]
    conversation.check()
    conversation.show(0, -1)
    conversation.check()
    assert questions(conversation.messages)[0] == "question 0"


def test_damaged_branches_are_rejected(script: Script) -> None:
    messages, turn = [{"role": "user", "content": "x"}], [{"role": "user", "content": "x"}]
    for branches in (
        {"turns": [turn], "paths": [[0, 0]], "shown": 0},
        {"turns": [turn], "paths": [[1]], "shown": 0},
        {"turns": [turn], "paths": [[0]], "shown": 1},
        {"turns": [turn], "paths": [[]], "shown": 0},
        {"turns": [turn + turn], "paths": [[0]], "shown": 0},
        {"turns": [[{"role": "assistant", "content": "x"}]], "paths": [[0]], "shown": 0},
        None,
    ):
        found = script.call("readFile", make_file({"messages": messages, "branches": branches}))
        assert found["error"] == "Not imported: conversation 1 of this file is damaged."
