"""Test of an answer's cost in the browser: bytes received, and CPU time of the main thread."""

from benchmarks import page
from benchmarks.page import PageCost
from streaming import strategies
from tests.e2e.chat_page import ChatPage

BATCH_STRATEGY = strategies.DEFAULT_STRATEGY
CHUNKS = 400
MAX_BYTES = 60_000
"""Limit for an answer of `CHUNKS` chunks of 8 bytes, 20 ms apart, including all other updates of the page."""


def measure_page_cost(chat: ChatPage, chunks: int, strategy: str) -> PageCost:
    """Request an answer of so many chunks in an empty conversation; return its cost."""
    chat.fill_setting("Max tokens", str(chunks))
    picker = chat.page.locator("#sg-strategy input")
    picker.fill(strategy)
    picker.press("Enter")

    def ask_and_wait() -> None:
        chat.ask("Go on.")
        chat.wait_for_text()
        assert chat.wait_for_end() == "Stopped at max tokens"
        assert len(chat.answers[-1]) == chunks * page.CHUNK_BYTES

    weight = page.measure_page(chat.page, ask_and_wait)
    chat.clear()
    return weight


def test_answer_sends_bounded_bytes_whatever_its_strategy(chat: ChatPage) -> None:
    chat.choose(page.PROVIDER)
    # The first answer of a page loads the scripts that render answers.
    measure_page_cost(chat, 10, BATCH_STRATEGY)
    half, whole, direct = (
        measure_page_cost(chat, *of)
        for of in ((CHUNKS // 2, BATCH_STRATEGY), (CHUNKS, BATCH_STRATEGY), (CHUNKS // 4, "direct"))
    )
    assert whole.received_bytes <= MAX_BYTES
    # With updates that grow with the answer it would be four times as much.
    assert whole.received_bytes <= 2.5 * half.received_bytes, "an update costs the same early and late in an answer"
    assert direct.received_bytes <= MAX_BYTES, "a page is updated at most 15 times a second, and each update is small"
