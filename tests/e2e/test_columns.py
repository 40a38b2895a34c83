"""Tests of the compare tab in a real browser: a stalled answer does not delay the others."""

from playwright.sync_api import Locator, expect

from tests.e2e.chat_page import ChatPage

TOKEN_LIMIT_LABEL = "Cut at the token limit"
"""The last words of the simulated provider's long answers."""


def ask_in_columns(chat: ChatPage, tab: Locator, count: int) -> list[Locator]:
    """Start a round with `count` columns; return their stage lines once all answers are under way."""
    tab.get_by_label(str(count), exact=True).check()
    expect(tab.locator("#sg-column-3")).to_be_visible(visible=count == 4)
    tab.get_by_role("button", name="Ask all").click()
    stages = [tab.locator(f"#sg-column-{number} .sg-stage") for number in range(count)]
    for stage in stages:
        expect(stage).to_contain_text("Answering", timeout=chat.patience_s * 1000)
    return stages


def test_stalled_column_does_not_delay_others_and_can_be_stopped(chat: ChatPage) -> None:
    tab = chat.open_tab("Compare")
    tab.get_by_label("4", exact=True).check()
    for number in range(4):
        provider = tab.get_by_label(f"{number + 1}. Who answers")
        provider.fill("vLLM")
        provider.press("Enter")
        expect(provider).to_have_value("vLLM")
        tab.get_by_role("textbox", name="Model").nth(number).fill("fault-stall" if number == 3 else "steady")
    for stage in ask_in_columns(chat, tab, 3):
        expect(stage).to_contain_text(TOKEN_LIMIT_LABEL, timeout=chat.patience_s * 1000)
    # The fourth column was unused in the previous round, so its components must still be complete.
    *others, stalled = ask_in_columns(chat, tab, 4)
    logs = [tab.locator(f"#sg-column-{number}").get_by_role("log") for number in range(4)]
    expect(logs[3]).to_have_attribute("aria-busy", "true")
    for stage in others:
        expect(stage).to_contain_text(TOKEN_LIMIT_LABEL, timeout=chat.patience_s * 1000)
    expect(stalled).to_contain_text("Answering")
    tab.locator("#sg-column-3").get_by_role("button", name="Stop", exact=True).click()
    expect(stalled).to_contain_text("Stopped")
    for log in logs:
        expect(log).to_have_attribute("aria-busy", "false")
    expect(tab.locator("#sg-compare-results tbody tr")).to_have_count(4)


def test_new_round_started_during_answers_runs_to_completion(chat: ChatPage) -> None:
    tab = chat.open_tab("Compare")
    provider = tab.get_by_label("1. Who answers")
    provider.fill("Simulated: bursty")
    provider.press("Enter")
    ask_in_columns(chat, tab, 2)
    stages = ask_in_columns(chat, tab, 2)
    expect(tab.locator("#sg-compare-results tbody tr")).to_have_count(2, timeout=chat.patience_s * 1000)
    for stage in stages:
        expect(stage).to_contain_text("Simulated · Complete")
    expect(tab.locator("#sg-compare-stop-all")).to_be_hidden()
