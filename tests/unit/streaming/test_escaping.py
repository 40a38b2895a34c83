"""Untrusted text is plain text in every output format: no markup, link, formula or control character."""

import re

import pytest
from markdown_it import MarkdownIt

from streaming.escaping import to_csv, to_html, to_line, to_markdown, to_plotly
from tests.hostile_texts import HOSTILE


@pytest.mark.parametrize("text", HOSTILE)
def test_line_of_hostile_text_is_printable(text: str) -> None:
    line = to_line(text)
    assert line.isprintable() and "\n" not in line
    assert line.encode("utf-8")


@pytest.mark.parametrize("text", ["Zürich 東京 🙂", "नि\u200dक", "café", ""])
def test_line_of_ordinary_text_is_unchanged(text: str) -> None:
    assert to_line(text) == text


PLACES = [
    "# Report {}",
    "{}",
    "{} at the start of a line",
    "- item: {}",
    "**{}**",
    "| a | b |\n| --- | --- |\n| {} | end |",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_hostile_text_renders_as_plain_text(place: str, text: str) -> None:
    render = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    plain = render.render(place.format("word"))
    result = render.render(place.format(to_markdown(text)))
    assert re.findall(r"</?\w+", result) == re.findall(r"</?\w+", plain), "no tag but those of the place"
    shown = re.sub(r"<[^>]*>", "", result).replace("\u2060", "")
    assert " ".join(to_html(text).split()) in " ".join(shown.split()), "and all of it is read"


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_hostile_text_has_no_bare_url(text: str) -> None:
    result = to_markdown(text)
    assert not re.search(r"(?:https?|ftp)://|\bwww\.\w|\w\.[a-z]{2,}|@\w", result)


def test_markdown_of_adjacent_texts_has_no_bare_url() -> None:
    assert "://" not in f"{to_markdown('http')}:{to_markdown('//tracker.example')}"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'=1"),
        ("\r=1", "'=1"),
        ("  =1", "'=1"),
        ("\n=1", "'=1"),
        ('"=1', "'\"=1"),
        ("'=1", "''=1"),
        ('" = 1', "'\" = 1"),
        ("＝1", "'＝1"),
        ("a;=1", "a;'=1"),
        ("\u200b=1", "\ufffd=1"),
        ("a=1", "a=1"),
        ("gpt-4.1-mini", "gpt-4.1-mini"),
        ("a\x1b[0m\nb", "a\ufffd[0m b"),
    ],
)
def test_csv_cell_is_never_a_formula(text: str, cell: str) -> None:
    assert to_csv(text) == cell


@pytest.mark.parametrize("text", HOSTILE)
def test_plotly_and_html_text_has_no_tag(text: str) -> None:
    assert not {"<", ">"} & set(to_plotly(text)) and not {"<", ">", '"'} & set(to_html(text))
