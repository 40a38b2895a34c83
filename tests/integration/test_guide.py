"""Every example of the guide is run, and does what its page says; the two servers are started as the guide says."""

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Page

from tests.page_examples import ROOT, Example, addresses, browser_page, examples
from tests.service_process import service_process
from tests.simulator_process import simulator_process

GUIDE = ROOT / "docs" / "guide"
INDEX = GUIDE / "README.md"
PAGES = sorted(GUIDE.glob("*.md"))
SERVICE, SIMULATOR = "127.0.0.1:7860", "127.0.0.1:9200"
"""What stands in the guide for the addresses of the two servers."""
EXAMPLES = [example for page in PAGES for example in examples(page)]


@pytest.fixture(scope="module")
def real() -> Iterator[Mapping[str, str]]:
    """Where the two servers are, by what stands in the guide."""
    said = re.search(r"python -m simulator --port 9200 (.*)", INDEX.read_text(encoding="utf-8"))
    assert said, "the guide says how to start the simulator"
    with service_process() as service, simulator_process(*shlex.split(said[1])) as simulator:
        yield {SERVICE: service.removeprefix("http://"), SIMULATOR: simulator.removeprefix("http://")}


@pytest.fixture(scope="module")
def browser(real: Mapping[str, str]) -> Iterator[Page]:
    with browser_page(f"http://{real[SERVICE]}") as page:
        yield page


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language != "javascript"], ids=str)
def test_what_is_to_be_run_prints_what_the_page_says(example: Example, real: Mapping[str, str], tmp_path: Path) -> None:
    example.run(real, tmp_path)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language == "javascript"], ids=str)
def test_what_a_browser_runs_prints_what_the_page_says(example: Example, browser: Page) -> None:
    example.run_in(browser)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_chapter_is_short_has_examples_and_names_no_other_address(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 150
    assert examples(page)
    assert addresses(page) <= {SERVICE, SIMULATOR}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_a_page_and_a_heading_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not heading or heading in headings(linked), target


def headings(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    said = [inline.content for token, inline in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in said}


def test_the_index_has_every_chapter() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", INDEX.read_text(encoding="utf-8")))
    assert linked == {page.name for page in PAGES} - {INDEX.name}
