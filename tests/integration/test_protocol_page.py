"""Every example of docs/protocol.md is run, and does what the page says."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Error, Page, sync_playwright

from tests.e2e.conftest import BROWSERS, FLAGS
from tests.service_process import service_process

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "protocol.md"
ADDRESS = "127.0.0.1:7860"
"""What stands on the page for the service's own address."""
RUN_S = 60.0


@dataclass(frozen=True)
class Example:
    """A block of code, and what the page says that it prints."""

    line: int
    language: str
    code: str
    printed: str

    def check(self, output: str) -> None:
        """Compare; `…` on the page stands for anything."""
        pattern = ".*".join(map(re.escape, self.printed.rstrip("\n").split("…")))
        assert re.fullmatch(pattern, output.rstrip("\n"), re.DOTALL), f"{self.code}\nprinted\n{output}"


def examples(*languages: str) -> list[Example]:
    blocks = [token for token in MarkdownIt().parse(PAGE.read_text(encoding="utf-8")) if token.type == "fence"]
    found = []
    for block, printed in zip(blocks, [*blocks[1:], None], strict=True):
        if block.info != "text":
            assert printed is not None and printed.info == "text", (
                f"what does the example before this print? {block.map}"
            )
            assert block.map is not None
            found.append(Example(block.map[0] + 1, block.info, block.content, printed.content))
    assert {example.language for example in found} == {"bash", "python", "javascript"}
    return [example for example in found if example.language in languages]


def named(example: Example) -> str:
    return f"{example.language} on line {example.line}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with service_process() as url:
        yield url


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Page]:
    """A browser's page of the service's own origin."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        except Error as error:
            pytest.fail(f"no Chromium to test with: install the package chromium ({error.message})", pytrace=False)
        page = browser.new_page()
        page.goto(f"{url}/healthz")
        yield page
        browser.close()


@pytest.mark.parametrize("example", examples("bash", "python"), ids=named)
def test_what_is_to_be_run_prints_what_the_page_says(example: Example, url: str, tmp_path: Path) -> None:
    program = {"bash": ["bash", "-euc"], "python": [sys.executable, "-W", "error", "-c"]}[example.language]
    code = example.code.replace(ADDRESS, url.removeprefix("http://"))
    done = subprocess.run(
        [*program, code], cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    example.check(done.stdout)


@pytest.mark.parametrize("example", examples("javascript"), ids=named)
def test_what_a_browser_runs_prints_what_the_page_says(example: Example, page: Page) -> None:
    printing = "const printed = [], console = { log: (...words) => printed.push(words.join(' ')) };"
    example.check(page.evaluate(f"async () => {{ {printing}\n{example.code}\nreturn printed.join('\\n'); }}"))


def test_the_page_uses_one_address_only() -> None:
    addresses = set(re.findall(r"(?:http|ws)://([^/\s\"`$]+)", PAGE.read_text(encoding="utf-8")))
    assert addresses == {ADDRESS}
