"""What an answer costs the browser: bytes over the wire, and time of its main thread."""

from dataclasses import dataclass
from typing import Any

from playwright.sync_api import CDPSession

from streaming import strategies
from tests.e2e.chat_page import ChatPage

BATCH = strategies.DEFAULT
MOST_BYTES = 120_000
"""Of an answer of 800 chunks, 20 ms apart."""


@dataclass
class Weight:
    """What one answer came to: bytes that the page received, and seconds in which its main thread was busy."""

    received: int = 0
    busy_s: float = 0.0


def weigh(chat: ChatPage, tokens: int, strategy: str) -> Weight:
    """Ask for an answer of so many chunks, 20 ms apart, in an empty conversation."""
    chat.set("Longest answer, in tokens", str(tokens))
    picker = chat.page.locator("#sg-strategy input")
    picker.fill(strategy)
    picker.press("Enter")
    weight = Weight()
    session = chat.page.context.new_cdp_session(chat.page)
    session.send("Network.enable")
    session.send("Performance.enable")
    session.on("Network.dataReceived", lambda told: _add(weight, told))
    before_s = _busy_s(session)
    chat.ask("Go on.")
    chat.wait_for_text()
    assert f"{tokens} tokens reported" in chat.wait_for_end()
    weight.busy_s = _busy_s(session) - before_s
    session.detach()
    chat.clear()
    return weight


def _add(weight: Weight, told: dict[str, Any]) -> None:
    weight.received += told["dataLength"]


def _busy_s(session: CDPSession) -> float:
    found: dict[str, float] = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    return found["TaskDuration"]


def test_bytes_grow_with_the_text_and_stay_few_and_batching_spares_the_browser(chat: ChatPage) -> None:
    chat.choose("vLLM")
    # The first answer of a page loads what draws answers.
    weigh(chat, 10, BATCH)
    half, whole, direct = (weigh(chat, *of) for of in ((100, BATCH), (200, BATCH), (200, "direct")))
    # So that nobody waits 16 s here, the answer of 800 chunks is reckoned from two shorter ones.
    assert half.received + (whole.received - half.received) * (800 - 100) / 100 <= MOST_BYTES
    assert whole.received <= 2 * half.received
    assert direct.received > 2 * whole.received
    assert whole.busy_s < 0.8 * direct.busy_s
