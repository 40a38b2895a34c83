"""The keyboard on the page: no field traps it, and Escape closes a list before it stops an answer."""

from playwright.sync_api import expect

from tests.e2e.chat_page import ChatPage

FOCUSED = "() => document.activeElement.closest('[id^=\"sg-\"]')?.id ?? ''"


def test_tab_at_a_persons_pace_leaves_the_list_of_providers(chat: ChatPage) -> None:
    chat.page.focus("#sg-settings .toggle-button")
    walk = []
    for _ in range(12):
        chat.page.keyboard.press("Tab")
        chat.page.wait_for_timeout(400)  # longer than the page takes to move a lost focus
        walk.append(chat.page.evaluate(FOCUSED))
    assert "sg-provider" in walk
    assert "sg-strategy" in walk, walk


def test_escape_that_closes_a_list_stops_no_answer_and_the_next_one_does(chat: ChatPage) -> None:
    chat.choose("Simulated: stalling")
    chat.ask("Hello.")
    chat.wait_for_text()
    chat.page.click("#sg-strategy input")
    chat.page.locator('#sg-strategy [role="listbox"]').wait_for()
    chat.page.keyboard.press("Escape")
    expect(chat.page.locator('#sg-strategy [role="listbox"]')).to_be_hidden()
    expect(chat.stop).to_be_visible()
    assert not chat.stage.inner_text().startswith("Stopped")
    chat.page.keyboard.press("Escape")
    assert chat.wait_for_end().startswith("Stopped") or "Stopped" in chat.stage.inner_text()
