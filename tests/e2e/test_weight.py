"""Tests of the page's cost in the browser: bytes received for an answer, and work while nothing happens."""

from benchmarks import page
from benchmarks.page import PageCost
from streaming import strategies
from tests.e2e.chat_page import ChatPage

BATCH_STRATEGY = strategies.DEFAULT_STRATEGY
CHUNKS = 400
MAX_BYTES = 60_000
"""Limit for an answer of `CHUNKS` chunks of 8 bytes, 20 ms apart, including all other updates of the page."""
FRAMES_UNTIL_QUIET = """([quiet, patience]) => new Promise((resolve) => {
  const changed = new Set();
  let frames = 0, calm = 0;
  const observer = new MutationObserver((changes) => {
    calm = 0;
    for (const { type, attributeName, target } of changes)
      changed.add(`${type} ${attributeName ?? ""} ${(target.closest ? target : target.parentElement)?.className}`);
  });
  observer.observe(document.body, { attributes: true, characterData: true, childList: true, subtree: true });
  const count = () => {
    [frames, calm] = [frames + 1, calm + 1];
    if (calm > quiet || frames > patience) resolve({ calm: calm > quiet, changed: [...changed] });
    else requestAnimationFrame(count);
  };
  requestAnimationFrame(count);
})"""
"""Waits for so many frames in a row without a change of the page, at most so many frames."""


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


def test_page_at_rest_after_an_answer_changes_nothing(chat: ChatPage) -> None:
    chat.choose("Simulated: steady")
    chat.ask("Hello.")
    chat.wait_for_end()
    rest = chat.page.evaluate(FRAMES_UNTIL_QUIET, [60, 1200])
    assert rest["calm"], rest["changed"]
