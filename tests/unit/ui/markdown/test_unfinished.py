"""A growing Markdown text: what is drawn before its rest arrives."""

import re

import pytest

from ui.markdown.unfinished import MAX_BLOCK_CHARS, MAX_HELD_CHARS, to_drawable


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("A **bold", "A **bold**"),
        ("A **bold ", "A **bold** "),
        ("A **", "A "),
        ("A *word", "A *word*"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("~~gone", "~~gone~~"),
        ("**a *b", "**a *b***"),
        ("the `cod", "the `cod`"),
        ("the `code`", "the `code`"),
        ("the ``a ` b", "the ``a ` b``"),
        ("see [the li", "see "),
        ("see [the link](http://a.b/", "see "),
        ("see [the link](http://a.b/c)", "see [the link](http://a.b/c)"),
        ("an image ![alt](http", "an image "),
        ("so \\(a^2 + b", "so "),
        ("so \\(a^2\\)", "so \\(a^2\\)"),
        ("so $$x", "so "),
        ("it costs $5 and", "it costs $5 and"),
        ("text\n\n| a | b |\n|---|", "text\n\n"),
        ("| a |\n|---|\n", "| a |\n|---|\n"),
        ("text\n\n## ", "text\n\n"),
        ("text\n- ", "text\n"),
        ("done.", "done."),
        ("", ""),
    ],
)
def test_unfinished_mark_at_the_end_is_closed_or_left_out(text: str, drawn: str) -> None:
    assert to_drawable(text) == drawn


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("a\n\n```pyth", "a\n\n"),
        ("a\n\n```python\n", "a\n\n```\n"),
        ("a\n\n```python\nx = `1", "a\n\n```\nx = `1"),
        ("a\n\n```python\nx\n``", "a\n\n```\nx\n"),
        ("a\n\n```python\nx\n```", "a\n\n```python\nx\n```"),
        ("~~~~ts\n```\n**x", "~~~~\n```\n**x"),
        ("```\nx\n```\nthen **y", "```\nx\n```\nthen **y**"),
    ],
)
def test_open_code_block_has_no_language_until_it_is_closed(text: str, drawn: str) -> None:
    assert to_drawable(text) == drawn


SAMPLE = (
    "# Title\n\nA **bold [link](http://a.b/c_d) word** and `code`, *it* too; 2 * 3 and snake_case.\n\n"
    "| a | b |\n|:--|--:|\n| **1** | `2` |\n\n- one\n  - two\n- [x] done\n\n"
    "```python\nx = '**'  # `\n```\n\nAt last \\(a^2\\), $$x < y$$ and ~~nothing~~. Costs $5."
)


def test_no_prefix_of_a_text_shows_a_bare_mark() -> None:
    for end in range(len(SAMPLE)):
        drawn = to_drawable(SAMPLE[:end])
        prose = re.sub(r"```.*?(?:```|\Z)|`[^`\n]*`", "", drawn, flags=re.DOTALL)
        assert prose.count("**") % 2 == 0, drawn
        assert prose.count("~~") % 2 == 0, drawn
        assert prose.count("\\(") == prose.count("\\)"), drawn
        assert prose.count("](") == prose.count("c_d)"), drawn


def test_every_prefix_of_a_text_is_drawn_up_to_its_unfinished_part() -> None:
    for end in range(len(SAMPLE)):
        drawn = to_drawable(SAMPLE[:end]).replace("```\nx", "```python\nx")
        common = next((i for i, (a, b) in enumerate(zip(drawn, SAMPLE, strict=False)) if a != b), len(drawn))
        assert end - common <= 40, (SAMPLE[:end], drawn)


@pytest.mark.parametrize("opener", ["[", "\\(", "$$", "![a]("])
def test_bracket_that_never_closes_is_drawn_after_a_while(opener: str) -> None:
    text = f"word {opener}{'x' * (MAX_HELD_CHARS + 1)}"
    assert to_drawable(text).startswith(text)


def test_long_paragraph_is_drawn_as_it_is() -> None:
    text = "\\(a " * MAX_BLOCK_CHARS
    assert to_drawable(text) == text
