"""Tests of the chat's settings by the requests that the provider receives, and of a very long conversation."""

from typing import Any

import pytest
from playwright.sync_api import expect

from guard.validation import InputLimits
from tests.e2e.canned_upstream import MODELS, CannedUpstream
from tests.e2e.chat_page import ChatPage
from tests.e2e.scripted_upstream import LONG_TEXT, SHORT_TEXT, ScriptedUpstream

LEFT_OUT_TEXT = "oldest messages were left out"
LIST_MODELS_SCRIPT = """(listed, names) => {
  listed.value = names;
  listed.dispatchEvent(new Event("input", { bubbles: true }));
}"""
"""Gives the page another list of models, as an update of the service does."""


def test_chat_settings_and_history_are_sent_to_provider(chat: ChatPage, scripted_upstream: ScriptedUpstream) -> None:
    chat.choose("Together")
    chat.set_model("mine")
    chat.fill_setting("System prompt", "Be brief.")
    chat.fill_setting("Temperature", "0.5")
    chat.fill_setting("Max tokens", "77")
    for count, question in enumerate(("One?", "Two?"), 1):
        chat.ask(question)
        expect(chat.titles).to_have_count(count)
        chat.wait_for_end()
    body = scripted_upstream.bodies[-1]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": SHORT_TEXT},
        {"role": "user", "content": "Two?"},
    ]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("mine", 0.5, 77)


def test_long_conversation_drops_oldest_messages_instead_of_being_rejected(
    chat: ChatPage, scripted_upstream: ScriptedUpstream
) -> None:
    def count_sent_messages() -> int:
        messages: list[dict[str, Any]] = scripted_upstream.bodies[-1]["messages"]
        return sum(len(message["content"]) for message in messages)

    chat.choose("Together")
    chat.set_model("long")
    for count in range(1, 6):
        chat.ask("And then?")
        expect(chat.titles).to_have_count(count, timeout=chat.patience_s * 1000)
        assert chat.wait_for_end().startswith("Done")
        if count == 4:
            assert count_sent_messages() > 3 * len(LONG_TEXT), "all of it, while it fits"
            expect(chat.stage).not_to_contain_text(LEFT_OUT_TEXT)
    assert count_sent_messages() <= InputLimits().conversation_chars < 4 * len(LONG_TEXT)
    expect(chat.stage).to_contain_text(LEFT_OUT_TEXT)


@pytest.mark.parametrize("chat", [(1024, 768), (820, 1180)], ids=["tablet", "tablet upright"], indirect=True)
def test_open_settings_on_tablet_leave_all_metrics_on_screen(chat: ChatPage) -> None:
    chat.open_settings()
    expect(chat.box).to_be_in_viewport(ratio=1)
    expect(chat.meter.locator("dl")).to_be_in_viewport(ratio=1)
    assert chat.page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_settings_after_resize_behind_another_tab_cover_nothing(chat: ChatPage) -> None:
    chat.open_settings()
    chat.open_tab("Results")
    chat.page.set_viewport_size({"width": 1200, "height": 1000})
    chat.page.set_viewport_size({"width": 1280, "height": 860})
    chat.open_tab("Chat")
    chat.page.wait_for_function(
        """() => {
          const right = document.querySelector("#sg-chat").getBoundingClientRect().right;
          return right <= document.querySelector("#sg-settings").getBoundingClientRect().left;
        }"""
    )
    chat.box.fill("Hello?")
    chat.page.locator("#sg-message button.submit-button").click()
    chat.wait_for_text()


def test_model_box_lists_models_of_reached_service_and_takes_chosen_or_written_name(
    chat: ChatPage, canned_upstream: CannedUpstream
) -> None:
    box, badge = chat.page.locator("#sg-model input"), chat.page.locator("#sg-badge")
    chat.choose("LM Studio")
    expect(badge).to_contain_text("Available")
    box.click()
    expect(chat.page.get_by_role("option")).to_contain_text(list(MODELS))
    chat.page.get_by_role("option", name=MODELS[1], exact=True).click()
    for count, (written, sent) in enumerate(((None, MODELS[1]), ("my-own", "my-own")), 1):
        if written is not None:
            box.fill(written)
        chat.ask("Who are you?")
        expect(chat.titles).to_have_count(count)
        chat.wait_for_end()
        assert canned_upstream.requests[-1].model == sent
    chat.choose("Together")
    expect(box).to_have_value("")
    chat.choose("LM Studio")
    expect(badge).to_contain_text("Available")
    box.click()
    chat.page.get_by_role("option", name=MODELS[0], exact=True).click()
    expect(box).to_have_value(MODELS[0])
    chat.choose("Simulated: steady")
    expect(box).to_have_value("")


def test_open_list_of_models_shows_new_ones_at_once_unless_a_name_is_being_written(
    chat: ChatPage, canned_upstream: CannedUpstream
) -> None:
    box, options = chat.page.locator("#sg-model input"), chat.page.locator("#sg-model [role=option]")
    listed = chat.page.locator("#sg-models textarea")
    chat.choose("LM Studio")
    expect(listed).to_have_value("\n".join(MODELS))
    box.click()
    for names in (["one", "two"], ["three", "four", "five"], ["six"]):
        listed.evaluate(LIST_MODELS_SCRIPT, "\n".join(names))
        expect(options).to_contain_text(names)
        expect(box).to_be_focused()
    box.press_sequentially("si")
    listed.evaluate(LIST_MODELS_SCRIPT, "seven")
    box.press_sequentially("x of my own")
    expect(box).to_have_value("six of my own")


def test_unreachable_service_is_not_called_ready_and_its_model_box_stays_free(chat: ChatPage) -> None:
    badge = chat.page.locator("#sg-badge")
    chat.choose("Ollama")
    expect(badge).to_contain_text("Cannot be reached: ")
    chat.set_model("my-own")
    expect(chat.page.locator("#sg-model input")).to_have_value("my-own")
