"""Any chat page by its CSS selectors: what it must show before a question, and when its answer has ended."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evaluation.backends.base import TrialRequest
from evaluation.backends.service_decoder import ServiceOutcome
from evaluation.transports import PageSelectors
from streaming.clock import Clock
from streaming.errors import FirstContentTimeout, NetworkError, UsageError
from streaming.events import TimedEvent
from streaming.session import Timeouts

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page

_POLL_S = 0.1
_FIND_OBSTACLE = """selector => {
  const found = [...document.querySelectorAll(selector)].flatMap((one) => [one, ...one.querySelectorAll("*")]);
  if (found.some((one) => one.shadowRoot)) return "its text is inside a shadow root, where it is not seen";
  if (found.some((one) => one.matches("iframe"))) return "its text is inside a frame (write its address as --page-url)";
  return found.some((one) => one.matches("canvas")) ? "its text is drawn on a canvas, where it is not seen" : null;
}"""
_IS_SELECTOR = "selector => { document.createDocumentFragment().querySelector(selector); }"


@dataclass(slots=True)
class PageAnswer:
    """What a page says of its answer after the end; all times are on the page's own clock, in seconds.

    `events` are those that reached the browser, None for a page whose events are not known.
    """

    sent_s: float | None = None
    events: list[TimedEvent] | None = None
    outcome: ServiceOutcome = field(default_factory=ServiceOutcome)
    headers_s: float | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class PageTimeouts:
    """How long a page may take to show what its selectors name, and the first text of its answer, in seconds.

    An answer without a Stop button has ended when its text has not changed for `quiet_s`.
    """

    element_s: float = 30.0
    first_text_s: float = Timeouts().first_content_s
    quiet_s: float = 3.0


class SelectedPage:
    """Any chat page, by its selectors. It shows text alone: how an answer ended is not known, only that it did."""

    def __init__(
        self,
        selectors: PageSelectors,
        clock: Clock,
        call: TrialRequest,
        name: str = "--page-url",
        timeouts: PageTimeouts | None = None,
    ) -> None:
        turns = call.request.messages
        if len(turns) > 1 or call.request.temperature is not None or call.request.effort is not None:
            raise UsageError(
                f"{name}: the page asks one question with its own settings (leave out temperature, effort, system "
                "prompts and earlier turns, or use --transport browser)"
            )
        self.answer, self.stop_marker = selectors.answer, selectors.stop
        self._selectors, self._clock, self._prompt, self._name = selectors, clock, turns[-1].content, name
        self._timeouts = timeouts or PageTimeouts()

    async def open(self, page: "Page") -> None:
        """Load the page and wait for its text box. Raises UsageError unless the selectors fit the page."""
        from playwright.async_api import Error

        url = self._selectors.url
        try:
            await page.goto(url)
        except Error as error:
            raise UsageError(f"{self._name}: {url} cannot be loaded, {_first_line(error)} (check it)") from None
        box = await self._find_one(page, self._selectors.box, "text box", "--page-box")
        try:
            await box.is_editable()
        except Error as error:
            raise UsageError(f"--page-box: {self._selectors.box!r} is no text box, {_first_line(error)}") from None
        await self._check_selector(page, self.answer, "--page-answer")
        if self.stop_marker is None:
            return
        await self._check_selector(page, self.stop_marker, "--page-stop")
        if await page.evaluate("selector => document.querySelector(selector) !== null", self.stop_marker):
            raise UsageError(
                f"--page-stop: {self.stop_marker!r} matches before a question is sent (write a selector that matches "
                "only while an answer runs, such as #stop:not([hidden]))"
            )

    async def send(self, page: "Page", call: TrialRequest) -> float:
        """Fill in the prompt and send it. Raises UsageError when the page does not let that be done."""
        from playwright.async_api import Error

        button = self._selectors.send
        try:
            await self._box(page).fill(self._prompt)
            if button is None:
                await self._box(page).focus()
                at_s = self._clock()
                await page.keyboard.press("Enter")
                return at_s
            found = await self._find_one(page, button, "Send button", "--page-send")
            at_s = self._clock()
            await found.click()
        except Error as error:
            raise UsageError(f"{self._name}: the page takes no question, {_first_line(error)}") from None
        return at_s

    async def read_answer(self, page: "Page") -> PageAnswer:
        """Wait until the Stop button has gone, or the text has not changed for some seconds.

        Raises UsageError when the page is loaded anew or never shows its Stop button, FirstContentTimeout without text.
        """
        from playwright.async_api import Error

        until_s = self._clock() + self._timeouts.first_text_s
        while True:
            try:
                state = await page.evaluate("streamgaugeObserver.state()")
            except Error as error:
                raise NetworkError(f"the page went away before the answer ended, {_first_line(error)}") from None
            if self._has_ended(state):
                return PageAnswer()
            if not state["chars"] and self._clock() > until_s:
                raise await self._explain_missing_answer(page)
            await asyncio.sleep(_POLL_S)

    async def press_stop(self, page: "Page") -> None:
        """Press Stop as soon as the page has it: some pages show it late."""
        if self.stop_marker is not None:
            await page.locator(self.stop_marker).first.click(timeout=0)

    async def focus_box(self, page: "Page") -> None:
        """Put the cursor into the text box."""
        await self._box(page).focus()

    def _box(self, page: "Page") -> "Locator":
        return _visible(page, self._selectors.box)

    def _has_ended(self, state: dict[str, Any]) -> bool:
        if not state["armed"]:
            raise UsageError(
                f"{self._name}: the page was loaded anew when it was asked (only pages that stay are read)"
            )
        is_quiet = bool(state["chars"]) and state["quiet_ms"] >= self._timeouts.quiet_s * 1e3
        if self.stop_marker is None:
            return is_quiet
        if is_quiet and not state["hasRun"]:
            raise UsageError(
                f"--page-stop: {self.stop_marker!r} matched nothing while the answer came (check it, or leave it out)"
            )
        return bool(state["ended"])

    async def _find_one(self, page: "Page", selector: str, what: str, option: str) -> "Locator":
        """Wait for the one visible element of a selector. Raises UsageError when there is none, or more than one."""
        from playwright.async_api import Error

        found = _visible(page, selector)
        try:
            await found.first.wait_for(timeout=self._timeouts.element_s * 1e3)
            count = await found.count()
        except Error as error:
            place = await _find_in_frames(page, selector)
            raise UsageError(
                f"{option}: {self._selectors.url} does not show {selector!r}, {place or _first_line(error)} (check the "
                f"address, and the selector of its {what})"
            ) from None
        if count > 1:
            raise UsageError(
                f"{option}: {selector!r} matches {count} visible elements (write one that matches the {what})"
            )
        return found

    async def _check_selector(self, page: "Page", selector: str, option: str) -> None:
        from playwright.async_api import Error

        try:
            await page.evaluate(_IS_SELECTOR, selector)
        except Error:
            raise UsageError(f"{option}: {selector!r} is not a CSS selector (write one such as .answer)") from None

    async def _explain_missing_answer(self, page: "Page") -> Exception:
        """Return the error of an answer without text: where the selector's elements are, if they cannot be read."""
        obstacle = await page.evaluate(_FIND_OBSTACLE, self.answer)
        if obstacle is not None:
            return UsageError(f"--page-answer: {self.answer!r} has no text, {obstacle}")
        place = await _find_in_frames(page, self.answer)
        if place is None and await page.locator(self.answer).count():
            count = await page.evaluate("selector => document.querySelectorAll(selector).length", self.answer)
            place = None if count else "its elements are inside a shadow root, where text is not seen"
        if place is not None:
            return UsageError(f"--page-answer: {self.answer!r} matches no element of the page, {place}")
        return FirstContentTimeout(
            f"the page: no text in {self.answer!r} within {self._timeouts.first_text_s:g} s (check --page-answer)"
        )


def _visible(page: "Page", selector: str) -> "Locator":
    return page.locator(selector).locator("visible=true")


async def _find_in_frames(page: "Page", selector: str) -> str | None:
    """Return where a selector matches an element if that is in a frame of the page alone; None if it is not."""
    from playwright.async_api import Error

    for frame in page.frames[1:]:
        try:
            if await frame.locator(selector).count():
                return f"its elements are inside the frame {frame.url} (write that address as --page-url)"
        except Error:
            continue  # the frame went away, or this is no selector
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
