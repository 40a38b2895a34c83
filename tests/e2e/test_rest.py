"""Tests of the page's workarounds for Gradio's scripts, which would otherwise fail unnoticed after an update."""

from tests.e2e.chat_page import ChatPage

WINDOWS = 10
COUNT_REQUESTS_SCRIPT = """() => new Promise((tell) => {
  const next = () => {
    const number = requestAnimationFrame(() => {});
    cancelAnimationFrame(number);
    return number;
  };
  const before = next();
  setTimeout(() => tell(next() - before - 1), 500);
})"""
"""Returns the number of animation frames requested in half a second, by the ids of two own requests."""
COUNT_COPIES_SCRIPT = """() => {
  const copy = window.structuredClone;
  window.copied = { functions: 0, words: 0 };
  window.structuredClone = (value, options) => {
    if (typeof value === "function") window.copied.functions += 1;
    if (typeof value === "string") window.copied.words += 1;
    return copy(value, options);
  };
}"""
"""Starts to count the values that Gradio copies with the page's structuredClone."""


def test_idle_page_requests_no_animation_frames(chat: ChatPage) -> None:
    assert any(chat.page.evaluate(COUNT_REQUESTS_SCRIPT) == 0 for _ in range(WINDOWS))
    chat.choose("Simulated: steady")
    chat.ask("Hello?")
    chat.wait_for_text()
    chat.wait_for_end()
    assert any(chat.page.evaluate(COUNT_REQUESTS_SCRIPT) == 0 for _ in range(WINDOWS)), (
        "as long as an answer has come and gone"
    )
    assert chat.page.evaluate("Object.hasOwn(performance, 'now')") is False, "the browser's own clock is back"


def test_patched_structured_clone_matches_browser_behaviour(chat: ChatPage) -> None:
    chat.page.evaluate(COUNT_COPIES_SCRIPT)
    chat.choose("Simulated: steady")
    chat.ask("Hello?")
    chat.wait_for_text()
    chat.wait_for_end()
    copied = chat.page.evaluate("window.copied")
    assert copied["functions"] > 0 and copied["words"] > 0
    assert chat.page.evaluate("structuredClone({ a: [1, new Date(0)] }).a[1].getTime()") == 0
    assert chat.page.evaluate("structuredClone('words')") == "words"
    refused = "() => { try { structuredClone(() => 1); } catch (error) { return error.name; } }"
    assert chat.page.evaluate(refused) == "DataCloneError"
