"""Tests of the compare, pipeline and results tabs, export and keys in a real browser."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from streaming.retry import State
from tests.e2e.chat_page import ChatPage, choose_sample_run
from tests.e2e.compare_page import IN_WINDOW, ComparePage
from tests.e2e.service import ServiceUnderTest
from tests.unit.ui.results.result_fixtures import TABLES, copy_sample
from ui import strings
from ui.pipeline.buffering_diagram import diagram_strategies
from ui.pipeline.scenario_labels import SCENARIO_LABELS

KEY = "sk-visitors-own-0123456789abcdef"
SAME_TEXT_SCRIPT = """() => {
  const [left, right] = ["left", "right"].map((side) => document.querySelector(`#sg-${side} textarea`).value);
  return left === right;
}"""
"""Returns whether both panes of the Pipeline tab show the same text."""


def test_comparison_of_two_answers_shows_table_charts_and_vote(chat: ChatPage) -> None:
    tab = chat.open_tab("Compare")
    tab.get_by_label("1. Provider").click()
    chat.page.get_by_role("option", name="Simulated: steady", exact=True).click()
    tab.get_by_label("Blind").check()
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("#sg-compare-stop-all")).to_be_visible()
    ballot = tab.locator("#sg-ballot")
    expect(ballot).to_be_visible(timeout=chat.patience_s * 1000)
    heads = tab.locator(".sg-head h2")
    expect(heads).to_have_text(["Answer A", "Answer B"])
    assert "sim:" not in tab.locator("#sg-columns").inner_text()
    ballot.get_by_role("button", name="B", exact=True).click()
    expect(heads.first).to_contain_text("sim:")
    assert sorted(text.split(" · ")[1] for text in heads.all_inner_texts()) == ["sim:slow-start", "sim:steady"]
    rows = tab.locator("#sg-compare-results .sg-table").first.locator("tbody tr")
    expect(rows).to_have_count(2)
    faster = rows.filter(has_text="sim:steady").get_by_role("cell").nth(1)
    assert re.fullmatch(r"\d+\.\d+ s better", " ".join(faster.inner_text().split()))
    # Nothing was paid, so that no chart of the cost is drawn.
    expect(tab.locator(".js-plotly-plot")).to_have_count(3, timeout=chat.patience_s * 1000)
    expect(tab.locator("#sg-votes tbody tr")).to_have_count(1)
    assert "cannot tell (Δ" in tab.locator(".sg-verdicts").inner_text()


def test_column_stop_button_stops_only_its_column(chat: ChatPage) -> None:
    compare = ComparePage.open(chat)
    compare.choose(0, "vLLM", "fault-stall")  # it does not end by itself
    compare.choose(1, "Simulated: steady")
    tab = compare.tab
    tab.get_by_role("button", name="Send").click()
    first = tab.locator("#sg-column-0")
    first.get_by_role("button", name="Stop", exact=True).click()
    expect(first.locator(".sg-stage")).to_contain_text("Stopped")
    expect(tab.locator("#sg-column-1 .sg-stage")).to_contain_text("Done", timeout=chat.patience_s * 1000)


def test_pipeline_tab_shows_panes_state_diagram_and_buffering_diagrams(chat: ChatPage) -> None:
    tab = chat.open_tab("Pipeline")
    machine = tab.locator("svg.sg-landscape")
    expect(machine).to_have_attribute("data-state", "idle")
    tab.get_by_role("button", name="Run").click()
    expect(machine).to_have_attribute("data-state", "streaming")
    expect(machine).to_have_attribute("data-state", "succeeded", timeout=chat.patience_s * 1000)
    chat.page.wait_for_function(SAME_TEXT_SCRIPT)  # the browser shows an update component by component
    assert tab.locator("#sg-left textarea").input_value().startswith("[simulated]")
    direct, batch = (int(tab.locator(f"{side} dd").nth(1).inner_text()) for side in ("#sg-left", "#sg-right"))
    assert direct > 2 * batch
    expect(tab.locator("#sg-buffering figure")).to_have_count(len(diagram_strategies(0.1)))


@pytest.mark.parametrize("chat", [pytest.param((390, 844), id="phone")], indirect=True)
def test_state_diagram_on_a_phone_is_as_wide_as_the_window(chat: ChatPage) -> None:
    tab = chat.open_tab("Pipeline")
    expect(tab.locator("svg.sg-landscape")).to_be_hidden()
    diagram = tab.locator("svg.sg-portrait")
    diagram.scroll_into_view_if_needed()
    assert diagram.evaluate(IN_WINDOW)
    sizes = diagram.locator("text").evaluate_all("(texts) => texts.map((text) => text.getBoundingClientRect())")
    assert sizes and all(size["left"] >= 0 and size["right"] <= 390 for size in sizes)
    assert all(min(size["width"], size["height"]) > 11 for size in sizes), "the words are large enough to read"


def test_pipeline_fault_scenario_shows_retrying_state(chat: ChatPage) -> None:
    tab = chat.open_tab("Pipeline")
    chat.page.evaluate(
        """() => {
          window.states = [];
          const keep = () => window.states.push(document.querySelector("svg.sg-landscape").dataset.state);
          new MutationObserver(keep).observe(document.body, { childList: true, subtree: true, attributes: true });
        }"""
    )
    cases: tuple[tuple[str, str, list[State]], ...] = (
        ("Refused", "fault-500-once", ["retrying", "succeeded"]),
        ("Broken", "fault-html-200", ["fallback", "failed"]),
    )
    for kind, scenario, states in cases:
        chat.choose_scenario(kind, SCENARIO_LABELS[scenario])
        tab.get_by_role("button", name="Run").click()
        machine = tab.locator("svg.sg-landscape")
        expect(machine).to_have_attribute("data-state", states[-1], timeout=chat.patience_s * 1000)
        gone_through = machine.locator("g.sg-visited, g.sg-present").locator("text").all_text_contents()
        assert {strings.STATES[state] for state in states} <= set(gone_through)
    # Retrying lasts a second; the fallback ends at once, and a browser renders changes within one frame together.
    assert "retrying" in chat.page.evaluate("window.states")


def test_results_tab_shows_newest_run_and_its_downloads(chat: ChatPage, runs_folder: Path) -> None:
    tab = chat.open_tab("Results")
    choose_sample_run(chat.page)
    expect(tab.locator(".js-plotly-plot").nth(3)).to_be_visible()
    tab.get_by_role("button", name=strings.FULL_REPORT).click()
    expect(tab.get_by_role("heading", name="Provenance")).to_be_visible()
    for label, ending in (("CSV", "-trials.csv"), ("Report", "-report.html")):
        with chat.page.expect_download() as download_info:
            tab.get_by_role("link", name=label).click()
        assert download_info.value.suggested_filename == f"sample-run{ending}"
        assert download_info.value.path().stat().st_size > 1000

    copy_sample(runs_folder, "made-since", drop=TABLES, trials_finished=54)
    chat.open_tab("Chat")
    chat.open_tab("Results")
    expect(tab.locator("#sg-run-headline")).to_contain_text("54 trials were run; their rows are missing")
    expect(tab.locator("#sg-run-picker input")).to_have_value(re.compile("54 trials · made-since$"))
    tab.locator("#sg-run-other input").click()
    chat.page.get_by_role("option", name="Sample run").click()
    expect(tab.get_by_role("heading", name=strings.COMPARISON_TITLE)).to_be_visible()
    shutil.rmtree(runs_folder / "made-since")
    assert str(runs_folder) not in chat.page.content()


def test_conversation_can_be_exported_continued_and_retried(chat: ChatPage) -> None:
    chat.choose("Simulated: cut")
    chat.ask("Is a<b>c</b> a tag?")
    assert chat.wait_for_end().startswith("Interrupted")
    question = chat.page.get_by_test_id("user")
    assert question.inner_text().strip() == "Is a<b>c</b> a tag?"
    with chat.page.expect_download() as download_info:
        chat.open_settings()
        chat.page.get_by_role("button", name="Save as JSON").click()
    messages = json.loads(download_info.value.path().read_text())["conversations"][0]["messages"]
    assert messages[0] == {"role": "user", "content": "Is a<b>c</b> a tag?"}
    assert messages[2]["content"] == chat.answers[0]
    assert messages[3]["receipt"]["outcome"] == "truncated" and messages[3]["receipt"]["simulated"] is True
    chat.page.locator("#sg-continue").click()
    expect(question).to_have_count(2)
    expect(chat.titles).to_have_count(2, timeout=chat.patience_s * 1000)
    chat.wait_for_end()
    chat.choose("Simulated: steady")
    chat.page.locator("#sg-retry").click()
    expect(chat.stage).to_contain_text("Done", timeout=chat.patience_s * 1000)
    expect(question).to_have_count(2)


def test_copied_message_equals_written_text(chat: ChatPage) -> None:
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.choose("Simulated: steady")
    chat.ask("List<String> & `a<b>` &lt;?")
    chat.wait_for_text()
    chat.page.get_by_label("Copy message").first.click()
    copied = chat.page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == "List<String> & `a<b>` &lt;?"


def test_copied_answer_has_neither_thinking_nor_receipt(chat: ChatPage) -> None:
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.choose("Simulated: thinking")
    chat.ask("Think.")
    chat.wait_for_text()
    chat.wait_for_end()
    assert chat.titles.count() == 2, "a thought and a receipt"
    chat.page.get_by_label("Copy message").last.click()
    expect(chat.page.locator("button[data-copied]")).to_have_count(1)
    assert chat.page.evaluate("navigator.clipboard.readText()") == chat.answers[-1]


def test_copied_message_over_plain_http_equals_written_text(chat: ChatPage, service: ServiceUnderTest) -> None:
    chat.page.add_init_script("delete Navigator.prototype.clipboard")
    chat.open(service.address)
    chat.choose("Simulated: steady")
    chat.ask("List<String> & `a<b>` &lt;?")
    chat.wait_for_text()
    chat.wait_for_end()
    chat.page.get_by_label("Copy message").first.click()
    chat.box.press("Control+v")
    expect(chat.box).to_have_value("List<String> & `a<b>` &lt;?")


def test_user_api_key_is_accepted_and_never_displayed(chat: ChatPage) -> None:
    chat.save_key("OpenAI", KEY)
    expect(chat.page.locator("#sg-key-value input")).to_have_value("")
    kept = chat.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert KEY not in kept and KEY not in chat.page.content()
    chat.page.get_by_role("button", name="Remove").click()
    expect(chat.page.locator("#sg-badge")).to_contain_text("OpenAI needs an API key")
