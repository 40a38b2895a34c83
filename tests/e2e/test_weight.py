"""What an answer costs the browser: bytes over the wire, and time of its main thread."""

from benchmarks import page
from benchmarks.page import Weight
from streaming import strategies
from tests.e2e.chat_page import ChatPage

BATCH = strategies.DEFAULT
CHUNKS = 800
MOST_BYTES = 120_000
"""Of an answer of so many chunks of 8 bytes, 20 ms apart, with all that is shown beside it."""


def weigh(chat: ChatPage, chunks: int, strategy: str) -> Weight:
    """Ask for so many chunks in an empty conversation, and weigh the answer."""
    chat.set("Longest answer, in tokens", str(chunks))
    picker = chat.page.locator("#sg-strategy input")
    picker.fill(strategy)
    picker.press("Enter")

    def answer() -> None:
        chat.ask("Go on.")
        chat.wait_for_text()
        assert f"{chunks * page.CHUNK_BYTES:,} characters" in chat.wait_for_end()

    weight = page.weighed(chat.page, answer)
    chat.clear()
    return weight


def test_bytes_grow_with_the_text_and_stay_few_and_batching_spares_the_browser(chat: ChatPage) -> None:
    chat.choose(page.PROVIDER)
    # The first answer of a page loads what draws answers.
    weigh(chat, 10, BATCH)
    half, whole, direct = (weigh(chat, *of) for of in ((CHUNKS // 2, BATCH), (CHUNKS, BATCH), (CHUNKS // 4, "direct")))
    assert whole.received_bytes <= MOST_BYTES
    assert whole.received_bytes <= 2 * half.received_bytes
    assert direct.received_bytes / (CHUNKS // 4) > 2 * whole.received_bytes / CHUNKS
    assert half.cpu_s / half.during_s < 0.8 * direct.cpu_s / direct.during_s
