"""Every example of docs/protocol.md is run, and does what the page says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.page_examples import ROOT, Example, addresses, browser_page, examples
from tests.service_process import service_process

PAGE = ROOT / "docs" / "protocol.md"
ADDRESS = "127.0.0.1:7860"
"""What stands on the page for the service's own address."""
EXAMPLES = examples(PAGE)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with service_process() as url:
        yield url


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Page]:
    with browser_page(url) as page:
        yield page


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language != "javascript"], ids=str)
def test_what_is_to_be_run_prints_what_the_page_says(example: Example, url: str, tmp_path: Path) -> None:
    example.run({ADDRESS: url.removeprefix("http://")}, tmp_path)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language == "javascript"], ids=str)
def test_what_a_browser_runs_prints_what_the_page_says(example: Example, page: Page) -> None:
    example.run_in(page)


def test_the_page_speaks_three_languages_and_names_one_address() -> None:
    assert {example.language for example in EXAMPLES} == {"bash", "python", "javascript"}
    assert addresses(PAGE) == {ADDRESS}
