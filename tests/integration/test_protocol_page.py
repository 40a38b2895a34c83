"""Every example of docs/protocol.md runs as documented."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.page_examples import ROOT, PageExample, find_addresses, open_browser_page, parse_examples
from tests.service_process import run_service_process

PAGE = ROOT / "docs" / "protocol.md"
ADDRESS = "127.0.0.1:7860"
"""The service's address as written on the page."""
EXAMPLES = parse_examples(PAGE)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_service_process() as url:
        yield url


@pytest.fixture(scope="module")
def browser_tab(url: str) -> Iterator[Page]:
    with open_browser_page(url) as page:
        yield page


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language != "javascript"], ids=str)
def test_protocol_example_prints_documented_output(example: PageExample, url: str, tmp_path: Path) -> None:
    example.run({ADDRESS: url.removeprefix("http://")}, tmp_path)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language == "javascript"], ids=str)
def test_protocol_browser_example_prints_documented_output(example: PageExample, browser_tab: Page) -> None:
    example.run_in(browser_tab)


def test_protocol_page_has_three_languages_and_one_address() -> None:
    assert {example.language for example in EXAMPLES} == {"bash", "python", "javascript"}
    assert find_addresses(PAGE) == {ADDRESS}
