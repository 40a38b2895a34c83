"""Tests of stopping an answer and closing the page, by the provider's log: the request must end there too.

`benchmarks.page_stop` measures the latency of twenty stops; here it only must precede the regular end of the answer.
"""

import re
from collections.abc import Callable
from functools import partial

from playwright.sync_api import BrowserContext, expect

from tests.e2e.chat_page import ANSWERS, ChatPage, wait_until
from tests.e2e.conftest import SimulatedUpstream
from tests.e2e.scripted_upstream import ScriptedUpstream
from tests.e2e.service import ServiceUnderTest


def ask_and_wait(chat: ChatPage, upstream: SimulatedUpstream, model: str) -> None:
    """Send a message, and wait until the provider has received the request."""
    before = len(upstream.events_for_model(model))
    chat.set_model(model)
    chat.ask("Hello?")
    wait_until(chat.page, lambda: len(upstream.events_for_model(model)) > before)


def stop_and_wait(chat: ChatPage, left_s: Callable[[], list[float]]) -> None:
    """Press Stop; wait for the disconnect at the provider and for the stop on the page."""
    expect(chat.stop).to_be_visible()
    before = len(left_s())
    chat.stop.click()
    wait_until(chat.page, lambda: len(left_s()) > before)
    assert chat.wait_for_end().startswith("Stopped")


def test_stop_in_every_state_disconnects_from_provider(
    chat: ChatPage, upstream: SimulatedUpstream, scripted_upstream: ScriptedUpstream
) -> None:
    chat.choose("vLLM")
    ask_and_wait(chat, upstream, "fault-no-response")
    stop_and_wait(chat, partial(upstream.disconnect_times_s, "fault-no-response"))  # before the first token

    ask_and_wait(chat, upstream, "fault-503")
    expect(chat.stage).to_contain_text(re.compile(r"\d\.\d s left · .*Retry 2 of 3"))
    request_count = len(upstream.events_for_model("fault-503"))
    chat.page.keyboard.press("Escape")
    assert chat.wait_for_end().startswith("Stopped")

    chat.choose("Together")
    chat.set_model("thinker")
    chat.ask("Hello?")
    expect(chat.page.get_by_text("Well", exact=True)).to_be_visible()
    stop_and_wait(chat, lambda: scripted_upstream.left_s)  # while it thinks

    chat.set_model("whole-only")
    chat.ask("Hello?")
    expect(chat.stage.locator(".sg-fallback")).to_be_visible()
    wait_until(
        chat.page, lambda: [body.get("stream", False) for body in scripted_upstream.bodies[-2:]] == [True, False]
    )
    stop_and_wait(chat, lambda: scripted_upstream.left_s)  # during the fallback to a non-streaming request
    assert len(upstream.events_for_model("fault-503")) == request_count, "nothing was tried again after the stop"


def test_stop_mid_answer_several_times_disconnects_every_time(chat: ChatPage, upstream: SimulatedUpstream) -> None:
    model = "fault-stall"
    chat.choose_endless_answer()
    before = len(upstream.disconnect_times_s(model))
    for count in range(1, 6):
        chat.ask("Go on.")
        expect(chat.page.locator(ANSWERS)).to_have_count(count)
        stop_and_wait(chat, partial(upstream.disconnect_times_s, model))
    assert len(upstream.disconnect_times_s(model)) - before == 5
    expect(chat.page.locator("#sg-continue")).to_be_visible()


def test_escape_right_after_question_stops_answer(chat: ChatPage) -> None:
    chat.choose("vLLM")
    chat.set_model("fault-no-response")
    for number in range(3):
        chat.ask("Hello?")
        chat.page.keyboard.press("Escape")
        expect(chat.titles).to_have_count(number + 1)
        assert chat.wait_for_end().startswith("Stopped")


def test_closed_page_ends_its_answer_at_provider_after_grace_time(
    chat: ChatPage, context: BrowserContext, service: ServiceUnderTest, upstream: SimulatedUpstream
) -> None:
    other = ChatPage(context.new_page()).open(service.address)
    other.choose("vLLM")
    before = len(upstream.disconnect_times_s("fault-no-response"))
    ask_and_wait(other, upstream, "fault-no-response")
    other.page.close()
    wait_until(chat.page, lambda: len(upstream.disconnect_times_s("fault-no-response")) > before)


def test_clear_mid_answer_ends_it_and_empties_page(chat: ChatPage, upstream: SimulatedUpstream) -> None:
    chat.choose("vLLM")
    ask_and_wait(chat, upstream, "stalling")
    chat.wait_for_text()
    chat.clear()
    wait_until(chat.page, lambda: bool(upstream.disconnect_times_s("stalling")))
    expect(chat.stage).to_contain_text("Ready")
    expect(chat.stop).to_have_count(0)
    expect(chat.page.get_by_test_id("user")).to_have_count(0)
    chat.set_model("")
    chat.choose("Simulated: steady")
    chat.ask("Hello again?")
    chat.wait_for_text()
    assert chat.wait_for_end() == "Done"
    assert chat.page.get_by_test_id("user").all_inner_texts() == ["Hello again?"]
