"""Examples in the documentation: extracted, run, and compared with the documented output."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Error, Page, sync_playwright

from evaluation.backends.browser.chromium import find_chromium
from tests.e2e.conftest import FLAGS

ROOT = Path(__file__).parents[1]
RUN_TIMEOUT_S = 300.0
"""A bound for an example that hangs: how long one takes on a busy machine says nothing about it."""
_PROGRAMS = {"bash": ["bash", "-euc"], "python": [sys.executable, "-W", "error", "-c"]}
_PRINTING = "const printed = [], console = { log: (...words) => printed.push(words.join(' ')) };"
_ADDRESS = re.compile(r"(?:http|ws)://([^/\s\"`$]+)")


@dataclass(frozen=True)
class PageExample:
    """A block of code and its documented output, which is the block after it."""

    page: Path
    line: int
    language: str
    code: str
    printed: str

    def __str__(self) -> str:
        return f"{self.page.stem}, {self.language} on line {self.line}"

    def run(self, addresses: Mapping[str, str], folder: Path) -> None:
        """Run the example in `folder`, with the page's addresses replaced, and compare its output."""
        code = self.code
        for written, real in addresses.items():
            code = code.replace(written, real)
        done = subprocess.run(
            [*_PROGRAMS[self.language], code], cwd=folder, capture_output=True, text=True, timeout=RUN_TIMEOUT_S,
                check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), self.code
        self._compare(done.stdout)

    def run_in(self, browser_page: Page) -> None:
        """Run the example in a browser and compare its console output."""
        script = f"async () => {{ {_PRINTING}\n{self.code}\nreturn printed.join('\\n'); }}"
        self._compare(browser_page.evaluate(script))

    def _compare(self, output: str) -> None:
        """Compare the output with the documented one, in which `…` matches anything."""
        pattern = ".*".join(map(re.escape, self.printed.rstrip("\n").split("…")))
        assert re.fullmatch(pattern, output.rstrip("\n"), re.DOTALL), f"{self.code}\nprinted\n{output}"


def parse_examples(page: Path) -> list[PageExample]:
    """Return a page's examples in order; every block of code is an example or the output of one."""
    blocks = [token for token in MarkdownIt().parse(page.read_text(encoding="utf-8")) if token.type == "fence"]
    result = []
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        assert block.map is not None
        line = block.map[0] + 1
        if block.info != "text":
            assert block.info in (*_PROGRAMS, "javascript"), f"{page.name}, line {line}: what is {block.info!r}?"
            assert after is not None and after.info == "text", f"{page.name}, line {line}: what does it print?"
            result.append(PageExample(page, line, block.info, block.content, after.content))
    return result


def find_addresses(page: Path) -> set[str]:
    """Return the hosts with ports on a page."""
    return set(_ADDRESS.findall(page.read_text(encoding="utf-8")))


@contextmanager
def open_browser_page(url: str) -> Iterator[Page]:
    """Return a browser page at the origin of `url`."""
    path = find_chromium()
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        except Error as error:
            pytest.fail(f"no Chromium to test with: install the package chromium ({error.message})", pytrace=False)
        page = browser.new_page()
        page.goto(f"{url}/healthz")
        yield page
        browser.close()
