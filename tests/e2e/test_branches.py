"""Tests of editing a question: each version of a conversation is kept, and one goes from one to another."""

import pytest
from playwright.sync_api import Locator, expect

from tests.e2e.canned_upstream import CannedUpstream
from tests.e2e.chat_page import ANSWERS, ChatPage
from tests.e2e.test_history import context as context

QUESTIONS = ("Which is < first?", "And then?", "Which is last?")
EDITED = "Which is & second?"


@pytest.fixture
def canned(chat: ChatPage, canned_upstream: CannedUpstream) -> CannedUpstream:
    """Choose a provider that answers each question with its own words."""
    for question in (*QUESTIONS, EDITED):
        canned_upstream.words[question] = [{"content": f"Answer to {question}"}, {"content": " The end."}]
    chat.choose("LM Studio")
    return canned_upstream


def asked(chat: ChatPage) -> Locator:
    return chat.page.get_by_test_id("user")


def edit(chat: ChatPage, at: int) -> None:
    chat.page.get_by_role("button", name="Edit message").nth(at).click()


def versions(chat: ChatPage) -> Locator:
    return chat.page.locator(".sg-versions > span")


def ask(chat: ChatPage, question: str) -> None:
    chat.ask(question)
    expect(asked(chat).last).to_have_text(question)
    assert chat.wait_for_end() == "Done"


def test_edited_question_begins_a_version_and_the_earlier_one_stays(chat: ChatPage, canned: CannedUpstream) -> None:
    page = chat.page
    ask(chat, QUESTIONS[0])
    ask(chat, QUESTIONS[1])
    chat.box.fill("A draft")
    edit(chat, 0)
    expect(chat.box).to_have_value(QUESTIONS[0])
    ask(chat, EDITED)
    expect(asked(chat)).to_have_text([EDITED])
    expect(versions(chat)).to_have_text(["2/2"])
    expect(chat.box).to_have_value("A draft")
    assert [message["content"] for message in canned.requests[-1].messages] == [EDITED]

    page.get_by_role("button", name="Earlier version").click()
    expect(asked(chat)).to_have_text([*QUESTIONS[:2]])
    expect(versions(chat)).to_have_text(["1/2", ""])
    edit(chat, 1)
    ask(chat, QUESTIONS[2])
    expect(versions(chat)).to_have_text(["1/2", "2/2"])
    assert [message["content"] for message in canned.requests[-1].messages if message["role"] == "user"] == [
        QUESTIONS[0],
        QUESTIONS[2],
    ]
    page.reload()
    expect(asked(chat)).to_have_text([QUESTIONS[0], QUESTIONS[2]])
    expect(versions(chat)).to_have_text(["1/2", "2/2"])
    page.get_by_role("button", name="Earlier version").last.click()
    expect(asked(chat)).to_have_text([*QUESTIONS[:2]])
    page.get_by_role("button", name="Later version").first.click()
    expect(asked(chat)).to_have_text([EDITED])
    page.get_by_role("button", name="Earlier version").click()
    expect(asked(chat)).to_have_text([*QUESTIONS[:2]], timeout=chat.patience_s * 1000)  # the one that was shown last
    expect(page.locator(ANSWERS)).to_have_text([f"Answer to {one} The end." for one in QUESTIONS[:2]])


def test_answer_to_an_edited_question_is_stopped_and_others_go_on(chat: ChatPage, canned: CannedUpstream) -> None:
    ask(chat, QUESTIONS[0])
    edit(chat, 0)
    before = len(canned.requests)
    with canned.hold_answers():
        chat.ask(EDITED)
        expect(asked(chat)).to_have_text([EDITED])
        chat.wait_for_text()
        chat.page.get_by_role("button", name="Earlier version").click()
        expect(asked(chat)).to_have_text([QUESTIONS[0]])
        expect(chat.stop).to_have_count(0)
        chat.page.get_by_role("button", name="Later version").click()
        expect(chat.page.locator(ANSWERS)).to_have_text([f"Answer to {EDITED}"])
        chat.stop.click()
        assert chat.wait_for_end() == "Stopped"
    expect(versions(chat)).to_have_text(["2/2"])
    assert [request.messages[-1]["content"] for request in canned.requests[before:]] == [EDITED]


def test_edit_that_is_cancelled_or_refused_loses_nothing(chat: ChatPage, canned: CannedUpstream) -> None:
    page = chat.page
    ask(chat, QUESTIONS[0])
    chat.box.fill("A draft")
    edit(chat, 0)
    page.get_by_role("button", name="Cancel").click()
    expect(chat.box).to_have_value("A draft")
    edit(chat, 0)
    too_long = "x" * 50_000
    chat.box.fill(too_long)
    chat.box.press("Enter")
    expect(page.locator("#sg-message")).to_contain_text("18,000 too many")
    expect(chat.box).to_have_value(too_long)
    page.get_by_role("button", name="Cancel").click()
    expect(asked(chat)).to_have_text([QUESTIONS[0]])
    expect(chat.box).to_have_value("A draft")
    expect(versions(chat)).to_have_text([""])
    assert len({request.messages[-1]["content"] for request in canned.requests} & {too_long}) == 0
