"""Tests of pages that are loaded anew during an answer: by the user, after a lost connection, and after a restart."""

from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from benchmarks._cuttable_line import run_line
from tests.e2e.canned_upstream import CannedUpstream
from tests.e2e.chat_page import ChatPage, wait_until
from tests.e2e.conftest import SimulatedUpstream
from tests.e2e.service import ServiceUnderTest, run_service

WORDS = ["The first half.", " The second half."]


def start_answer(chat: ChatPage, provider: CannedUpstream, question: str) -> None:
    """Send a message, and wait for the first half of its answer; the provider holds the second."""
    provider.words[question] = [{"content": text} for text in WORDS]
    chat.choose("LM Studio")
    chat.ask(question)
    chat.wait_for_text()


def count_requests(provider: CannedUpstream, question: str) -> int:
    return sum(request.messages[-1]["content"] == question for request in provider.requests)


def reload(chat: ChatPage) -> None:
    chat.page.reload()
    expect(chat.page.get_by_label("Settings").first).to_be_attached()


def test_page_reloaded_mid_answer_goes_on_with_it(chat: ChatPage, canned_upstream: CannedUpstream) -> None:
    question = "What survives a reload?"
    with canned_upstream.hold_answers():
        start_answer(chat, canned_upstream, question)
        chat.box.fill("A draft.")
        reload(chat)
        expect(chat.stop).to_be_visible()
        assert chat.answers == WORDS[:1]
    assert chat.wait_for_end() == "Done"
    assert chat.answers == ["".join(WORDS)] and count_requests(canned_upstream, question) == 1
    expect(chat.box).to_have_value("A draft.")
    expect(chat.page.locator("#sg-provider input")).to_have_value("LM Studio")
    chat.page.goto("about:blank")
    chat.page.go_back()
    expect(chat.page.locator("#sg-spent")).to_contain_text("for 1 answer.")
    assert chat.answers == ["".join(WORDS)], "Back shows the answer that has ended"


def test_stop_after_reload_ends_answer_at_provider(chat: ChatPage, upstream: SimulatedUpstream) -> None:
    before = len(upstream.disconnect_times_s("fault-stall"))
    chat.choose_endless_answer()
    chat.ask("Go on.")
    chat.wait_for_text()
    reload(chat)
    expect(chat.stop).to_be_visible()
    chat.stop.click()
    assert chat.wait_for_end().startswith("Stopped")
    wait_until(chat.page, lambda: len(upstream.disconnect_times_s("fault-stall")) == before + 1)


def test_duplicated_tab_is_a_conversation_of_its_own(
    chat: ChatPage, context: BrowserContext, canned_upstream: CannedUpstream
) -> None:
    question = "Which tab is this?"
    with canned_upstream.hold_answers():
        start_answer(chat, canned_upstream, question)
        chat.page.wait_for_function("text => JSON.stringify({ ...sessionStorage }).includes(text)", arg=WORDS[0])
        with context.expect_page() as opening:
            chat.page.evaluate("open(location.href)")
        other = ChatPage(opening.value)
        expect(other.stage).to_contain_text("Interrupted")
        other.clear()
        expect(chat.stop).to_be_visible()
        other.page.close()
    assert chat.wait_for_end() == "Done"
    reload(chat)
    expect(chat.page.get_by_test_id("user")).to_have_count(1)
    assert chat.answers == ["".join(WORDS)] and count_requests(canned_upstream, question) == 1


def test_page_whose_storage_is_full_works_and_says_what_is_not_kept(
    chat: ChatPage, canned_upstream: CannedUpstream
) -> None:
    chat.page.evaluate("""() => {
      for (let size = 2 ** 23; size >= 1; size /= 2) {
        try { while (true) sessionStorage.setItem(size + "-" + sessionStorage.length, "x".repeat(size)); } catch {}
      }
    }""")
    start_answer(chat, canned_upstream, "Is there room?")
    assert chat.wait_for_end() == "Done"
    expect(chat.page.locator("#sg-not-kept p:visible")).to_contain_text("keeps nothing")
    assert chat.answers == ["".join(WORDS)]


def test_page_whose_storage_is_forbidden_works_and_says_what_is_not_kept(
    chat: ChatPage, service: ServiceUnderTest, canned_upstream: CannedUpstream
) -> None:
    chat.page.add_init_script("""(() => {
      const deny = { get() { throw new DOMException("denied", "SecurityError"); } };
      for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, deny);
    })()""")
    chat.open(service.address)
    start_answer(chat, canned_upstream, "Is anything kept?")
    assert chat.wait_for_end() == "Done"
    expect(chat.page.locator("#sg-not-kept p:visible").first).to_contain_text("keeps nothing")
    assert chat.answers == ["".join(WORDS)]
    chat.page.get_by_role("button", name="History", exact=True).click()
    expect(chat.page.get_by_role("dialog", name="History")).to_contain_text("No conversations yet")


@pytest.fixture
def other_page(context: BrowserContext) -> Page:
    """Return a page whose errors are expected: its connection is lost."""
    return context.new_page()


def test_lost_connection_and_restarted_service_keep_conversation(
    other_page: Page, service: ServiceUnderTest, canned_upstream: CannedUpstream, tmp_path: Path
) -> None:
    question, lost = "What survives a tunnel?", "What survives a restart?"
    variables = {"RATE_LIMIT": "off", "LMSTUDIO_BASE_URL": canned_upstream.url, "HTTPS_PROXY": "http://127.0.0.1:9"}
    with run_line(service.address) as line:
        chat = ChatPage(other_page).open(line.address)
        with canned_upstream.hold_answers():
            start_answer(chat, canned_upstream, question)
            line.cut()
            expect(chat.stage).to_contain_text("Reconnecting")
            line.mend()
            expect(chat.stage).to_contain_text("Streaming")
        assert chat.wait_for_end() == "Done"
        assert chat.answers == ["".join(WORDS)] and count_requests(canned_upstream, question) == 1

        with canned_upstream.hold_answers(), run_service(tmp_path / "stderr.log", variables) as restarted:
            start_answer(chat, canned_upstream, lost)
            expect(chat.page.get_by_text(WORDS[0], exact=True)).to_be_visible()
            chat.box.fill("A draft.")
            line.target = restarted.address
            line.cut()
            expect(chat.stage).to_contain_text("Reconnecting")
            line.mend()
            expect(chat.stage).to_contain_text("This answer was cut")
            assert chat.answers == ["".join(WORDS), WORDS[0]] and count_requests(canned_upstream, lost) == 1
            expect(chat.box).to_have_value("A draft.")
            expect(chat.page.locator("#sg-provider input")).to_have_value("LM Studio")
            expect(chat.page.locator("#sg-continue")).to_be_visible()
