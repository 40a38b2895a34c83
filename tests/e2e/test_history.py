"""Tests of the history: the conversations that the browser keeps, and the drawer that lists them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Locator, expect

from tests.e2e.canned_upstream import HOSTILE_TEXT, CannedUpstream
from tests.e2e.chat_page import ANSWERS, ChatPage
from tests.e2e.service import ServiceUnderTest
from tests.e2e.test_accessibility import axe_source as axe_source
from tests.e2e.test_accessibility import find_violations
from ui.chat import export

WORDS = ["The first half.", " The second half."]
KEY = "gsk-canary-0123456789abcdef"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Open a browser profile of its own for each test: its storage has no conversations."""
    context = browser.new_context()
    yield context
    context.close()


def drawer(chat: ChatPage) -> Locator:
    return chat.page.get_by_role("dialog", name="History")


def open_drawer(chat: ChatPage) -> Locator:
    chat.page.get_by_role("button", name="History", exact=True).click()
    expect(drawer(chat)).to_be_visible()
    return drawer(chat)


def titles(chat: ChatPage) -> Locator:
    return drawer(chat).locator("li span")


def open_conversation(chat: ChatPage, title: str) -> None:
    open_drawer(chat).get_by_role("button", name=title).first.click()
    expect(drawer(chat)).to_be_hidden()
    expect(chat.page.get_by_test_id("user").first).to_have_text(title)


def begin_new(chat: ChatPage) -> None:
    chat.page.get_by_role("button", name="New conversation").click()
    expect(chat.page.get_by_test_id("user")).to_have_count(0)


def ask_simulated(chat: ChatPage, question: str) -> None:
    chat.ask(question)
    chat.wait_for_text()
    chat.wait_for_end()


def import_file(chat: ChatPage, text: str) -> Locator:
    """Choose a file in the open drawer; return the line that says what came of it."""
    file: FilePayload = {"name": "file.json", "mimeType": "application/json", "buffer": text.encode()}
    drawer(chat).locator("input[type=file]").set_input_files(file)
    return drawer(chat).get_by_role("status")


def test_answer_goes_on_while_another_conversation_is_shown(chat: ChatPage, canned_upstream: CannedUpstream) -> None:
    question, provider = "What goes on?", chat.page.locator("#sg-provider input")
    canned_upstream.words[question] = [{"content": text} for text in WORDS]
    chat.choose("LM Studio")
    chat.set_model("canned-small")
    with canned_upstream.hold_answers():
        chat.ask(question)
        chat.wait_for_text()
        begin_new(chat)
        expect(chat.stop).to_have_count(0)
        expect(provider).to_have_value("LM Studio")
        chat.choose("Simulated: steady")
        ask_simulated(chat, "Hello.")
        open_conversation(chat, question)
        expect(chat.stop).to_be_visible()
        expect(chat.page.locator(ANSWERS)).to_have_text(WORDS[:1])
        expect(chat.page.locator("#sg-model input")).to_have_value("canned-small")
        open_conversation(chat, "Hello.")
        expect(provider).to_have_value("Simulated: steady")
        expect(chat.stop).to_have_count(0)
    open_conversation(chat, question)
    expect(chat.page.locator(ANSWERS)).to_have_text(["".join(WORDS)])
    assert chat.wait_for_end() == "Done"
    assert sum(request.messages[-1]["content"] == question for request in canned_upstream.requests) == 1


def test_drawer_by_keyboard_renames_deletes_and_brings_back(chat: ChatPage, axe_source: str) -> None:
    page = chat.page
    chat.choose("Simulated: steady")
    ask_simulated(chat, "One")
    begin_new(chat)
    ask_simulated(chat, "Two")
    page.get_by_role("button", name="History", exact=True).press("Enter")
    expect(titles(chat)).to_have_text(["Two", "One"])
    expect(drawer(chat).locator('[aria-current="true"]')).to_contain_text("Two")
    page.emulate_media(reduced_motion="reduce")
    page.evaluate(axe_source)
    assert find_violations(page) == []
    sizes = [button.bounding_box() for button in drawer(chat).get_by_role("button").all()]
    assert len(sizes) == 11 and all(box and box["height"] >= 40 and box["width"] >= 40 for box in sizes)

    drawer(chat).get_by_role("button", name="Rename “One”").press("Enter")
    page.keyboard.type("A better name")
    page.keyboard.press("Enter")
    expect(titles(chat)).to_have_text(["Two", "A better name"])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(drawer(chat).get_by_role("status")).to_have_text("“A better name” is deleted.")
    expect(titles(chat)).to_have_text(["Two"])
    drawer(chat).get_by_role("button", name="Undo").press("Enter")
    expect(titles(chat)).to_have_text(["Two", "A better name"])
    page.keyboard.press("Escape")
    expect(drawer(chat)).to_be_hidden()
    expect(page.get_by_role("button", name="History", exact=True)).to_be_focused()

    open_drawer(chat).get_by_role("button", name="Delete all").press("Enter")
    expect(titles(chat)).to_have_count(0)
    expect(page.get_by_test_id("user")).to_have_count(0)
    expect(drawer(chat).get_by_role("button", name="Undo")).to_be_focused()
    page.keyboard.press("Enter")
    expect(titles(chat)).to_have_text(["Two", "A better name"])
    page.keyboard.press("Escape")
    page.reload()
    open_drawer(chat).get_by_role("button", name="A better name").first.click()
    expect(page.get_by_test_id("user")).to_have_text(["One"])


def test_export_is_imported_again_and_a_hostile_file_is_harmless(chat: ChatPage, tmp_path: Path) -> None:
    page = chat.page
    chat.choose("Simulated: thinking")
    ask_simulated(chat, "Is a<b> a tag?")
    answers, saved = chat.answers, tmp_path / "all.json"
    open_drawer(chat)
    with page.expect_download() as download_info:
        drawer(chat).get_by_role("button", name="Export all").click()
    download_info.value.save_as(saved)
    written = json.loads(saved.read_text())
    assert (written["schema"], written["version"]) == (export.SCHEMA, export.VERSION)
    expect(import_file(chat, saved.read_text())).to_have_text("0 imported, 1 already here.")
    expect(import_file(chat, "{}")).to_contain_text("this is no file of conversations from this page")
    expect(titles(chat)).to_have_text(["Is a<b> a tag?"])

    drawer(chat).get_by_role("button", name="Delete all").click()
    expect(titles(chat)).to_have_count(0)
    hostile = {"role": "assistant", "content": HOSTILE_TEXT}
    heading = {"role": "assistant", "answered_by": "</h2><img src=x onerror='window.hacked = 4'> · <style>"}
    receipt = {"role": "assistant", "summary": "<b onclick=x>", "details": HOSTILE_TEXT}
    question = {"role": "user", "content": f"Hostile {HOSTILE_TEXT}"}
    settings = {"provider": "nobody", "strategy": "<b>", "temperature": "hot", "key": KEY}
    written["conversations"].append(
        {
            "title": "<img src=x onerror='window.hacked = 5'>",
            "settings": settings,
            "messages": [question, heading, hostile, receipt],
        }
    )
    expect(import_file(chat, json.dumps(written))).to_have_text("2 imported.")
    expect(titles(chat)).to_have_text(["<img src=x onerror='window.hacked = 5'>", "Is a<b> a tag?"])
    titles(chat).last.click()
    expect(page.get_by_test_id("user")).to_have_text("Is a<b> a tag?")
    assert chat.answers == answers
    expect(page.locator("#sg-provider input")).to_have_value("Simulated: thinking")
    open_drawer(chat)
    titles(chat).first.click()
    expect(page.get_by_test_id("user")).to_contain_text("<iframe srcdoc=")
    expect(page.locator("#sg-chat .message iframe, #sg-chat .message style, #sg-chat .message img")).to_have_count(0)
    expect(page.locator("#sg-chat h2.sg-who")).to_contain_text("<img src=x")
    assert page.evaluate("window.hacked") is None
    chat.choose("Simulated: steady")
    chat.fill_setting("Temperature", "")
    assert KEY not in page.evaluate("JSON.stringify({ ...localStorage })")


def test_two_tabs_keep_each_others_conversations_and_no_key(
    chat: ChatPage, context: BrowserContext, service: ServiceUnderTest
) -> None:
    chat.save_key("Groq", KEY)
    chat.choose("Simulated: steady")
    other = ChatPage(context.new_page()).open(service.address)
    other.choose("Simulated: steady")
    open_drawer(chat)
    ask_simulated(other, "In the other tab")
    expect(titles(chat)).to_have_text(["In the other tab"])
    chat.page.keyboard.press("Escape")
    ask_simulated(chat, "In this tab")
    other.page.reload()
    open_drawer(other)
    expect(titles(other)).to_have_text(["In this tab", "In the other tab"])
    with other.page.expect_download() as download_info:
        drawer(other).get_by_role("button", name="Export all").click()
    stored = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])"
    places = [download_info.value.path().read_text(), chat.page.evaluate(stored), other.page.evaluate(stored)]
    assert [KEY in text for text in places] == [False] * 3
    other.page.close()


def test_full_history_says_what_is_not_kept_and_the_page_works(chat: ChatPage) -> None:
    chat.page.evaluate("""() => {
      for (let size = 2 ** 23; size >= 1; size /= 2) {
        try { while (true) localStorage.setItem(size + "-" + localStorage.length, "x".repeat(size)); } catch {}
      }
    }""")
    chat.choose("Simulated: steady")
    ask_simulated(chat, "Is there room?")
    expect(chat.page.locator("#sg-not-kept p:visible")).to_contain_text("no room for this conversation in its history")
    open_drawer(chat)
    file = {"schema": export.SCHEMA, "version": 1, "conversations": [{"messages": [{"role": "user", "content": "Hi"}]}]}
    expect(import_file(chat, json.dumps(file))).to_contain_text("no room for these conversations")
    expect(titles(chat)).to_have_count(0)
