"""The chat page in a real browser, with the real local model and the simulated profiles."""

import re
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from tests.e2e.chat_page import ANSWERS, ChatPage
from tests.e2e.conftest import Service

STORY = "Tell a long story about a lighthouse keeper."
QUIET_S = 1.0


def number(text: str) -> int:
    """The number at the beginning of a figure."""
    found = re.match(r"[\d,]+", text)
    assert found, text
    return int(found[0].replace(",", ""))


def test_an_answer_of_the_local_model_grows_and_ends_with_a_receipt(chat: ChatPage) -> None:
    chat.set("Temperature", "0")
    chat.set("Longest answer, in tokens", "48")
    chat.watch()
    chat.ask(STORY)
    chat.wait_for_text()
    headline = chat.wait_for_end()
    seen = chat.seen()
    assert len(seen) > 3
    assert all(after.startswith(before) and len(after) > len(before) for before, after in pairwise(seen))
    assert chat.answers == [seen[-1]]
    assert "Cut at the token limit" in headline, "48 tokens do not make a long story"
    assert f"{len(seen[-1]):,} characters" in headline
    assert number(chat.figure("Tokens out")) in range(1, 49)
    assert "reported" in chat.figure("Tokens out")
    assert chat.figure("First token").endswith(" s") and chat.figure("Speed").endswith("tokens/s")


def test_stop_keeps_the_text_and_ends_the_work(chat: ChatPage, service: Service) -> None:
    chat.ask(STORY)
    chat.wait_for_text()
    chat.stop.click()
    headline = chat.wait_for_end()
    assert headline.startswith("Stopped")
    text = chat.answers[0]
    assert text and f"{len(text):,} characters" in headline
    before_s = service.cpu_s()
    chat.page.wait_for_timeout(QUIET_S * 1000)
    assert service.cpu_s() - before_s < 0.3 * QUIET_S, "a model that still writes takes most of a core"
    assert chat.answers == [text]


def test_waiting_has_a_clock_and_can_be_stopped_before_the_first_token(chat: ChatPage) -> None:
    log = chat.page.get_by_role("log", name="chatbot conversation")
    chat.choose("Simulated: slow-start")
    chat.ask("Hello?")
    # The profile answers after 2 s: the stop must come before, on a slow machine too.
    expect(chat.stage).to_contain_text(re.compile(r"\d\.\d s · (Thinking|Analyzing)…"))
    expect(log).to_have_attribute("aria-busy", "true")
    chat.page.keyboard.press("Escape")
    assert chat.wait_for_end().startswith("Simulated · Stopped · 0 characters · 0 tokens")
    expect(log).to_have_attribute("aria-busy", "false")
    assert chat.answers == []
    assert chat.figure("First token") == "–"
    chat.titles.last.click()
    stopped = chat.page.get_by_role("row", name=re.compile("Provider stopped within"))
    found = re.search(r"([\d.]+) s", stopped.inner_text())
    assert found and float(found[1]) < 1.0


def test_a_failing_provider_gives_one_honest_error(chat: ChatPage) -> None:
    chat.choose("Simulated: error")
    chat.ask("Hello?")
    headline = chat.wait_for_end()
    assert headline.startswith("Simulated · Failed")
    assert chat.titles.count() == 1
    assert "Complete" not in chat.stage.inner_text()


def test_a_cut_answer_is_shown_as_cut(chat: ChatPage) -> None:
    chat.choose("Simulated: cut")
    chat.ask("Hello?")
    headline = chat.wait_for_end()
    assert headline.startswith("Simulated · Cut off")
    assert len(chat.answers[0]) > 0
    expect(chat.page.get_by_text("What had been shown is kept above.")).to_be_visible()


def test_thinking_is_shown_apart_from_the_answer(chat: ChatPage) -> None:
    chat.choose("Simulated: thinking")
    chat.watch()
    chat.ask("Hello?")
    chat.wait_for_text()
    chat.wait_for_end()
    assert chat.seen_titles()[0].startswith("Thinking")
    assert re.match(r"Thought\s*\([\d.]+s\)", chat.titles.first.inner_text())
    assert len(chat.answers) == 1


def test_the_conversation_so_far_reaches_the_model(chat: ChatPage) -> None:
    chat.set("Longest answer, in tokens", "12")
    chat.ask("Name a colour.")
    chat.wait_for_end()
    first_in, first_out = number(chat.figure("Tokens in")), number(chat.figure("Tokens out"))
    chat.ask("Another one.")
    expect(chat.titles).to_have_count(2, timeout=chat.patience_s * 1000)
    chat.wait_for_end()
    assert "reported" in chat.figure("Tokens in")
    assert number(chat.figure("Tokens in")) > first_in + first_out


def test_a_message_that_cannot_be_sent_stays_in_its_box(chat: ChatPage) -> None:
    chat.ask("   ")
    expect(chat.page.get_by_text("Write a message first.")).to_be_visible()
    text = "x" * 32_001
    chat.ask(text)
    expect(chat.page.get_by_text("32,001 characters are too many")).to_be_visible()
    assert chat.box.input_value() == text
    assert chat.page.locator('[data-testid="user"]').count() == 0


def test_what_cannot_be_asked_is_refused_with_a_line(chat: ChatPage) -> None:
    picker = chat.page.locator("#sg-strategy input")
    picker.fill("batch:lots")
    picker.press("Enter")
    expect(chat.page.locator("#sg-wrong")).to_contain_text("needs a number")
    chat.ask("Hello?")
    assert chat.wait_for_end().startswith("Not answered")
    assert chat.page.get_by_test_id("user").inner_text().strip() == "Hello?"
    picker.fill("direct")
    picker.press("Enter")
    expect(chat.page.locator("#sg-wrong")).to_have_text("")
    chat.choose("OpenAI · needs OPENAI_API_KEY")
    expect(chat.page.locator("#sg-badge")).to_contain_text("Needs OPENAI_API_KEY")
    chat.ask("Hello again?")
    expect(chat.titles).to_have_count(2)
    expect(chat.stage).to_contain_text("OPENAI_API_KEY")


def test_an_example_can_be_clicked(chat: ChatPage) -> None:
    chat.choose("Simulated: steady")
    chat.page.locator("#sg-chat button.example").first.click()
    chat.wait_for_text()
    assert chat.wait_for_end().startswith("Simulated · Complete")
    expect(chat.page.get_by_test_id("user")).to_contain_text("sleep")


def test_what_a_model_writes_is_read_and_never_acted_on(chat: ChatPage) -> None:
    chat.choose("LM Studio")
    chat.ask("Be hostile.")
    chat.wait_for_text()
    assert chat.wait_for_end().startswith("Complete")
    answer = chat.page.locator(ANSWERS)
    for seen in ("<script>window.hacked", "<img src=x onerror", "<iframe srcdoc", "</div></div><style>", "end."):
        expect(answer).to_contain_text(seen)
    made = "script, iframe, style, [onerror], a[href^='javascript:'], a[href^='data:']"
    assert answer.locator(made).count() == 0
    assert chat.page.evaluate("window.hacked") is None
    expect(chat.box).to_be_visible()


def test_the_browser_itself_refuses_other_origins(chat: ChatPage) -> None:
    blocked = chat.page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
          document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
        })"""
    )
    assert blocked == "http://127.0.0.1:9/x.png"


@pytest.mark.parametrize("chat", [(390, 844)], ids=["phone"], indirect=True)
def test_a_phone_has_everything_at_hand(chat: ChatPage) -> None:
    chat.ask(STORY)
    chat.wait_for_text()
    for element in (chat.box, chat.meter, chat.stage):
        expect(element).to_be_in_viewport(ratio=1)
    chat.stop.click()
    chat.wait_for_end()
    scroll: int = chat.page.evaluate("document.documentElement.scrollWidth")
    assert scroll <= 390
