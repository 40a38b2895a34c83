"""Tests of all tabs with content, in light and dark mode, with axe-core against WCAG 2 levels A and AA."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.chat_page import ChatPage, choose_sample_run
from ui import strings

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
RUN_AXE_SCRIPT = """async (levels) => {
  const found = await axe.run(document, { runOnly: { type: "tag", values: levels }, resultTypes: ["violations"] });
  const text = (node) => [...node.any, ...node.all, ...node.none].map((check) => check.message).join("; ");
  return found.violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id} at ${node.target}: ${text(node)}`));
}"""


@pytest.fixture(scope="session")
def axe_source(packages: Path) -> str:
    """Return the source of axe-core."""
    return (packages / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def find_violations(page: Page) -> list[str]:
    """Run axe-core in dark and light mode once no element is faded as pending; return the violations."""
    expect(page.locator(".pending")).to_have_count(0)
    result: list[str] = []
    for dark in (True, False):
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", dark)
        page.wait_for_function("!document.getAnimations().some((one) => one.playState === 'running')")
        result += page.evaluate(RUN_AXE_SCRIPT, LEVELS)
    return result


def test_page_tabs_in_light_and_dark_have_no_wcag_a_or_aa_violation(chat: ChatPage, axe_source: str) -> None:
    page, patience_ms = chat.page, chat.patience_s * 1000
    page.emulate_media(reduced_motion="reduce", color_scheme="light")
    page.evaluate(axe_source)
    assert find_violations(page) == []

    chat.choose("Simulated: thinking")
    chat.ask("Is 1 < 2?")
    chat.wait_for_text()
    chat.wait_for_end()
    chat.titles.last.click()
    assert find_violations(page) == []

    tab = chat.open_tab("Compare")
    tab.get_by_label("1. Provider").click()
    page.get_by_role("option", name="Simulated: bursty", exact=True).click()
    tab.get_by_role("button", name="Send", exact=True).click()
    expect(tab.locator(".js-plotly-plot")).to_have_count(3, timeout=patience_ms)
    assert find_violations(page) == []

    tab = chat.open_tab("Pipeline")
    tab.get_by_role("button", name="Run", exact=True).click()
    expect(tab.locator("#sg-buffering figure")).to_have_count(4, timeout=patience_ms)
    assert find_violations(page) == []

    tab = chat.open_tab("Results")
    choose_sample_run(page)
    expect(tab.locator(".js-plotly-plot").nth(3)).to_be_visible(timeout=patience_ms)
    tab.get_by_role("button", name=strings.FULL_REPORT).click()
    expect(tab.get_by_role("heading", name="Provenance")).to_be_visible(timeout=patience_ms)
    assert find_violations(page) == []


def test_focus_after_answer_or_stop_returns_to_input(chat: ChatPage) -> None:
    page = chat.page
    chat.choose("Simulated: steady")
    chat.ask("And then?")
    chat.wait_for_text()
    expect(chat.box).to_be_focused()
    chat.ask("And stopped?")
    chat.stop.click()
    expect(chat.box).to_be_focused()
    chat.clear()
    expect(chat.box).to_be_focused()
    chat.ask("And left alone?")
    chat.stage.click()
    chat.wait_for_end()
    expect(page.locator("body")).to_be_focused()

    tab = chat.open_tab("Pipeline")
    run = tab.get_by_role("button", name="Run", exact=True)
    run.click()
    tab.locator("#sg-run-stop").click()
    expect(run).to_be_focused()
