"""What the settings of the chat do, by what the service is sent; and a very long conversation."""

from typing import Any

import pytest
from playwright.sync_api import expect

from guard.validation import Limits
from tests.e2e.chat_page import ChatPage
from tests.e2e.scripted import LONG, SHORT, Scripted

LEFT_OUT = "oldest messages were left out"


def test_every_setting_and_the_conversation_reach_the_service(chat: ChatPage, scripted: Scripted) -> None:
    chat.choose("Together")
    chat.model("mine")
    chat.set("System prompt", "Be brief.")
    chat.set("Temperature", "0.5")
    chat.set("Longest answer, in tokens", "77")
    for count, question in enumerate(("One?", "Two?"), 1):
        chat.ask(question)
        expect(chat.titles).to_have_count(count)
        chat.wait_for_end()
    body = scripted.bodies[-1]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": SHORT},
        {"role": "user", "content": "Two?"},
    ]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("mine", 0.5, 77)


def test_a_very_long_conversation_is_never_refused_for_its_length(chat: ChatPage, scripted: Scripted) -> None:
    def sent() -> int:
        messages: list[dict[str, Any]] = scripted.bodies[-1]["messages"]
        return sum(len(message["content"]) for message in messages)

    chat.choose("Together")
    chat.model("long")
    for count in range(1, 6):
        chat.ask("And then?")
        expect(chat.titles).to_have_count(count, timeout=chat.patience_s * 1000)
        assert chat.wait_for_end().startswith("Complete")
        if count == 4:
            assert sent() > 3 * len(LONG), "all of it, while it fits"
            expect(chat.stage).not_to_contain_text(LEFT_OUT)
    assert sent() <= Limits().conversation_chars < 4 * len(LONG)
    expect(chat.stage).to_contain_text(LEFT_OUT)


@pytest.mark.parametrize("chat", [(1024, 768), (820, 1180)], ids=["tablet", "tablet upright"], indirect=True)
def test_beside_open_settings_all_figures_are_on_the_screen(chat: ChatPage) -> None:
    settings = chat.page.locator("#sg-settings")
    if "open" not in (settings.get_attribute("class") or "").split():
        settings.locator(".toggle-button").click()
    expect(chat.box).to_be_in_viewport(ratio=1)
    expect(chat.meter.locator("dl")).to_be_in_viewport(ratio=1)
    assert chat.page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_the_settings_cover_nothing_after_the_window_changed_behind_another_tab(chat: ChatPage) -> None:
    settings = chat.page.locator("#sg-settings")
    if "open" not in (settings.get_attribute("class") or "").split():
        settings.locator(".toggle-button").click()
    chat.tab("Results")
    chat.page.set_viewport_size({"width": 1200, "height": 1000})
    chat.page.set_viewport_size({"width": 1280, "height": 860})
    chat.tab("Chat")
    chat.page.wait_for_function(
        """() => {
          const right = document.querySelector("#sg-chat").getBoundingClientRect().right;
          return right <= document.querySelector("#sg-settings").getBoundingClientRect().left;
        }"""
    )
    chat.box.fill("Hello?")
    chat.page.locator("#sg-message button.submit-button").click()
    chat.wait_for_text()
