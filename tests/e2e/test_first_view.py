"""Tests of the first view and of the page's address: cards that start something, tabs, settings, and Back."""

import json
import re
from pathlib import Path

from playwright.sync_api import expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.service import ServiceUnderTest
from ui import entry_strings, strings


def test_cards_start_something_and_an_answer_can_be_rated(chat: ChatPage, feedback_folder: Path) -> None:
    page = chat.page
    expect(page.locator(".sg-first h2")).to_have_text(
        re.compile("^SmolLM2-135M-Instruct on this machine’s CPU, no key$")
    )
    page.get_by_role("button", name=entry_strings.CARD_BREAK).press("Enter")
    machine = page.locator("svg.sg-landscape")
    expect(machine).to_have_attribute("data-state", "succeeded", timeout=chat.patience_s * 1000)
    expect(page.locator("#sg-run-stage")).to_contain_text("Done · after 1 retry")
    visited = machine.locator("g.sg-visited text").all_text_contents()
    assert strings.STATES["retrying"] in visited
    expect(page).to_have_url(re.compile(r"/\?tab=pipeline&scenario=sim:fault-503-once$"))

    page.go_back()
    expect(page.get_by_role("tab", name="Chat", exact=True)).to_have_attribute("aria-selected", "true")
    page.get_by_role("button", name=entry_strings.CARD_BATCH).click()
    expect(page.locator("#sg-run-stage")).to_contain_text("Streaming", timeout=chat.patience_s * 1000)
    expect(page.locator("#sg-run-prompt input")).to_have_value(strings.EXAMPLES[0])
    page.go_back()
    page.get_by_role("button", name=entry_strings.CARD_COMPARE).click()
    expect(page.locator("#sg-column-1 .sg-stage")).to_contain_text("Done", timeout=chat.patience_s * 1000)
    expect(page.locator("#sg-column-0 h2")).to_contain_text("local")

    page.go_back()
    chat.choose("Simulated: steady")
    page.get_by_role("button", name=entry_strings.CARD_CHAT).press("Enter")
    expect(page.locator('#sg-chat [data-testid="user"]')).to_have_text(strings.EXAMPLES[0])
    expect(page.locator(".sg-first")).to_have_count(0)
    chat.wait_for_end()

    page.get_by_role("button", name="Like", exact=True).click()
    words, file = page.locator("#sg-feedback"), feedback_folder / "feedback.jsonl"
    expect(words).to_contain_text(strings.FEEDBACK_KEPT)
    assert "[simulated]" not in file.read_text()
    words.get_by_label(strings.FEEDBACK_TEXT).check()
    expect(words).to_contain_text(strings.FEEDBACK_WITH_TEXT)
    last = json.loads(file.read_text().splitlines()[-1])
    assert (last["rating"], last["served_by"], last["question"]) == ("up", "sim:steady", strings.EXAMPLES[0])
    assert last["answer"].startswith("[simulated]")


def test_address_opens_a_comparison_and_follows_its_settings(chat: ChatPage, service: ServiceUnderTest) -> None:
    page = chat.page
    page.goto(f"{service.address}/?tab=compare&models=sim:steady,local,sim:bursty&strategy=direct&blind=2&__theme=dark")
    expect(page.locator("#sg-address-note")).to_contain_text("blind “2”")
    expect(page.locator("#sg-compare-provider-2 input")).to_have_value("Simulated: bursty")
    strategy = page.locator("#sg-compare-strategy-1 input")
    expect(strategy).to_have_value("direct")
    page.evaluate("window.stays = true")
    strategy.fill("whole")
    strategy.press("Enter")
    settings = "models=sim:steady,local,sim:bursty&strategy=direct,whole,direct"
    expect(page).to_have_url(re.compile(f"__theme=dark&tab=compare&{settings}$"))

    page.get_by_role("tab", name="Results", exact=True).click()
    expect(page).to_have_url(re.compile(r"/\?__theme=dark&tab=results$"))
    page.go_back()
    expect(page).to_have_url(re.compile(f"tab=compare&{settings}$"))
    expect(strategy).to_be_visible()
    assert page.evaluate("window.stays"), "nothing has loaded the page anew"


def test_address_of_the_chat_names_its_settings(chat: ChatPage, service: ServiceUnderTest) -> None:
    chat.open(f"{service.address}/?provider=sim:bursty&strategy=zzz&max_tokens=7")
    expect(chat.page.locator("#sg-provider input")).to_have_value("Simulated: bursty")
    expect(chat.page.locator("#sg-address-note")).to_contain_text("strategy “zzz”")
    chat.choose("Simulated: steady")
    expect(chat.page).to_have_url(re.compile(r"/\?provider=sim:steady&max_tokens=7$"))
    chat.ask("Hello?")
    assert chat.wait_for_end().startswith("Stopped at max tokens")
