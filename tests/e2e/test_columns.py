"""Tests of the compare tab in a real browser: columns that fill the window, stop by themselves and hide their names."""

import re

import pytest
from playwright.sync_api import expect

from benchmarks import page as page_weight
from benchmarks.compare_columns import count_updates_until_stopped
from tests.e2e.canned_upstream import MODELS, CannedUpstream
from tests.e2e.chat_page import ChatPage
from tests.e2e.compare_page import IN_WINDOW, ComparePage

TOKEN_LIMIT_LABEL = "Stopped at max tokens"
"""The last words of the simulated provider's long answers."""
WINDOWS = [pytest.param((1440, 900), id="desktop"), pytest.param((390, 844), id="phone")]


@pytest.mark.parametrize("chat", WINDOWS, indirect=True)
def test_stop_and_every_ttft_are_inside_the_window_after_send(chat: ChatPage, canned_upstream: CannedUpstream) -> None:
    compare, phone = ComparePage.open(chat), chat.page.viewport_size == {"width": 390, "height": 844}
    canned_upstream.words["Count."] = [{"content": "one "}, {"content": "two"}]
    for number in range(2):
        compare.choose(number, "LM Studio")
    with canned_upstream.hold_answers():
        compare.send("Count.")
        for number in range(2):
            expect(compare.metric(number, "TTFT")).to_contain_text(" s")
            expect(compare.stage(number)).to_contain_text("Streaming")
            for element in (compare.metric(number, "TTFT"), compare.metric(number, "tokens/s"), compare.stop(number)):
                assert element.evaluate(IN_WINDOW)
        assert compare.tab.locator("#sg-compare-stop-all").evaluate(IN_WINDOW)
        assert compare.tab.locator("#sg-compare-prompt").evaluate(IN_WINDOW)
        texts = [compare.column(number).get_by_text("one", exact=True) for number in range(2)]
        expect(texts[0]).to_be_in_viewport()
        expect(texts[1]).to_be_in_viewport(ratio=0) if not phone else expect(texts[1]).not_to_be_in_viewport()
        icon = compare.column(0).get_by_label("Copy message").last.locator("svg").bounding_box()
        text = texts[0].bounding_box()
        assert icon and text and abs(icon["x"] - text["x"]) < 1
        if phone:
            compare.column(1).locator(".sg-goto").click()
            expect(texts[1]).to_be_in_viewport()
            expect(texts[0]).not_to_be_in_viewport()
            assert compare.metric(0, "TTFT").evaluate(IN_WINDOW), "the figures stay while the answers are swiped"
        assert chat.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ballot = compare.wait_for_vote()
    for name in ("A", "B", "Tie", "Both bad"):
        assert ballot.get_by_role("button", name=name, exact=True).evaluate(IN_WINDOW)


def test_stalled_column_does_not_delay_others_and_can_be_stopped(chat: ChatPage) -> None:
    compare = ComparePage.open(chat)
    compare.tab.get_by_label("Max tokens").fill("80")
    compare.set_count(4)
    for number in range(4):
        compare.choose(number, "vLLM", "fault-stall" if number == 3 else "steady")
    compare.set_count(3)
    compare.send("Go on.")
    for number in range(3):
        expect(compare.stage(number)).to_contain_text(TOKEN_LIMIT_LABEL, timeout=chat.patience_s * 1000)
    compare.wait_for_vote()
    # The fourth column was unused in the previous round, so its components must still be complete.
    compare.tab.locator("#sg-who > button").click()
    compare.set_count(4)
    compare.send("Go on.")
    logs = [compare.column(number).get_by_role("log") for number in range(4)]
    expect(logs[3]).to_have_attribute("aria-busy", "true")
    for number in range(3):
        expect(compare.stage(number)).to_contain_text(TOKEN_LIMIT_LABEL, timeout=chat.patience_s * 1000)
    expect(compare.stage(3)).to_contain_text("Streaming")
    compare.stop(3).click()
    expect(compare.stage(3)).to_contain_text("Stopped")
    for log in logs:
        expect(log).to_have_attribute("aria-busy", "false")
    expect(compare.tab.locator("#sg-compare-results .sg-table").first.locator("tbody tr")).to_have_count(4)


def test_model_box_lists_the_service_and_a_follow_up_after_a_double_click_has_what_was_said(
    chat: ChatPage, canned_upstream: CannedUpstream
) -> None:
    compare = ComparePage.open(chat)
    canned_upstream.words |= {"First.": [{"content": "one "}, {"content": "two"}], "Second.": [{"content": "three"}]}
    for number in range(2):
        compare.choose(number, "LM Studio")
        compare.tab.locator(f"#sg-compare-model-{number} input").focus()
        expect(chat.page.get_by_role("option")).to_have_text([re.compile(name) for name in MODELS])
        compare.choose(number, "LM Studio", MODELS[number])
    before = len(canned_upstream.requests)
    compare.tab.locator("#sg-compare-prompt textarea").fill("First.")
    compare.tab.locator("#sg-compare-ask").dblclick()
    compare.wait_for_vote()
    compare.send("Second.")
    for number in range(2):
        expect(compare.column(number).get_by_test_id("user")).to_have_text(["First.", "Second."])
        expect(compare.column(number).get_by_text("three", exact=True)).to_be_visible()
    compare.wait_for_vote()
    requests = canned_upstream.requests[before:]
    assert sorted(request.model for request in requests) == sorted([*MODELS, *MODELS])
    said = [[message["content"] for message in request.messages] for request in requests]
    assert said == [["First."]] * 2 + [["First.", "one two", "Second."]] * 2
    compare.tab.locator("#sg-who > button").click()
    compare.choose(0, "Simulated: steady")
    expect(compare.tab.locator("#sg-compare-model-0 input")).to_have_value("")


def test_blind_column_that_fails_names_nobody_before_the_vote_and_everybody_after(chat: ChatPage) -> None:
    compare = ComparePage.open(chat)
    compare.choose(0, "vLLM", "fault-truncated")
    compare.choose(1, "Simulated: steady", strategy="direct")
    compare.tab.get_by_label("Blind vote").check()
    compare.send("Go on.")
    ballot = compare.wait_for_vote()
    answers, results = compare.tab.locator("#sg-answers"), compare.tab.locator("#sg-compare-results")
    hidden = r"vllm|fault-|sim:|direct|batch|served by|finish reason|127\.0\.0\.1"
    assert re.search(hidden, answers.inner_html(), re.IGNORECASE) is None
    assert re.search(hidden, chat.page.locator("#sg-status").inner_html(), re.IGNORECASE) is None
    expect(results).to_be_hidden()
    ballot.get_by_role("button", name="Tie", exact=True).click()
    expect(results).to_be_visible()
    for name in ("vllm:fault-truncated", "sim:steady"):
        expect(compare.tab.locator(".sg-goto").filter(has_text=name)).to_have_count(1)
        expect(results.get_by_role("rowheader").filter(has_text=name)).not_to_have_count(0)
    failed = answers.locator(".sg-column", has_text="vllm")
    expect(failed.get_by_text("ended without a finish reason")).to_be_visible()
    expect(failed.get_by_text("Served by")).to_be_hidden()
    expect(results.get_by_text("(not whole)")).to_have_count(1)
    expect(results.locator(".sg-better")).to_have_count(0)


def test_browser_reports_what_it_has_drawn_while_only_text_and_figures_change(chat: ChatPage) -> None:
    compare = ComparePage.open(chat)
    compare.tab.get_by_label("Max tokens").fill("4000")
    for number in range(2):
        compare.choose(number, page_weight.PROVIDER, strategy="direct")
    compare.send("Go on.")
    for number in range(2):
        expect(compare.stage(number)).to_contain_text("Streaming")
    numbers = []
    for _ in range(3):
        with chat.page.expect_response(re.compile(r"/drawn/\d+\?")) as report:
            pass
        assert report.value.status == 204
        numbers.append(int(report.value.url.rpartition("/")[2].partition("?")[0]))
    for number in range(2):
        expect(compare.stage(number)).to_contain_text("Streaming")
    assert numbers == sorted(set(numbers)), "each report is of a newer update"
    compare.tab.locator("#sg-compare-stop-all").dispatch_event("click")
    for number in range(2):
        expect(compare.stage(number)).to_contain_text("Stopped")


def test_stop_of_one_of_four_direct_columns_does_not_queue_behind_the_others(chat: ChatPage) -> None:
    compare = ComparePage.open(chat)
    compare.tab.get_by_label("Max tokens").fill("12000")
    compare.set_count(4)
    for number in range(4):
        compare.choose(number, page_weight.PROVIDER, strategy="direct")
    compare.send("Go on.")
    for number in range(4):
        expect(compare.stage(number)).to_contain_text("Streaming")
    count_updates_until_stopped(chat.page, 0)
    for number in range(1, 4):
        expect(compare.stage(number)).to_contain_text("Streaming")
    compare.tab.locator("#sg-compare-stop-all").dispatch_event("click")
    for number in range(4):
        expect(compare.stage(number)).to_contain_text("Stopped")
    expect(compare.tab.locator("#sg-compare-ask")).to_be_visible()
