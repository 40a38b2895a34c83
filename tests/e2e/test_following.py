"""Test of autoscroll in a real browser: it follows a long answer unless the reader has scrolled back."""

import pytest
from playwright.sync_api import Locator, expect

from benchmarks import page as page_weight
from tests.e2e.chat_page import ChatPage

HEIGHT = 500
"""The height of the window: the less of the conversation it shows, the sooner an answer is longer than that."""
DISTANCE_TO_END_SCRIPT = "(log) => log.scrollHeight - log.clientHeight - log.scrollTop"
"""Returns the height of the conversation below the visible part, in pixels."""
HEIGHT_REACHED_SCRIPT = "([log, px]) => log.scrollHeight > px"
GROW_AFTER_CLICK_SCRIPT = """(button, log) => {
  button.click();
  const lines = Object.assign(document.createElement("div"), { style: "flex: none; height: 40px" });
  log.querySelector(".message-wrap").append(lines);
}"""


def wait_for_height(chat: ChatPage, log: Locator, px: int) -> None:
    """Wait until the conversation has at least this height."""
    chat.page.wait_for_function(HEIGHT_REACHED_SCRIPT, arg=[log.element_handle(), px], timeout=chat.patience_s * 1000)


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_autoscroll_follows_answer_unless_reader_scrolled_up(chat: ChatPage, width: int) -> None:
    log = chat.page.get_by_role("log", name="chatbot conversation")
    chat.fill_setting("Max tokens", "8000")  # the answer is stopped, so that it ends on no machine before
    chat.choose(page_weight.PROVIDER)
    chat.page.set_viewport_size({"width": width, "height": HEIGHT})
    chat.ask("Go on.")
    chat.wait_for_text()
    height = log.evaluate("(log) => log.clientHeight")
    wait_for_height(chat, log, height + 200)
    chat.page.wait_for_function(f"(log) => ({DISTANCE_TO_END_SCRIPT})(log) <= 1", arg=log.element_handle())

    log.evaluate("(log) => log.scrollBy(0, -150)")
    kept = log.evaluate("(log) => log.scrollTop")
    wait_for_height(chat, log, log.evaluate("(log) => log.scrollHeight") + 100)
    assert log.evaluate("(log) => log.scrollTop") == kept

    # The answer grows between the click and the browser's event that tells of the scroll.
    chat.page.get_by_label("Scroll down").evaluate(GROW_AFTER_CLICK_SCRIPT, log.element_handle())
    chat.page.wait_for_function(f"(log) => ({DISTANCE_TO_END_SCRIPT})(log) <= 1", arg=log.element_handle())
    wait_for_height(chat, log, log.evaluate("(log) => log.scrollHeight") + 100)
    chat.stop.click()
    chat.wait_for_end()
    chat.page.wait_for_function(f"(log) => ({DISTANCE_TO_END_SCRIPT})(log) <= 1", arg=log.element_handle())

    served_by = chat.page.get_by_role("row", name="Served by")
    chat.titles.last.dispatch_event("click")  # wherever the page has scrolled meanwhile
    expect(served_by).to_have_count(1)
    chat.titles.last.dispatch_event("click")
    expect(served_by).to_have_count(0)
    # The page follows the end again in the frame that draws the closed receipt.
    chat.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    chat.titles.last.dispatch_event("click")
    chat.page.wait_for_function(f"(log) => ({DISTANCE_TO_END_SCRIPT})(log) > 100", arg=log.element_handle())
