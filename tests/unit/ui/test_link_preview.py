"""Tests of what other sites show of a link: the tags in Gradio's own template, and their texts."""

import re
from html import unescape
from importlib import resources

from ui import entry_strings
from ui.link_preview import PICTURE, PICTURE_PATH, PICTURE_SIZE, replace_tags

ROOT = "https://chat.example.com/tools/gauge"
TEMPLATE = (resources.files("gradio") / "templates" / "frontend" / "index.html").read_text(encoding="utf-8")


def read_tags(page: str) -> dict[str, list[str]]:
    """Return the contents of the page's meta tags by their property or name."""
    found: dict[str, list[str]] = {}
    for name, content in re.findall(r'<meta\s+(?:property|name)="([^"]+)"\s+content="([^"]*)"', page):
        found.setdefault(name, []).append(unescape(content))
    return found


def test_page_has_each_tag_once_and_none_of_gradio() -> None:
    assert len(read_tags(TEMPLATE)["og:title"]) == 2, "the template has tags that must not win"
    page = replace_tags(TEMPLATE, ROOT, {})
    tags = read_tags(page)
    assert {name: texts for name, texts in tags.items() if len(texts) > 1} == {}
    assert tags["og:title"] == tags["twitter:title"] == [entry_strings.LINK_TITLE]
    assert tags["og:url"] == [f"{ROOT}/"]
    assert tags["og:image"] == tags["twitter:image"] == [ROOT + PICTURE_PATH]
    assert not [text for texts in tags.values() for text in texts if "gradio" in text.lower()]
    assert page.count("<title>") == 1 and 'href="./favicon.ico"' in page and "manifest.json" not in page
    assert page.count("<script") == TEMPLATE.count("<script")


def test_link_to_tab_has_its_title_and_keeps_its_parameters() -> None:
    tags = read_tags(replace_tags(TEMPLATE, ROOT, {"tab": "compare"}))
    assert tags["og:title"] == [entry_strings.LINK_TITLES["compare"]]
    assert tags["og:url"] == [f"{ROOT}/?tab=compare"]


def test_hostile_parameter_stays_in_its_attribute() -> None:
    page = replace_tags(TEMPLATE, ROOT, {"tab": '"><script>alert(1)</script>'})
    assert page.count("<script") == TEMPLATE.count("<script")
    assert read_tags(page)["og:url"] == [f"{ROOT}/?tab=%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E"]


def test_tags_inside_the_configuration_are_left_alone() -> None:
    config = '<script>window.x = "<meta property=\\"og:title\\" content=\\"mine\\">"</script>'
    assert config in replace_tags(f"<head><meta charset='utf-8'>{config}</head>", ROOT, {})


def test_picture_has_the_size_that_its_tags_state() -> None:
    head = PICTURE.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == PICTURE_SIZE


def test_texts_are_short_enough_to_be_shown_whole() -> None:
    titles = [entry_strings.LINK_TITLE, *entry_strings.LINK_TITLES.values()]
    assert max(map(len, titles)) <= 70 and len(entry_strings.LINK_SENTENCE) <= 200
