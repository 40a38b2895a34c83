"""Every example of the guide runs as documented; the two servers are started as the guide describes."""

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Page

from tests.page_examples import ROOT, PageExample, find_addresses, open_browser_page, parse_examples
from tests.service_process import run_service_process
from tests.simulator_process import run_simulator_process

GUIDE = ROOT / "docs" / "guide"
INDEX = GUIDE / "README.md"
PAGES = sorted(GUIDE.glob("*.md"))
SERVICE, SIMULATOR = "127.0.0.1:7860", "127.0.0.1:9200"
"""The addresses of the two servers as written in the guide."""
EXAMPLES = [example for page in PAGES for example in parse_examples(page)]


@pytest.fixture(scope="module")
def real_addresses() -> Iterator[Mapping[str, str]]:
    """Yield the real addresses of the two servers by the addresses in the guide."""
    match = re.search(r"python -m simulator --port 9200 (.*)", INDEX.read_text(encoding="utf-8"))
    assert match, "the guide says how to start the simulator"
    with run_service_process() as service, run_simulator_process(*shlex.split(match[1])) as simulator:
        yield {SERVICE: service.removeprefix("http://"), SIMULATOR: simulator.removeprefix("http://")}


@pytest.fixture(scope="module")
def browser_tab(real_addresses: Mapping[str, str]) -> Iterator[Page]:
    with open_browser_page(f"http://{real_addresses[SERVICE]}") as page:
        yield page


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language != "javascript"], ids=str)
def test_guide_example_prints_documented_output(
    example: PageExample, real_addresses: Mapping[str, str], tmp_path: Path
) -> None:
    example.run(real_addresses, tmp_path)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language == "javascript"], ids=str)
def test_guide_browser_example_prints_documented_output(example: PageExample, browser_tab: Page) -> None:
    example.run_in(browser_tab)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_guide_chapter_is_short_has_examples_and_only_known_addresses(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 150
    assert parse_examples(page)
    assert find_addresses(page) <= {SERVICE, SIMULATOR}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_guide_links_point_to_existing_pages_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not heading or heading in heading_anchors(linked), target


def heading_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub generates them."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    output = [inline.content for token, inline in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in output}


def test_guide_index_links_every_chapter() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", INDEX.read_text(encoding="utf-8")))
    assert linked == {page.name for page in PAGES} - {INDEX.name}
