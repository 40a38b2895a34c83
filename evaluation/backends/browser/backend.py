"""The backend whose reader is a real browser: from the provider's bytes to the presented frame."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from evaluation.backends.base import (
    Instrument,
    RunResources,
    TimedResponse,
    Timing,
    TrialRequest,
    elapsed_s,
    receipt_from_events,
)
from evaluation.backends.browser.calibration import measure_painting_error
from evaluation.backends.browser.chromium import TracedPage, running_chromium, traced_page
from evaluation.backends.browser.pages import ChatPage, PlainPage, ReadingPage
from evaluation.backends.browser.painting import page_figures, painted_events, stop_painted_s
from evaluation.backends.browser.selected_page import PageAnswer, SelectedPage
from evaluation.backends.browser.trace import PageTrace
from evaluation.backends.service import chat_params
from evaluation.backends.service_decoder import ending_columns, receipt_from_service
from evaluation.metrics.trial_metrics import TimedEvents, outcome_columns
from evaluation.transports import BrowserTransport
from streaming.errors import TotalTimeout, UsageError
from streaming.events import Failed, Finish, TimedEvent
from streaming.http.timed_exchange import Gate
from streaming.pipeline import Receipt
from streaming.recording import Recording, recording_names, take_recording
from streaming.session import Timeouts

if TYPE_CHECKING:
    from playwright.async_api import Browser

_ANSWER_TIMEOUT_S = Timeouts().total_s + 30.0
"""The longest time of an answer; the service gives up first."""
_KEY_PRESSES = 3
_KEY_INTERVAL_S = 0.5
_SETTLE = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100))))"
"""Waits until the frame with the last text has been presented."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One answer as a browser read it; times are on this process's clock but in `trace`, whose offset is known."""

    sent_s: float
    answer: PageAnswer
    text: str
    trace: PageTrace
    offset_s: float
    error_s: float
    layout_shift: float
    fade_in_s: float
    recording: Recording | None


class BrowserBackend:
    """Reads answers on a page in Chromium, one at a time, so that no other page takes the processor."""

    timing: Timing = "browser"

    def __init__(self, resources: RunResources) -> None:
        self._resources = resources
        self._browser: Browser | None = None
        self._turn = asyncio.Lock()
        self._page_error: UsageError | None = None

    async def prepare(self, call: TrialRequest) -> None:
        """Start Chromium, measure the error of painting and look at the page of `--page-url`, once for a run."""
        page = self._page_of(call)
        async with self._turn:
            if self._browser is None:
                browser = await self._resources.exit_stack.enter_async_context(running_chromium())
                self._resources.facts["painting"] = await measure_painting_error(browser, self._resources.clock)
                self._browser = browser
                if self._resources.page is not None:
                    self._page_error = await self._check_page(page)
        if self._page_error is not None:
            raise self._page_error

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        """Ask on a new page and return the response as the page showed it."""
        if gate is not None:
            await gate()
        async with self._turn:
            reading = await self._read(call)
        return self._response(call, reading)

    def _page_of(self, call: TrialRequest) -> ReadingPage:
        way, resources = BrowserTransport.parse(call.transport), self._resources
        if way.page == "plain":
            return PlainPage(resources.service, way.columns, chat_params(call))
        if way.page == "chat":
            return ChatPage(resources.service.url, resources.clock, call)
        assert resources.page is not None  # a scenario with this transport has one
        return SelectedPage(resources.page, resources.clock, call)

    async def _check_page(self, page: ReadingPage) -> UsageError | None:
        """Return why a page cannot be read by its selectors; None if it can."""
        assert self._browser is not None  # `prepare` has started it
        tab = await self._browser.new_page()
        try:
            await page.open(tab)
        except UsageError as error:
            return error
        finally:
            await tab.close()
        return None

    async def _read(self, call: TrialRequest) -> _Reading:
        way, page = BrowserTransport.parse(call.transport), self._page_of(call)
        assert self._browser is not None  # `prepare` has started it
        traced = traced_page(
            self._browser, self._resources.clock, answer=page.answer, stop=page.stop_marker, cpu=way.cpu
        )
        async with traced as shown:
            await page.open(shown.page)
            await page.focus_box(shown.page)
            known = self._recording_names()
            await shown.start()
            await shown.page.evaluate("streamgaugeObserver.arm()")
            sent_s = await page.send(shown.page, call)
            answer = await self._read_to_end(page, shown)
            await shown.page.evaluate(_SETTLE)
            state = await shown.page.evaluate("streamgaugeObserver.state()")
            trace, offset_s, error_s = await shown.stop()
        if sent_s is None:
            sent_s = trace.find_marks("sent")[-1].at_s + offset_s
        recording = self._find_recording(call, known)
        fade_in_s = state["fade"] / 1e3
        return _Reading(sent_s, answer, state["text"], trace, offset_s, error_s, state["shift"], fade_in_s, recording)

    async def _read_to_end(self, page: ReadingPage, shown: TracedPage) -> PageAnswer:
        """Read the answer while a reader types, and press Stop when it is due."""

        async def press_stop(after_s: float) -> None:
            await shown.page.wait_for_function("streamgaugeObserver.state().chars > 0")
            await asyncio.sleep(after_s)
            await page.press_stop(shown.page)

        others = [asyncio.create_task(_type_while_reading(shown))]
        if self._resources.stop_after_s is not None:
            others.append(asyncio.create_task(press_stop(self._resources.stop_after_s)))
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return await page.read_answer(shown.page)
        except TimeoutError:
            raise TotalTimeout(f"the page: the answer did not end within {_ANSWER_TIMEOUT_S:g} s") from None
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def _response(self, call: TrialRequest, reading: _Reading) -> TimedResponse:
        trace, answer = reading.trace, reading.answer
        arrived = _on_our_clock(answer.events, trace.page_origin_s + reading.offset_s)
        painted = painted_events(trace, reading.text, reading.offset_s, is_preformatted=arrived is not None)
        recording = reading.recording
        until_s = painted[-1].at_s if painted else self._resources.clock()
        source, delivered = _select_ends(recording, arrived, painted, until_s)
        stamps = TimedEvents(reading.sent_s, source, delivered, painted=painted)
        figures = page_figures(trace, reading.sent_s - reading.offset_s, until_s - reading.offset_s)
        receipt, ending = self._ending(call, stamps, arrived, answer)
        columns = asdict(figures) | {
            "clock_error_s": reading.error_s,
            "layout_shift": reading.layout_shift,
            "fade_in_s": reading.fade_in_s,
            "stop_painted_s": stop_painted_s(trace),
        }
        headers_s = None
        if answer.headers_s is not None:
            headers_s = elapsed_s(reading.sent_s, answer.headers_s + trace.page_origin_s + reading.offset_s)
        how = Instrument("browser" if recording is None else "service", headers_s=headers_s)
        return TimedResponse(
            stamps, receipt.outcome, receipt.reading.usage, ending | columns, how, answer.retry_after_s
        )

    def _ending(
        self, call: TrialRequest, stamps: TimedEvents, arrived: Sequence[TimedEvent] | None, answer: PageAnswer
    ) -> tuple[Receipt, dict[str, Any]]:
        cost_model = self._resources.access.cost_model(call.provider)
        if arrived is None:
            shown = receipt_from_events(call, stamps.delivered, stamps.delivered, stamps.sent_s, cost_model)
            receipt = _mark_stopped(shown, stamps.delivered)
            return receipt, outcome_columns(receipt)
        client = replace(stamps, source=None, delivered=arrived)
        receipt = _mark_stopped(receipt_from_service(call, client, answer.outcome, cost_model), arrived)
        return receipt, ending_columns(receipt, answer.outcome)

    def _recording_names(self) -> frozenset[str]:
        """Return the answers that the service has recorded where this process can read them."""
        if self._resources.page is not None or self._resources.service.recordings is None:
            return frozenset()
        return recording_names(self._resources.service.recordings)

    def _find_recording(self, call: TrialRequest, known: frozenset[str]) -> Recording | None:
        """Return what the service recorded of the answer; None if there is nothing, or no way to tell which.

        The chat of the page sends no request id of the run: there it is the one recording that is new.
        """
        new = self._recording_names() - known
        name = call.request_id if call.request_id in new or len(new) != 1 else next(iter(new))
        if name not in new:
            return None
        assert self._resources.service.recordings is not None  # it has recordings
        return take_recording(self._resources.service.recordings, name)


async def _type_while_reading(shown: TracedPage) -> None:
    """Press a key now and then once the answer has begun, as a reader who types the next question does."""
    await shown.page.wait_for_function("streamgaugeObserver.state().chars > 0")
    for _ in range(_KEY_PRESSES):
        await asyncio.sleep(_KEY_INTERVAL_S)
        await shown.page.keyboard.press("a")


def _on_our_clock(events: Sequence[TimedEvent] | None, origin_s: float) -> list[TimedEvent] | None:
    return None if events is None else [replace(timed, at_s=timed.at_s + origin_s) for timed in events]


def _select_ends(
    recording: Recording | None, arrived: list[TimedEvent] | None, painted: list[TimedEvent], ended_s: float
) -> tuple[Sequence[TimedEvent] | None, Sequence[TimedEvent]]:
    """Return the events at both ends: the service's own, or else those at the browser, or else the painted text."""
    if recording is not None:
        return recording.source, _add_missing_end(recording.delivered, ended_s)
    if arrived is not None:
        return None, arrived
    return None, [*painted, TimedEvent(ended_s, Finish("other"))]


def _mark_stopped(receipt: Receipt, events: Sequence[TimedEvent]) -> Receipt:
    """Return the receipt with the outcome of an answer that was stopped on the page, if it was."""
    last = events[-1].event
    is_stopped = isinstance(last, Failed) and last.kind == "cancelled"
    return replace(receipt, outcome="cancelled") if is_stopped else receipt


def _add_missing_end(events: Sequence[TimedEvent], ended_s: float) -> Sequence[TimedEvent]:
    """Return the events with the end that an answer has which was stopped: its recording breaks off."""
    if events and isinstance(events[-1].event, (Finish, Failed)):
        return events
    stopped = Failed("cancelled", "stopped on the page")
    return [*events, TimedEvent(events[-1].at_s if events else ended_s, stopped)]
