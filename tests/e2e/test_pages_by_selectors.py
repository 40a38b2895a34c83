"""A chat page by its CSS selectors: pages that draw in unusual ways, and one line for those that cannot be read."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from playwright.async_api import Browser

from evaluation.backends.base import TrialRequest
from evaluation.backends.browser.chromium import running_chromium, traced_page
from evaluation.backends.browser.painting import painted_events
from evaluation.backends.browser.selected_page import PageTimeouts, SelectedPage
from evaluation.transports import PageSelectors
from streaming.clock import monotonic
from streaming.errors import StreamgaugeError
from streaming.events import TextDelta
from streaming.messages import ChatRequest, Message

CALL = TrialRequest("sim:steady", "direct", "browser:custom", ChatRequest((Message("user", "Why?"),)))
TIMEOUTS = PageTimeouts(element_s=6.0, first_text_s=4.0, quiet_s=1.5)
SELECTORS = {"box": "#box", "answer": ".answer", "send": "#send"}
AFTER_FRAMES = """
  () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 200))))"""
FORM = '<textarea id="box"></textarea><button id="send">Send</button><div id="log"></div>'
PROMPT = 'document.getElementById("box")'
SHADOW = 'const root = document.getElementById("log").attachShadow({ mode: "open" });'
APPEND = """
  const answer = document.createElement("p");
  answer.className = "answer";
  log.append(answer);
  let words = 0;
  const timer = setInterval(() => { answer.textContent += "word "; if (++words === 5) clearInterval(timer); }, 30);
"""


def page(on_send: str, form: str = FORM, *, before: str = "") -> str:
    """Return the address of a page that runs a script when its Send button is pressed."""
    script = f'const log = document.getElementById("log"); {before}'
    script += f'document.getElementById("send").onclick = () => {{ {on_send} }};'
    return f"data:text/html,{quote(f'<!doctype html>{form}<script>{script}</script>')}"


@dataclass(frozen=True)
class PageRead:
    """What was read of an answer: the text that was painted, and how long it faded in."""

    text: str
    fade_in_ms: float


class PageReader:
    """Asks pages in one Chromium, on an event loop in a thread: that of the other tests' browser runs in this one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, browser: Browser) -> None:
        self._loop, self._browser = loop, browser

    def read(self, url: str, selectors: Mapping[str, str]) -> PageRead:
        """Ask the page and read its answer to the end."""
        asked = self._read(PageSelectors(url, **{**SELECTORS, **selectors}))
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

    def type_letters(self, url: str, count: int) -> int:
        """Type letters on a page that is at rest; return how many frames with one of them were presented."""
        typed = self._type_letters(SelectedPage(PageSelectors(url, **SELECTORS), monotonic, CALL), count)
        return asyncio.run_coroutine_threadsafe(typed, self._loop).result()

    async def _type_letters(self, selected: SelectedPage, count: int) -> int:
        async with traced_page(self._browser, monotonic, answer=selected.answer, stop=None) as shown:
            await selected.open(shown.page)
            await selected.focus_box(shown.page)
            await shown.start()
            for _ in range(count):
                await shown.page.keyboard.press("a")
                await shown.page.evaluate(AFTER_FRAMES)
            trace, _, _ = await shown.stop()
        return len({trace.find_presentation(mark.at_s) for mark in trace.find_marks("key")} - {None})

    async def _read(self, selectors: PageSelectors) -> PageRead:
        selected = SelectedPage(selectors, monotonic, CALL, timeouts=TIMEOUTS)
        traced = traced_page(self._browser, monotonic, answer=selected.answer, stop=selected.stop_marker)
        async with traced as shown:
            await selected.open(shown.page)
            await shown.start()
            await shown.page.evaluate("streamgaugeObserver.arm()")
            await selected.send(shown.page, CALL)
            await selected.read_answer(shown.page)
            state = await shown.page.evaluate("streamgaugeObserver.state()")
            trace, offset_s, _ = await shown.stop()
        events = [timed.event for timed in painted_events(trace, state["text"], offset_s)]
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        return PageRead(text, state["fade"])


@pytest.fixture(scope="module")
def reader() -> Iterator[PageReader]:
    loop, stack = asyncio.new_event_loop(), AsyncExitStack()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        entered = stack.enter_async_context(running_chromium())
        yield PageReader(loop, asyncio.run_coroutine_threadsafe(entered, loop).result())
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


EDITABLE = '<div id="box" contenteditable></div><button id="send">Send</button><div id="log"></div>'
REPLACED = """
  let words = "";
  const timer = setInterval(() => {
    words += "word ";
    const answer = document.createElement("p");
    answer.className = "answer";
    answer.textContent = words;
    log.replaceChildren(answer);
    if (words.length === 25) clearInterval(timer);
  }, 30);
"""


STEPS = """
  const answer = document.createElement("p");
  answer.className = "answer";
  log.append(answer);
  const steps = STEPS;
  const timer = setInterval(() => { DRAW; if (!steps.length) clearInterval(timer); }, 30);
"""


def draw_steps(texts: Sequence[str], draw: str = "answer.textContent = steps.shift()") -> str:
    """Return a script that draws one text after the other."""
    return STEPS.replace("STEPS", json.dumps(texts)).replace("DRAW", draw)


INNER = "answer.innerHTML = steps.shift()"
OLD = '<p class="answer">Ask me anything.</p>'
PREPENDED = draw_steps(["word", "word two"]).replace("log.append(answer)", "log.prepend(answer)")
OLD_ANEW = draw_steps(
    ["word", "word two"], f"answer.textContent = steps.shift(); log.innerHTML = {OLD!r}; log.append(answer)"
)
LATE_STOP = f"""{draw_steps(["word", "word two", "word two three"])}
  setTimeout(() => {{ document.getElementById("stop").hidden = false; }}, 60);
  setTimeout(() => {{ document.getElementById("stop").hidden = true; }}, 600);"""
NOTHING = """document.getElementById("stop").hidden = false;
  setTimeout(() => { document.getElementById("stop").hidden = true; }, 200);"""
STOP_FORM = FORM + '<button id="stop" hidden>Stop</button>'
RUNNING = {"stop": "#stop:not([hidden])"}


@pytest.mark.parametrize(
    ("url", "selectors", "text"),
    [
        (page(PREPENDED, before=f"log.innerHTML = {OLD!r};"), {}, "word two"),
        (page(OLD_ANEW, before=f"log.innerHTML = {OLD!r};"), {}, "word two"),
        (page(LATE_STOP, STOP_FORM), RUNNING, "word two three"),
        (page(NOTHING, STOP_FORM), RUNNING, ""),
        (page(draw_steps(["All at once."])), {}, "All at once."),
        (page(draw_steps(["שלום", "שלום עולם", "שלום עולם, 123"])), {}, "שלום עולם, 123"),
        (page(draw_steps(["👩", "👩\u200d👩", "👩\u200d👩\u200d👧 e\u0301"])), {}, "👩\u200d👩\u200d👧 e\u0301"),
        (page(draw_steps(["a **b", "a <b>bold</b>", "a <b>bold</b> c"], INNER)), {}, "a bold c"),
        (page(draw_steps(["Thinking…", "Yes", "Yes."])), {}, "Yes."),
    ],
    ids=[
        "newest first", "old answer drawn anew", "late Stop", "no text", "one piece", "right to left", "joined emoji",
        "Markdown drawn anew", "placeholder",
    ],
)  # fmt: skip
def test_painted_text_is_the_answer_at_its_end(
    reader: PageReader, url: str, selectors: dict[str, str], text: str
) -> None:
    assert reader.read(url, selectors) == PageRead(text, 0)


@pytest.mark.parametrize(
    ("url", "selectors"),
    [
        (page(REPLACED, before="log.innerHTML = '<p class=answer>Ask me anything.</p>';"), {}),
        (page(f'if ({PROMPT}.textContent === "Why?") {{ {APPEND} }}', EDITABLE), {}),
        (page(APPEND, f'<textarea class="box" hidden></textarea>{FORM}'), {"box": "textarea"}),
    ],
    ids=["answer box replaced with each piece", "editable element", "hidden second text box"],
)
def test_unusual_page_is_read(reader: PageReader, url: str, selectors: dict[str, str]) -> None:
    assert reader.read(url, selectors) == PageRead("word word word word word", 0)


def test_letter_at_the_lower_edge_of_a_page_is_painted_without_another_change(reader: PageReader) -> None:
    """The page draws its answer, and nothing after it but the letters of a reader who types."""
    form = FORM.replace("<textarea", '<textarea style="position: fixed; bottom: 0"')
    assert reader.type_letters(page(draw_steps(["word"]), form), 3) == 3


FADING = """
  log.innerHTML = `<style>
    @keyframes appear { from { opacity: 0; } }
    @keyframes blink { 50% { opacity: 0; } }
    .answer span { animation: appear 250ms; }
    .answer i { animation: blink 1s infinite; }
  </style>`;
"""
LETTERS = draw_steps(["a", "b"], "answer.innerHTML += `<span>${steps.shift()}</span>`")
CURSOR = draw_steps(["a", "b"], "answer.innerHTML = `${steps.shift()}<i>|</i>`")


@pytest.mark.parametrize(
    ("on_send", "text", "fade_in_ms"), [(LETTERS, "ab", 250), (CURSOR, "b|", 0)], ids=["letters", "cursor"]
)
def test_fade_of_letters_is_measured_and_a_blinking_cursor_is_none(
    reader: PageReader, on_send: str, text: str, fade_in_ms: float
) -> None:
    assert reader.read(page(on_send, before=FADING), {}) == PageRead(text, fade_in_ms)


@pytest.mark.parametrize(
    ("url", "selectors", "words"),
    [
        (page(APPEND), {"box": "#nothing"}, "--page-box: .* does not show '#nothing'"),
        (page(APPEND, FORM + FORM), {"box": "textarea"}, "--page-box: 'textarea' matches 2 visible elements"),
        (page(APPEND), {"box": "#send"}, "--page-box: '#send' is no text box"),
        (page(APPEND), {"send": ".nothing"}, "--page-send: .* does not show '.nothing'"),
        (page(APPEND), {"answer": "p["}, r"--page-answer: 'p\[' is not a CSS selector"),
        (page(APPEND), {"stop": "#log"}, "--page-stop: '#log' matches before a question is sent"),
        (page(APPEND), {"stop": ".stop"}, "--page-stop: '.stop' matched nothing while the answer came"),
        (
            page("log.innerHTML = '<canvas class=answer></canvas>';"),
            {},
            "--page-answer: '.answer' has no text, .* canvas",
        ),
        (
            page(
                "log.innerHTML = '<p class=answer></p>';"
                "log.querySelector('p').attachShadow({ mode: 'open' }).append('word');"
            ),
            {},
            "--page-answer: '.answer' has no text, .* shadow root",
        ),
        (page(draw_steps([f"line {line} " * 30 for line in range(9)])), {}, "--page-answer: the page took away"),
        (page(""), {}, r"the page: no text in '.answer' within 4 s \(check --page-answer\)"),
        (
            page('root.innerHTML = "<p class=answer>word</p>";', before=SHADOW),
            {},
            "--page-answer: '.answer' matches no element of the page, .* shadow root",
        ),
        (
            page("log.innerHTML = `<iframe srcdoc='<p class=answer>word</p>'></iframe>`;"),
            {},
            "--page-answer: '.answer' matches no element of the page, .* inside the frame",
        ),
        ("data:text/html,<iframe srcdoc='<textarea id=box></textarea>'></iframe>", {}, "inside the frame about:srcdoc"),
        ("http://127.0.0.1:9", {}, "--page-url: http://127.0.0.1:9 cannot be loaded"),
    ],
)
def test_page_that_cannot_be_read_is_one_line(
    reader: PageReader, url: str, selectors: dict[str, str], words: str
) -> None:
    with pytest.raises(StreamgaugeError, match=words) as raised:
        reader.read(url, selectors)
    assert "\n" not in str(raised.value)
