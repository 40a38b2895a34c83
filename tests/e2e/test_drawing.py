"""Answers as a reader sees them: tables, formulas, tasks, lists, directions, code and images."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator

from tests.e2e.canned_upstream import CannedUpstream
from tests.e2e.chat_page import ANSWERS, ChatPage
from tests.e2e.conftest import watched_chat
from tests.e2e.service import ServiceUnderTest

QUESTION = "Draw everything."
MARKDOWN = """
| Name | Number | Middle | A longer note |
|:-----|-------:|:------:|:--------------|
| alpha-beta | 12 | yes | a long note that goes on so that the table is wider than a phone and then some more |

- one
  - two
    - three
- [ ] open
- [x] done

Energy \\(E = mc^2\\), and

\\[ a < b \\]

$$x^2$$

It costs $5 and then $10.

العربية: البث هو طريقة لعرض الإجابة

- قائمة

![a picture](https://192.0.2.1/picture.png)

```python
def f(x: int) -> str:  # note
    return f"{x}" + 'y' * 3
```

```ts
const x: Array<string> = ["a", "b"]; // note
```

```json
{"a": [1, true, "x"]}
```
""".strip()
CONTRASTS = """(code) => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => numbers(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return numbers(colour)[3] === 0 && element.parentElement ? behind(element.parentElement) : colour;
  };
  return [...code.querySelectorAll(".token")].map((token) => {
    const [a, b] = [light(getComputedStyle(token).color), light(behind(token))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
}"""
"""Computes the contrast ratios of the coloured parts of code (WCAG 2.1, relative luminance)."""


def style(element: Locator, name: str) -> Any:
    return element.evaluate("(element, name) => getComputedStyle(element)[name]", name)


@pytest.fixture(scope="module", params=[pytest.param((1280, 860), id="desktop")])
def drawn_chat(
    request: pytest.FixtureRequest, browser: Browser, service: ServiceUnderTest, canned_upstream: CannedUpstream
) -> Iterator[ChatPage]:
    """Open one page for all tests that only look at an answer, with everything in it, which came in small pieces."""
    canned_upstream.words[QUESTION] = [{"content": MARKDOWN[i : i + 7]} for i in range(0, len(MARKDOWN), 7)]
    with browser.new_context() as context, watched_chat(context, service.address, *request.param) as chat:
        chat.choose("LM Studio")
        chat.ask(QUESTION)
        chat.wait_for_end()
        chat.page.locator(ANSWERS).last.locator(".sg-blocked").wait_for()
        yield chat


@pytest.fixture
def answer(drawn_chat: ChatPage) -> Locator:
    """Return the answer's element."""
    return drawn_chat.page.locator(ANSWERS).last


def test_formulas_are_typeset_and_prices_are_text(answer: Locator) -> None:
    assert answer.locator(".katex").count() == 3
    assert "It costs $5 and then $10." in answer.inner_text()


def test_table_keeps_its_alignment_and_scrolls_inside_the_answer(answer: Locator) -> None:
    row = answer.locator("tbody tr").first.locator("td")
    assert [style(row.nth(n), "textAlign") for n in range(3)] == ["left", "right", "center"]
    table = answer.locator("table").first
    assert table.evaluate("t => t.clientWidth <= t.closest('.message-content').clientWidth")
    assert table.evaluate("t => t.tabIndex === 0")


@pytest.mark.parametrize("drawn_chat", [pytest.param((390, 844), id="phone")], indirect=True)
def test_wide_table_on_a_phone_scrolls_and_breaks_no_word(answer: Locator) -> None:
    table = answer.locator("table").first
    assert table.evaluate("t => t.scrollWidth > t.clientWidth")
    heads = answer.locator("th").evaluate_all("cells => cells.map((c) => c.getClientRects()[0].height)")
    assert max(heads) < 48, "a heading is one line"
    assert answer.evaluate("a => document.documentElement.scrollWidth <= innerWidth")


def test_tasks_and_nested_lists_look_as_written(answer: Locator) -> None:
    boxes = answer.locator('input[type="checkbox"]')
    assert [boxes.nth(n).is_checked() for n in range(2)] == [False, True]
    assert style(boxes.nth(0), "backgroundColor") != style(boxes.nth(1), "backgroundColor")
    sizes = answer.locator("li").evaluate_all("items => items.map((i) => getComputedStyle(i).fontSize)")
    assert len(set(sizes)) == 1


def test_right_to_left_paragraphs_and_lists_run_right_to_left(answer: Locator) -> None:
    assert style(answer.locator("p", has_text="العربية"), "direction") == "rtl"
    assert style(answer.locator("ul", has_text="قائمة"), "direction") == "rtl"
    assert style(answer.locator("p", has_text="It costs"), "direction") == "ltr"


def test_image_of_another_host_is_replaced_by_its_words_and_address(answer: Locator) -> None:
    assert "a picture (https://192.0.2.1/picture.png)" in answer.locator(".sg-blocked").inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_code_is_coloured_with_enough_contrast(answer: Locator, drawn_chat: ChatPage, theme: str) -> None:
    drawn_chat.page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
    for language in ("python", "ts", "json"):
        code = answer.locator(f"code.language-{language}")
        ratios = code.evaluate(CONTRASTS)
        assert len(ratios) > 3, f"{language} has coloured parts"
        assert min(ratios) >= 4.5, language


def test_text_without_code_has_the_full_colour_of_the_page(answer: Locator, drawn_chat: ChatPage) -> None:
    paragraph = answer.locator("p", has_text="It costs")
    assert style(paragraph, "color") == style(drawn_chat.page.locator(".gradio-container").first, "color")
    opacities = paragraph.evaluate(
        "e => { const all = []; for (; e; e = e.parentElement) all.push(getComputedStyle(e).opacity); return all; }"
    )
    assert set(opacities) == {"1"}


def test_arriving_text_shows_no_unfinished_mark(chat: ChatPage, canned_upstream: CannedUpstream) -> None:
    text = "A **bold word** and `code` with [a link](https://example.com/x) and \\(a+b\\) at its end. " * 3
    canned_upstream.words[QUESTION] = [{"content": piece} for piece in re.findall(r".{1,3}", text)]
    chat.choose("LM Studio")
    chat.page.evaluate(
        """selector => { window.drawn = []; new MutationObserver(() => {
          const last = [...document.querySelectorAll(selector)].at(-1);
          if (last) window.drawn.push(last.innerText);
        }).observe(document.querySelector("#sg-chat"), { childList: true, subtree: true, characterData: true }); }""",
        ANSWERS,
    )
    chat.ask(QUESTION)
    chat.wait_for_end()
    drawn = chat.page.evaluate("window.drawn")
    assert drawn
    assert [state for state in drawn if re.search(r"\*\*|`|\]\(|\\\(", state)] == []


def test_message_box_takes_the_direction_of_its_text(chat: ChatPage) -> None:
    assert chat.box.get_attribute("dir") == "auto"
