"""Stopping and leaving, by the log of the service that is asked: what ends on the page ends there.

How soon it does is measured by `benchmarks.page_stop`; here it must, before its answer would have ended by itself.
"""

import re
import time
from collections.abc import Callable
from functools import partial

from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.chat_page import ANSWERS, ChatPage
from tests.e2e.conftest import Service, Upstream
from tests.e2e.scripted import Scripted


def until(page: Page, true: Callable[[], bool], patience_s: float = 10.0) -> None:
    """Look again and again for what another process says; the page goes on meanwhile."""
    give_up_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < give_up_s
        page.wait_for_timeout(20)


def ask(chat: ChatPage, upstream: Upstream, model: str) -> None:
    """Ask, and wait until the service has heard of it."""
    chat.model(model)
    chat.ask("Hello?")
    until(chat.page, lambda: bool(upstream.events(model)))


def stop(chat: ChatPage, left_s: Callable[[], list[float]]) -> None:
    """Press Stop, and wait until the service says that it was left, and the page that it has stopped."""
    expect(chat.stop).to_be_visible()
    before = len(left_s())
    chat.stop.click()
    until(chat.page, lambda: len(left_s()) > before)
    assert chat.wait_for_end().startswith("Stopped")


def test_stop_reaches_the_service_in_every_state(chat: ChatPage, upstream: Upstream, scripted: Scripted) -> None:
    chat.choose("vLLM")
    ask(chat, upstream, "fault-no-response")
    stop(chat, partial(upstream.left_s, "fault-no-response"))  # before the first token

    ask(chat, upstream, "fault-503")
    expect(chat.stage).to_contain_text(re.compile(r"\d\.\d s left · .*Retry 2 of 3"))
    asked = len(upstream.events("fault-503"))
    chat.page.keyboard.press("Escape")
    assert chat.wait_for_end().startswith("Stopped")

    chat.choose("Together")
    chat.model("thinker")
    chat.ask("Hello?")
    expect(chat.page.get_by_text("Well", exact=True)).to_be_visible()
    stop(chat, lambda: scripted.left_s)  # while it thinks

    chat.model("whole-only")
    chat.ask("Hello?")
    expect(chat.stage.locator(".sg-fallback")).to_be_visible()
    until(chat.page, lambda: [body.get("stream", False) for body in scripted.bodies[-2:]] == [True, False])
    stop(chat, lambda: scripted.left_s)  # while the whole answer is asked for instead
    assert len(upstream.events("fault-503")) == asked, "nothing was tried again after the stop"


def test_twenty_of_twenty_stops_in_the_middle_of_an_answer_reach_the_service(
    chat: ChatPage, upstream: Upstream
) -> None:
    chat.choose("vLLM")
    before = len(upstream.left_s("my-model"))
    for count in range(1, 21):
        chat.ask("Go on.")
        expect(chat.page.locator(ANSWERS)).to_have_count(count)
        stop(chat, partial(upstream.left_s, "my-model"))
    assert len(upstream.left_s("my-model")) - before == 20
    expect(chat.page.locator("#sg-continue")).to_be_visible()


def test_an_escape_right_after_the_question_stops_it_too(chat: ChatPage) -> None:
    chat.choose("vLLM")
    chat.model("fault-no-response")
    for number in range(3):
        chat.ask("Hello?")
        chat.page.keyboard.press("Escape")
        expect(chat.titles).to_have_count(number + 1)
        assert chat.wait_for_end().startswith("Stopped")


def test_a_page_that_is_left_ends_its_answer(
    chat: ChatPage, context: BrowserContext, service: Service, upstream: Upstream
) -> None:
    other = ChatPage(context.new_page()).open(service.address)
    other.choose("vLLM")
    ask(other, upstream, "bursty")
    other.wait_for_text()
    assert not upstream.left_s("bursty")
    other.page.close()
    until(chat.page, lambda: bool(upstream.left_s("bursty")))


def test_clearing_while_an_answer_comes_ends_it_and_leaves_an_empty_page(chat: ChatPage, upstream: Upstream) -> None:
    chat.choose("vLLM")
    ask(chat, upstream, "stalling")
    chat.wait_for_text()
    chat.clear()
    until(chat.page, lambda: bool(upstream.left_s("stalling")))
    expect(chat.stage).to_contain_text("Ready for a question")
    expect(chat.stop).to_be_hidden()
    expect(chat.page.get_by_test_id("user")).to_have_count(0)
    chat.model("")
    chat.choose("Simulated: steady")
    chat.ask("Hello again?")
    chat.wait_for_text()
    assert chat.wait_for_end().startswith("Simulated · Complete")
    assert chat.page.get_by_test_id("user").all_inner_texts() == ["Hello again?"]
