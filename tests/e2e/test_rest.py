"""What the page's script looks for inside of Gradio: were it gone there, it would cost without a word."""

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
"""Gives how many frames were asked for in half a second, by their numbers: who asks may have kept the browser's own."""
COUNT_COPIES_SCRIPT = """() => {
  const copy = window.structuredClone;
  window.copied = { functions: 0, words: 0 };
  window.structuredClone = (value, options) => {
    if (typeof value === "function") window.copied.functions += 1;
    if (typeof value === "string") window.copied.words += 1;
    return copy(value, options);
  };
}"""
"""Begins to count what Gradio copies by the page's structuredClone."""


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
