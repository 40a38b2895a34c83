"""Tests of all tabs, also while answers come, with axe-core against WCAG 2 levels A and AA, and its best practices.

Each state is checked in light and dark mode, and in the window of a desktop and of a phone.
"""

from pathlib import Path

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.e2e.chat_page import ChatPage, choose_sample_run
from tests.e2e.compare_page import ComparePage
from ui import strings
from ui.pipeline.scenario_labels import SCENARIO_LABELS

DESKTOP: ViewportSize = {"width": 1280, "height": 860}
PHONE: ViewportSize = {"width": 390, "height": 844}
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN_AXE_SCRIPT = """async (levels) => {
  const found = await axe.run(document, { runOnly: { type: "tag", values: levels }, resultTypes: ["violations"] });
  const text = (node) => [...node.any, ...node.all, ...node.none].map((check) => check.message).join("; ");
  return found.violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id} at ${node.target}: ${text(node)}`));
}"""


@pytest.fixture(scope="session")
def axe_source(packages: Path) -> str:
    """Return the source of axe-core."""
    return (packages / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def find_violations(page: Page, *, dark_on_phone: bool = False) -> list[str]:
    """Run axe-core in dark and light mode once no element is faded as pending; return the violations.

    One of the modes is checked in the window of a phone, the other one in that of a desktop.
    """
    expect(page.locator(".pending")).to_have_count(0)
    result: list[str] = []
    for dark in (True, False):
        page.set_viewport_size(PHONE if dark == dark_on_phone else DESKTOP)
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", dark)
        page.wait_for_function("!document.getAnimations().some((one) => one.playState === 'running')")
        result += page.evaluate(RUN_AXE_SCRIPT, LEVELS)
    page.set_viewport_size(DESKTOP)
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
    assert find_violations(page, dark_on_phone=True) == []
    page.get_by_role("button", name=strings.HISTORY, exact=True).click()
    assert find_violations(page) == []
    page.get_by_role("button", name=strings.CLOSE, exact=True).click()

    compare = ComparePage.open(chat)
    compare.choose(0, "Simulated: bursty")
    compare.choose(1, "vLLM", "fault-stall")  # it ends when no more has come for long
    compare.send("Is 1 < 2?")
    expect(compare.stage(1)).to_contain_text("Streaming", timeout=patience_ms)
    assert find_violations(page, dark_on_phone=True) == []
    page.keyboard.press("Escape")
    expect(compare.tab.locator(".js-plotly-plot")).to_have_count(3, timeout=patience_ms)
    assert find_violations(page) == []

    tab = chat.open_tab("Pipeline")
    tab.get_by_label("Broken", exact=True).check()
    tab.locator("#sg-scenario input").click()
    page.get_by_role("option", name=SCENARIO_LABELS["fault-stall"], exact=True).click()
    tab.get_by_role("button", name="Run", exact=True).click()
    expect(tab.locator("svg.sg-landscape")).to_have_attribute("data-state", "streaming", timeout=patience_ms)
    assert find_violations(page, dark_on_phone=True) == []
    page.keyboard.press("Escape")
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
    chat.wait_for_end()
    chat.choose_endless_answer()
    chat.ask("And stopped?")
    chat.stop.click()
    expect(chat.box).to_be_focused()
    chat.clear()
    expect(chat.box).to_be_focused()
    chat.choose("Simulated: steady")
    chat.ask("And left alone?")
    chat.stage.click()
    chat.wait_for_end()
    expect(page.locator("body")).to_be_focused()

    tab = chat.open_tab("Pipeline")
    chat.choose_scenario("Broken", SCENARIO_LABELS["fault-no-response"])  # which runs into a timeout several times
    run = tab.get_by_role("button", name="Run", exact=True)
    run.click()
    tab.locator("#sg-run-stop").click()
    expect(tab.locator("#sg-run-prompt input")).to_be_focused()
