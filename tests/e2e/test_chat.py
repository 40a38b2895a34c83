"""Tests of the chat in a real browser, with the local model and the simulated profiles."""

import re
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from tests.e2e.chat_page import ANSWERS, ChatPage
from tests.e2e.service import ServiceUnderTest

STORY = "Tell a long story about a lighthouse keeper."
QUIET_S = 1.0


def leading_number(text: str) -> int:
    """Return the number at the start of a metric's text."""
    match = re.match(r"[\d,]+", text)
    assert match, text
    return int(match[0].replace(",", ""))


def test_local_model_answer_streams_text_and_shows_receipt(chat: ChatPage) -> None:
    chat.fill_setting("Temperature", "0")
    chat.fill_setting("Max tokens", "160")
    chat.start_recording()
    chat.ask(STORY)
    chat.wait_for_text()
    outcome = chat.wait_for_end()
    seen = chat.recorded_answers()
    assert len(seen) > 3
    assert all(after.startswith(before.rstrip("*~`")) for before, after in pairwise(seen)), "open emphasis is closed"
    assert chat.answers == [seen[-1]]
    assert outcome == "Stopped at max tokens", "160 tokens do not make a long story"
    assert chat.titles.last.inner_text().startswith("Stopped at max tokens · SmolLM2-135M-Instruct · TTFT ")
    expect(chat.page.locator("#sg-chat h2.sg-who")).to_have_text("SmolLM2-135M-Instruct · Local model batch:100ms")
    assert leading_number(chat.metric_text("Output tokens")) in range(1, 161)
    assert "reported" in chat.metric_text("Output tokens")
    assert chat.metric_text("TTFT").endswith(" s") and float(chat.metric_text("tokens/s")) > 0


def test_stop_mid_answer_keeps_text_and_ends_generation(chat: ChatPage, service: ServiceUnderTest) -> None:
    chat.ask(STORY)
    chat.wait_for_text()
    chat.stop.click()
    assert chat.wait_for_end() == "Stopped"
    text = chat.answers[0]
    assert text
    before_s = service.cpu_s()
    chat.page.wait_for_timeout(QUIET_S * 1000)
    assert service.cpu_s() - before_s < 0.3 * QUIET_S, "a model that still writes takes most of a core"
    assert chat.answers == [text]


def test_wait_before_first_token_shows_elapsed_time_and_can_be_stopped(chat: ChatPage) -> None:
    log = chat.page.get_by_role("log", name="chatbot conversation")
    chat.choose("vLLM")
    chat.set_model("fault-slow-first-token-60")
    chat.ask("Hello?")
    expect(chat.stage).to_contain_text(re.compile(r"Waiting for first token · \d\.\d s"))
    expect(log).to_have_attribute("aria-busy", "true")
    chat.page.keyboard.press("Escape")
    assert chat.wait_for_end() == "Stopped"
    expect(log).to_have_attribute("aria-busy", "false")
    assert chat.answers == []
    assert chat.metric_text("TTFT") == "–"
    chat.titles.last.click()
    stopped = chat.page.get_by_role("row", name=re.compile("Provider stopped within"))
    assert re.search(r"[\d.]+ s", stopped.inner_text()), "benchmarks.page_stop measures how long that takes"


def test_failing_provider_shows_one_error_and_no_completion(chat: ChatPage) -> None:
    chat.choose("Simulated: error")
    chat.ask("Hello?")
    assert chat.wait_for_end() == "Failed"
    assert chat.titles.count() == 1


def test_truncated_answer_is_labelled_cut_off_and_keeps_text(chat: ChatPage) -> None:
    chat.choose("Simulated: cut")
    chat.ask("Hello?")
    assert chat.wait_for_end().startswith("Interrupted")
    assert len(chat.answers[0]) > 0
    expect(chat.page.get_by_text("What had been shown is kept above.")).to_be_visible()


def test_thinking_model_shows_thoughts_separately_from_answer(chat: ChatPage) -> None:
    chat.choose("Simulated: thinking")
    chat.start_recording()
    chat.ask("Hello?")
    chat.wait_for_text()
    chat.wait_for_end()
    assert chat.recorded_titles()[0].startswith("Thinking")
    assert re.match(r"Thought\s*\([\d.]+s\)", chat.titles.first.inner_text())
    assert len(chat.answers) == 1


def test_second_question_sends_previous_turns_to_model(chat: ChatPage) -> None:
    chat.fill_setting("Max tokens", "12")
    chat.ask("Name a colour.")
    chat.wait_for_end()
    first_in, first_out = (
        leading_number(chat.metric_text("Input tokens")),
        leading_number(chat.metric_text("Output tokens")),
    )
    chat.ask("Another one.")
    expect(chat.titles).to_have_count(2, timeout=chat.patience_s * 1000)
    chat.wait_for_end()
    assert "reported" in chat.metric_text("Input tokens")
    assert leading_number(chat.metric_text("Input tokens")) > first_in + first_out


def test_invalid_message_shows_error_and_stays_in_input(chat: ChatPage) -> None:
    chat.ask("   ")
    expect(chat.page.locator("#sg-message div.validation-error")).to_have_text("Write a message first.")
    text = "x" * 32_001
    chat.ask(text)
    expect(chat.page.locator("#sg-message div.validation-error")).to_contain_text("32,001 characters are 1 too many")
    assert chat.box.input_value() == text
    assert chat.page.locator('[data-testid="user"]').count() == 0


def test_invalid_settings_show_one_line_error(chat: ChatPage) -> None:
    picker = chat.page.locator("#sg-strategy input")
    picker.fill("batch:lots")
    picker.press("Enter")
    expect(chat.page.locator("#sg-wrong")).to_contain_text("needs a number")
    chat.ask("Hello?")
    assert chat.wait_for_end() == "Not sent"
    assert chat.page.get_by_test_id("user").inner_text().strip() == "Hello?"
    picker.fill("direct")
    picker.press("Enter")
    expect(chat.page.locator("#sg-wrong")).to_have_text("")
    chat.choose_own_key("OpenAI")
    expect(chat.page.locator("#sg-badge")).to_contain_text("OpenAI needs an API key")
    chat.ask("Hello again?")
    expect(chat.titles).to_have_count(2)
    expect(chat.stage).to_contain_text("OpenAI has no API key")


def test_hostile_model_output_is_displayed_as_text_and_never_executed(chat: ChatPage) -> None:
    chat.choose("LM Studio")
    chat.ask("Be hostile.")
    chat.wait_for_text()
    assert chat.wait_for_end() == "Done"
    answer = chat.page.locator(ANSWERS)
    for seen in ("<script>window.hacked", "<img src=x onerror", "<iframe srcdoc", "</div></div><style>", "end."):
        expect(answer).to_contain_text(seen)
    made = "script, iframe, style, [onerror], a[href^='javascript:'], a[href^='data:']"
    assert answer.locator(made).count() == 0
    assert chat.page.evaluate("window.hacked") is None
    expect(chat.box).to_be_visible()


def test_content_security_policy_blocks_other_origins(chat: ChatPage) -> None:
    blocked = chat.page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
          document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
        })"""
    )
    assert blocked == "http://127.0.0.1:9/x.png"


@pytest.mark.parametrize("chat", [(390, 844)], ids=["phone"], indirect=True)
def test_phone_viewport_keeps_controls_visible_without_horizontal_scroll(chat: ChatPage) -> None:
    chat.ask(STORY)
    chat.wait_for_text()
    for element in (chat.box, chat.meter, chat.stage):
        expect(element).to_be_in_viewport(ratio=1)
    chat.stop.click()
    chat.wait_for_end()
    scroll: int = chat.page.evaluate("document.documentElement.scrollWidth")
    assert scroll <= 390
