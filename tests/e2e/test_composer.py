"""Tests of what the page changes in Gradio's ChatInterface: the message box during an answer, Stop, Clear and Retry."""

import re

import pytest
from playwright.sync_api import APIResponse, Route, expect

from tests.e2e.chat_page import ChatPage, wait_until
from tests.e2e.compare_page import IN_WINDOW

AT_ONCE = re.compile("/gradio_api/run/predict")
"""The address of the page's events that do not wait in Gradio's queue."""
UNDO_RECORDER = """() => {
  const undo = document.querySelector("#sg-undo-clear");
  window.hiddenUndos = 0;
  new MutationObserver(() => { if (undo.classList.contains("hidden")) window.hiddenUndos += 1; })
    .observe(undo, { attributes: true });
}"""
"""Counts how often the button that undoes a clear is hidden."""
REASON_IS_WHOLE = """() => {
  const reason = document.querySelector("#sg-stage .sg-extra");
  return reason?.textContent.includes("Retry 1 of 3")
    && reason.getBoundingClientRect().bottom <= reason.closest("ol").getBoundingClientRect().bottom + 1;
}"""
"""Returns whether the page shows all of why a request is sent again."""


def test_message_typed_during_answer_is_kept_and_clear_can_be_undone(chat: ChatPage) -> None:
    users = chat.page.get_by_test_id("user")
    chat.choose_endless_answer()
    chat.ask("One")
    chat.wait_for_text()
    expect(chat.page.locator("#sg-chat .message-buttons-left").last).to_be_hidden()
    place = chat.stop.bounding_box()
    chat.box.fill("Two")
    chat.box.press("Enter")
    expect(chat.page.locator("#sg-hint")).to_contain_text("An answer is still coming")
    chat.stop.click()
    assert chat.wait_for_end() == "Stopped"
    expect(chat.page.locator("#sg-chat .message-buttons-left").last).to_be_visible()
    expect(chat.box).to_have_value("Two")
    send = chat.page.locator("#sg-message button.submit-button").bounding_box()
    assert place and send and abs(place["x"] - send["x"]) < 1 and abs(place["width"] - send["width"]) < 1

    chat.choose("Simulated: steady")
    chat.ask("<b>Two</b>")
    expect(users).to_have_text(["One", "<b>Two</b>"])
    assert chat.wait_for_end() == "Done"
    expect(chat.box).to_have_value("")
    first = chat.answers[-1]
    chat.retry()
    assert chat.wait_for_end() == "Done"
    expect(chat.page.locator("#sg-chat h2.sg-who")).to_have_count(2)
    expect(users).to_have_text(["One", "<b>Two</b>"])
    assert first.startswith("[simulated]")

    chat.clear()
    undo = chat.page.locator("#sg-undo-clear")
    undo.click()
    expect(users).to_have_text(["One", "<b>Two</b>"])
    expect(undo).to_be_hidden()


def test_retry_that_is_cleared_before_it_is_asked_leaves_the_page_empty_and_can_be_undone(chat: ChatPage) -> None:
    users, undo = chat.page.get_by_test_id("user"), chat.page.locator("#sg-undo-clear")
    chat.choose("Simulated: steady")
    chat.ask("One")
    assert chat.wait_for_end() == "Done"
    held: list[tuple[Route, APIResponse]] = []
    chat.page.route(AT_ONCE, lambda route: held.append((route, route.fetch())), times=1)
    chat.page.locator("#sg-chat").get_by_label("Retry").click()
    wait_until(chat.page, lambda: bool(held))
    chat.clear()
    expect(undo).to_be_visible()
    chat.page.evaluate(UNDO_RECORDER)
    (route, response), *_ = held
    with chat.page.expect_request(AT_ONCE) as emptying:
        route.fulfill(response=response)
    emptied = emptying.value.response()
    assert emptied and emptied.ok
    expect(users).to_have_count(0)
    expect(undo).to_be_visible()
    assert chat.page.evaluate("window.hiddenUndos") == 0
    undo.click()
    expect(users).to_have_text(["One"])
    expect(chat.page.locator("#sg-chat h2.sg-who")).to_have_count(1)


@pytest.mark.parametrize("chat", [pytest.param((390, 844), id="phone")], indirect=True)
def test_choices_outcome_and_reason_of_a_retry_are_whole_on_a_phone(chat: ChatPage) -> None:
    for name in ("provider", "model", "strategy"):
        assert chat.page.locator(f"#sg-{name} input").evaluate(IN_WINDOW), name
    rows = [chat.page.locator(f"#sg-{name}").bounding_box() for name in ("provider", "model", "strategy", "badge")]
    assert len({box and round(box["y"] + box["height"] / 2) for box in rows}) == 2, "the badge takes no row of its own"
    assert chat.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    chat.choose("vLLM")
    chat.set_model("fault-truncated")
    chat.ask("Hello?")
    assert chat.wait_for_end() == "Interrupted"
    expect(chat.page.locator("#sg-retry")).to_be_visible()
    expect(chat.titles.last).to_have_attribute("aria-expanded", "true")
    outcome, strip = (chat.stage.locator(name).bounding_box() for name in (".sg-now", "ol"))
    assert outcome and strip and outcome["y"] + outcome["height"] <= strip["y"] + strip["height"] + 1
    chat.set_model("fault-503-once")
    chat.ask("And now?")
    chat.page.wait_for_function(REASON_IS_WHOLE)
    assert chat.box.evaluate("(box) => box.scrollHeight <= box.clientHeight + 1"), "the hint in it takes one line"
    assert chat.wait_for_end() == "Done"
