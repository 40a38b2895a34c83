"""Tests of escaping: all text stays visible, code is unchanged, and escaping is reversible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.markdown.escaping import escape_prose, unescape_prose

CASES = [
    ("In C write vector<int> v; and if a<b and b>c.", "In C write vector&lt;int> v; and if a&lt;b and b>c."),
    ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
    ("<!-- gone? -->", "&lt;!-- gone? -->"),
    ("1 < 2 and a & b &c", "1 &lt; 2 and a & b &c"),
    ("write &lt; for <", "write &amp;lt; for &lt;"),
    ("use `List<String>` or ``a`<b>`` here", "use `List<String>` or ``a`<b>`` here"),
    ("an open ` tick and a<b", "an open ` tick and a&lt;b"),
    ("```html\n<b>bold</b>\n```\nand <b>", "```html\n<b>bold</b>\n```\nand &lt;b>"),
    ("text\n~~~\n<a>\n", "text\n~~~\n<a>\n"),
    ("a ` b\n\n c ` <d>", "a ` b\n\n c ` &lt;d>"),
    (r"\<b> and \\<b> and \`<b>`", r"\<b> and \\&lt;b> and \`&lt;b>`"),
    ("https://a.b/`c><d> e`", "https://a.b/`c>&lt;d> e`"),
]


@pytest.mark.parametrize(("text", "markdown"), CASES)
def test_escape_prose_turns_tags_into_text(text: str, markdown: str) -> None:
    assert escape_prose(text) == markdown
    assert unescape_prose(markdown) == text


@given(st.lists(st.sampled_from([*"ab<>&;/!`~\n lt\\", "https://", "&lt;"]), max_size=60).map("".join))
def test_escaped_prose_round_trips(text: str) -> None:
    assert unescape_prose(escape_prose(text)) == text


@given(st.text(alphabet="ab<>/! .\n\\", max_size=40), st.text(alphabet="ab<>&;/! lt.\n", max_size=40))
def test_escape_prose_of_longer_text_extends_escaped_prefix(text: str, more: str) -> None:
    assert escape_prose(text + more).startswith(escape_prose(text))


def test_hostile_text_is_escaped_in_linear_time() -> None:
    for piece in ("`", "`a", "<", "```\n", "&a", "` ``", "http://", "\\"):
        text = piece * (20_000 // len(piece))
        assert len(escape_prose(text)) >= len(text)
