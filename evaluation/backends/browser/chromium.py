"""Chromium under Playwright: finding it, opening pages, and tracing one page at a time."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.backends.browser.trace import CATEGORIES, PageTrace, parse_trace
from streaming.clock import Clock
from streaming.errors import UsageError

if TYPE_CHECKING:
    from playwright.async_api import Browser, CDPSession, Page

HEADLESS_NAMES = ("chromium-headless-shell", "chrome-headless-shell")
"""Chromium without the parts of a window: the same pages for about half the processor time."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", *HEADLESS_NAMES)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--window-size=1280,800"
)  # fmt: skip
_OBSERVER = Path(__file__).parent / "assets" / "observer.js"
_SYNC_MARKS = 8
_INSTALL = "pip install playwright, and a Chromium: apt install chromium, or playwright install chromium"


def find_chromium() -> str | None:
    """Return the path of the system's Chromium; None if it has none and Playwright's own is to be used.

    Raises UsageError when Playwright is not installed.
    """
    if find_spec("playwright") is None:
        raise UsageError(f"--transport browser: needs Playwright ({_INSTALL})")
    return next(filter(None, map(shutil.which, NAMES)), None)


@asynccontextmanager
async def running_chromium() -> AsyncIterator["Browser"]:
    """Yield a headless Chromium. Raises UsageError when it cannot be started."""
    path = find_chromium()
    from playwright.async_api import Error, async_playwright

    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except Error as error:
            reason = error.message.strip().splitlines()[0]
            raise UsageError(f"--transport browser: Chromium does not start, {reason} ({_INSTALL})") from None
        try:
            yield browser
        finally:
            await browser.close()


async def require_chromium() -> None:
    """Raise UsageError unless a Chromium can be started here."""
    async with running_chromium():
        pass


@dataclass(slots=True)
class ClockBounds:
    """What is known of the difference between the trace's clock and this process's, in seconds.

    Each mark was made between two readings of this process's clock; the trace's timestamp plus the offset lies there.
    """

    spans: list[tuple[float, float]] = field(default_factory=list)
    """The readings before and after each mark."""

    def offset_s(self, trace: PageTrace) -> tuple[float, float]:
        """Return the offset to add to the trace's timestamps, and its error.

        On Linux both clocks are CLOCK_MONOTONIC: the offset is 0 wherever 0 is possible, and the error is the width of
        what the marks allow around it.
        """
        marks = trace.find_marks("sync")
        pairs = list(zip(self.spans, marks, strict=False))
        least = max((before - mark.at_s for (before, _), mark in pairs), default=0.0)
        most = min((after - mark.at_s for (_, after), mark in pairs), default=0.0)
        if least <= 0.0 <= most:
            return 0.0, max(-least, most)
        return (least + most) / 2, abs(most - least) / 2


class TracedPage:
    """One page with the observer in it, traced from `start` to `stop`; timestamps are on this process's `clock`."""

    def __init__(self, page: "Page", session: "CDPSession", clock: Clock) -> None:
        self.page = page
        self._session, self._clock = session, clock
        self._events: list[dict[str, Any]] = []
        self._complete = asyncio.Event()
        self._clocks = ClockBounds()
        session.on("Tracing.dataCollected", lambda data: self._events.extend(data["value"]))
        session.on("Tracing.tracingComplete", lambda _: self._complete.set())

    async def start(self) -> None:
        """Start the trace and compare the clocks."""
        config = {"includedCategories": list(CATEGORIES), "excludedCategories": ["*"]}
        await self._session.send("Tracing.start", {"transferMode": "ReportEvents", "traceConfig": config})
        for _ in range(_SYNC_MARKS):
            before_s = self._clock()
            await self.page.evaluate("streamgaugeObserver.sync()")
            self._clocks.spans.append((before_s, self._clock()))

    async def stop(self) -> tuple[PageTrace, float, float]:
        """End the trace; return it, the offset to add to its timestamps and the offset's error, in seconds."""
        await self._session.send("Tracing.end")
        await self._complete.wait()
        trace = parse_trace(self._events)
        return trace, *self._clocks.offset_s(trace)


@asynccontextmanager
async def traced_page(
    browser: "Browser", clock: Clock, *, answer: str, stop: str | None, cpu: int = 1
) -> AsyncIterator[TracedPage]:
    """Yield a new page whose answers match the CSS selector `answer`, with a processor `cpu` times slower."""
    # An emulated viewport is larger than its window by the bars of the browser, and what is below is never presented.
    page = await browser.new_page(no_viewport=True)
    try:
        selectors = json.dumps({"answer": answer, "stop": stop})
        observer = _OBSERVER.read_text(encoding="utf-8").replace("SELECTORS", selectors, 1)
        await page.add_init_script(script=observer)
        if cpu > 1:
            throttle = await page.context.new_cdp_session(page)
            await throttle.send("Emulation.setCPUThrottlingRate", {"rate": cpu})
        session = await browser.new_browser_cdp_session()
        try:
            yield TracedPage(page, session, clock)
        finally:
            await session.detach()
    finally:
        await page.close()
