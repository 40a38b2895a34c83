"""A long answer in a real browser: the conversation follows it to its end, and leaves alone who has gone back."""

import pytest
from playwright.sync_api import Locator, expect

from benchmarks import page as page_weight
from tests.e2e.chat_page import ChatPage

CHUNKS = "700"
BELOW = "(log) => log.scrollHeight - log.clientHeight - log.scrollTop"
"""Pixels of the conversation below what is in view."""
GROWN = "([log, px]) => log.scrollHeight > px"


def grown(chat: ChatPage, log: Locator, px: int) -> None:
    """Wait until the conversation is so high."""
    chat.page.wait_for_function(GROWN, arg=[log.element_handle(), px], timeout=chat.patience_s * 1000)


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_a_conversation_follows_its_answer_unless_the_reader_has_gone_back(chat: ChatPage, width: int) -> None:
    log = chat.page.get_by_role("log", name="chatbot conversation")
    chat.set("Longest answer, in tokens", CHUNKS)
    chat.choose(page_weight.PROVIDER)
    chat.page.get_by_label("Settings").first.click()
    chat.page.set_viewport_size({"width": width, "height": 844})
    chat.ask("Go on.")
    chat.wait_for_text()
    height = log.evaluate("(log) => log.clientHeight")
    grown(chat, log, height + 200)
    chat.page.wait_for_function(f"(log) => ({BELOW})(log) <= 1", arg=log.element_handle())

    log.evaluate("(log) => log.scrollBy(0, -150)")
    kept = log.evaluate("(log) => log.scrollTop")
    grown(chat, log, log.evaluate("(log) => log.scrollHeight") + 100)
    assert log.evaluate("(log) => log.scrollTop") == kept

    chat.page.get_by_label("Scroll down").click()
    grown(chat, log, log.evaluate("(log) => log.scrollHeight") + 100)
    chat.wait_for_end()
    chat.page.wait_for_function(f"(log) => ({BELOW})(log) <= 1", arg=log.element_handle())

    outcome = chat.page.get_by_role("row", name="Outcome")
    chat.titles.last.click()
    expect(outcome).to_have_count(0)
    chat.titles.last.click()
    chat.page.wait_for_function(f"(log) => ({BELOW})(log) > 100", arg=log.element_handle())
