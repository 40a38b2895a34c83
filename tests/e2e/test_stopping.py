"""Stopping and leaving, by the log of the service that is asked: what ends on the page ends there."""

import re
import time
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.conftest import Service, Upstream

WITHIN_S = 1.0


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


def stop(chat: ChatPage, upstream: Upstream, model: str) -> float:
    """Press Stop; give how long the service was left with its work."""
    expect(chat.stop).to_be_visible()
    pressed_s = time.monotonic()
    chat.stop.click()
    until(chat.page, lambda: bool(upstream.left_s(model)))
    assert chat.wait_for_end().startswith("Stopped")
    return upstream.left_s(model)[0] - pressed_s


def test_stop_reaches_the_service_in_every_state(chat: ChatPage, upstream: Upstream) -> None:
    chat.choose("vLLM")
    ask(chat, upstream, "fault-no-response")
    assert stop(chat, upstream, "fault-no-response") <= WITHIN_S, "before the first token"

    ask(chat, upstream, "steady")
    expect(chat.titles).to_have_count(1)
    until(chat.page, lambda: len(chat.answers) == 1)
    assert stop(chat, upstream, "steady") <= WITHIN_S, "in the middle of the answer"
    expect(chat.page.locator("#sg-continue")).to_be_visible()

    ask(chat, upstream, "fault-503")
    expect(chat.stage).to_contain_text(re.compile(r"\d\.\d s left · .*Retry 2 of 3"))
    asked = len(upstream.events("fault-503"))
    chat.page.keyboard.press("Escape")
    assert chat.wait_for_end().startswith("Stopped")

    chat.page.get_by_label("Ask for a stream").uncheck()
    ask(chat, upstream, "slow-start")
    assert stop(chat, upstream, "slow-start") <= WITHIN_S, "while the whole answer is asked for"
    assert len(upstream.events("fault-503")) == asked, "nothing was tried again after the stop"


def test_a_page_that_is_left_ends_its_answer(
    chat: ChatPage, context: BrowserContext, service: Service, upstream: Upstream
) -> None:
    other = ChatPage(context.new_page()).open(service.address)
    other.choose("vLLM")
    ask(other, upstream, "bursty")
    other.wait_for_text()
    closed_s = time.monotonic()
    other.page.close()
    until(chat.page, lambda: bool(upstream.left_s("bursty")))
    assert upstream.left_s("bursty")[0] - closed_s <= WITHIN_S


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
