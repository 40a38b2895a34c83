"""Create the screenshots in docs/images: start `app.py`, send requests to the local model, and capture the page.

Also draw the page's icon and the picture of links to it, from docs/icon.svg and docs/preview.html.

    python docs/screenshots.py

Requires Playwright and Chromium or Google Chrome on the path. The answers are the model's real output.
"""

import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
STATIC = ROOT / "ui" / "static"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
START_S = 120.0
ANSWER_MS = 120_000
LARGEST_BYTES = 300_000
QUESTION = "Give me three tips for a good night's sleep."


@dataclass(frozen=True)
class Screenshot:
    """One screenshot of a tab: the upper `height` pixels of its page in a window of `window_height` (`height`).

    `moment` is when the Chat tab's is taken.
    """

    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int
    tab: str = "Chat"
    moment: Literal["first", "streaming", "done"] = "done"
    window_height: int | None = None


SCREENSHOTS = (
    Screenshot("first-view", "light", 1280, 800, moment="first"),
    Screenshot("chat-light", "light", 1280, 800),
    Screenshot("chat-dark", "dark", 1280, 800, moment="streaming"),
    Screenshot("chat-phone", "light", 390, 844),
    Screenshot("compare", "light", 1280, 1320, "Compare", window_height=720),
    Screenshot("pipeline", "dark", 1280, 1330, "Pipeline", window_height=720),
    Screenshot("results", "light", 1440, 1100, "Results"),
)


def main() -> int:
    """Take all screenshots; return the exit code, 1 if one is larger than `LARGEST_BYTES`."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with _run_service() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        _draw_link_pictures(browser)
        sizes = {screenshot.name: _take_screenshot(browser, address, screenshot) for screenshot in SCREENSHOTS}
        browser.close()
    for name, size in sizes.items():
        sys.stdout.write(f"docs/images/{name}.png {size / 1000:.0f} kB\n")
    return 0 if max(sizes.values()) <= LARGEST_BYTES else 1


def _draw_link_pictures(browser: Browser) -> None:
    """Draw the icon and the picture of links, which do not depend on the service."""
    page = browser.new_page(viewport={"width": 1200, "height": 630})
    page.goto((ROOT / "docs" / "preview.html").as_uri())
    page.screenshot(path=STATIC / "preview.png")
    page.set_viewport_size({"width": 192, "height": 192})
    icon = (ROOT / "docs" / "icon.svg").read_text(encoding="utf-8")
    page.set_content(f"<style>* {{ margin: 0 }} svg {{ display: block }}</style>{icon}")
    page.screenshot(path=STATIC / "icon.png", omit_background=True)
    page.close()


def _take_screenshot(browser: Browser, address: str, screenshot: Screenshot) -> int:
    """Take a screenshot of one tab; return the file's size in bytes."""
    page = browser.new_page(
        viewport={"width": screenshot.width, "height": screenshot.window_height or screenshot.height},
        color_scheme=screenshot.scheme,
        reduced_motion="reduce",
    )
    page.goto(address)
    page.locator(".sg-first").wait_for(timeout=ANSWER_MS)
    page.get_by_label("Settings").first.wait_for(state="attached", timeout=ANSWER_MS)
    _RUNNERS[screenshot.tab](page, screenshot)
    path = IMAGES / f"{screenshot.name}.png"
    area = {"x": 0.0, "y": 0.0, "width": float(screenshot.width), "height": float(screenshot.height)}
    page.screenshot(path=path, full_page=True, clip=area)
    page.close()
    return path.stat().st_size


def _run_chat(page: Page, screenshot: Screenshot) -> None:
    box = page.locator("#sg-message textarea")
    if screenshot.moment == "first":
        return
    box.fill(QUESTION)
    box.press("Enter")
    page.locator('#sg-chat [data-testid="bot"]').first.wait_for(timeout=ANSWER_MS)
    if screenshot.moment == "streaming":
        page.wait_for_function(
            """() => [...document.querySelectorAll('#sg-chat [data-testid="bot"]')].at(-1).innerText.length > 200
                  || document.querySelector("#sg-message .stop-button") === null""",
            timeout=ANSWER_MS,
        )
    else:
        page.locator("#sg-chat .thought-group").first.wait_for(timeout=ANSWER_MS)
        page.locator("#sg-message button.submit-button").wait_for(timeout=ANSWER_MS)


def _run_compare(page: Page, screenshot: Screenshot) -> None:
    page.get_by_role("button", name="Compare two answers").click()
    page.locator("#sg-compare-results table").first.wait_for(timeout=ANSWER_MS)
    page.locator("#sg-tab-compare .js-plotly-plot").nth(2).wait_for(timeout=ANSWER_MS)


def _run_pipeline(page: Page, screenshot: Screenshot) -> None:
    page.get_by_role("button", name="Break the stream").click()
    page.locator("#sg-buffering figure").first.wait_for(timeout=ANSWER_MS)


def _run_results(page: Page, screenshot: Screenshot) -> None:
    page.get_by_role("tab", name=screenshot.tab, exact=True).click()
    page.locator("#sg-run-headline p").first.wait_for(timeout=ANSWER_MS)
    page.locator("#sg-run-picker input").click()
    page.get_by_role("option", name="Sample run").click()
    page.locator(".js-plotly-plot").nth(3).wait_for(timeout=ANSWER_MS)
    page.get_by_role("listbox").wait_for(state="hidden")


_RUNNERS = {"Chat": _run_chat, "Compare": _run_compare, "Pipeline": _run_pipeline, "Results": _run_results}


@contextmanager
def _run_service() -> Iterator[str]:
    """Run the service on a free port; yield its URL."""
    process = subprocess.Popen([sys.executable, "app.py", "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()  # type: ignore[union-attr]  # stdout is a pipe
    try:
        line = lines.get(timeout=START_S)
        if "http://" not in line:
            raise SystemExit(f"app.py did not come up: {line}")
        yield line[line.index("http://") :].strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
