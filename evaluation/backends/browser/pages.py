"""The pages on which a browser reads answers: our own that draws every event, and any other by its selectors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from clients.errors import ClientError
from evaluation.backends.base import ServiceTarget, TrialRequest
from evaluation.backends.browser.selected_page import PageAnswer, SelectedPage
from evaluation.backends.service_decoder import ServiceSSEDecoder
from evaluation.transports import PageSelectors
from providers.http.errors import parse_retry_after
from providers.http.transport import REQUEST_ID_HEADER
from streaming.clock import Clock
from streaming.errors import StreamError
from streaming.events import Event, Failed, Finish, TimedEvent

if TYPE_CHECKING:
    from playwright.async_api import Page, Route

_PLAIN = Path(__file__).parent / "assets" / "plain.html"
_PLAIN_PATH = "/streamgauge-plain-page"


class ReadingPage(Protocol):
    """A page on which one answer is asked for and read."""

    @property
    def answer(self) -> str:
        """The CSS selector of the answers."""

    @property
    def stop_marker(self) -> str | None:
        """The CSS selector of what is there only while an answer runs."""

    async def open(self, page: "Page") -> None:
        """Load the page. Raises UsageError when it is not the page that the selectors describe."""

    async def send(self, page: "Page", call: TrialRequest) -> float | None:
        """Ask; return when, on this process's clock, None where the page itself notes it."""

    async def read_answer(self, page: "Page") -> PageAnswer:
        """Wait for the end of the answer and return what the page says of it."""

    async def press_stop(self, page: "Page") -> None:
        """Press Stop as soon as the page has it, and while an answer runs; the observer marks when."""

    async def focus_box(self, page: "Page") -> None:
        """Put the cursor where a reader would type while the answer comes."""


class PlainPage:
    """Our page that draws every event as it comes; `columns` answers run on it, and the first is measured."""

    answer = "p.measured"
    stop_marker = "#stop:not([hidden])"

    def __init__(self, target: ServiceTarget, columns: int, body: Mapping[str, Any]) -> None:
        self._target, self._columns, self._body = target, columns, body

    async def open(self, page: "Page") -> None:
        """Load the page under the service's own address, so that it may call the service."""
        url = self._target.url + _PLAIN_PATH

        async def fulfill(route: "Route") -> None:
            await route.fulfill(body=_PLAIN.read_text(encoding="utf-8"), content_type="text/html; charset=utf-8")

        await page.route(url, fulfill)
        await page.goto(url)
        await page.unroute(url)

    async def send(self, page: "Page", call: TrialRequest) -> None:
        """Ask once for each column; the page marks the time in the trace."""
        await page.evaluate("requests => ask(requests)", [self._request(call, n) for n in range(self._columns)])

    async def read_answer(self, page: "Page") -> PageAnswer:
        """Return the events that reached the browser, decoded from what the page read."""
        return decode_reads(await page.evaluate("running"))

    async def press_stop(self, page: "Page") -> None:
        """Press Stop without moving a mouse, if the answer has not ended."""
        await page.evaluate("selector => document.querySelector(selector)?.click()", self.stop_marker)

    async def focus_box(self, page: "Page") -> None:
        """Put the cursor into the text box."""
        await page.focus("footer input")

    def _request(self, call: TrialRequest, column: int) -> dict[str, Any]:
        name = call.request_id if column == 0 else f"{call.request_id}-c{column + 1}"
        headers = {"content-type": "application/json", "accept": "text/event-stream", REQUEST_ID_HEADER: name}
        if (key := self._target.config.key) is not None:
            headers["authorization"] = f"Bearer {key}"
        path = self._target.url + "/api/chat"
        return {"path": path, "options": {"method": "POST", "headers": headers, "body": json.dumps(dict(self._body))}}


def decode_reads(answer: Mapping[str, Any]) -> PageAnswer:
    """Return the events of an answer that the plain page has read; times are those of the page's clock, in seconds."""
    decoder, events = ServiceSSEDecoder(), []
    ended_s, headers = answer["ended_ms"] / 1e3, answer["headers"]
    if not answer["status"]:
        failed = Failed("network", f"the page could not reach the service ({answer['fault']})")
        events.append(TimedEvent(ended_s, failed))
    elif answer["status"] >= 300:
        decoder.outcome.read_body("".join(text for _, text in answer["reads"]), answer["status"])
        failure = decoder.outcome.failure or Failed("server_error", "the service refused", answer["status"])
        events.append(TimedEvent(ended_s, failure))
    else:
        events = list(_iter_events(decoder, answer, ended_s))
    return PageAnswer(
        answer["sent_ms"] / 1e3,
        decoder.outcome.apply_to(events),
        decoder.outcome,
        answer["headers_ms"] / 1e3 if "headers_ms" in answer else None,
        parse_retry_after(headers),
    )


def _iter_events(decoder: ServiceSSEDecoder, answer: Mapping[str, Any], ended_s: float) -> Any:
    try:
        for at_ms, text in answer["reads"]:
            for event in decoder.feed(text.encode("utf-8", "surrogatepass")):
                yield TimedEvent(at_ms / 1e3, event)
                if isinstance(event, Finish):
                    return
        if answer["fault"] is None:
            decoder.flush()
        yield TimedEvent(ended_s, _explain_cut(answer["fault"]))
    except (StreamError, ClientError) as error:
        kind = error.kind if isinstance(error, StreamError) else "protocol"
        yield TimedEvent(ended_s, Failed(kind, str(error)))


def _explain_cut(fault: str | None) -> Event:
    if fault is not None and "AbortError" in fault:
        return Failed("cancelled", "stopped on the page")
    return Failed("truncated", f"the stream ended before the event that ends the answer ({fault or 'closed'})")


_CHAT_ANSWER = '#sg-chat [data-testid="bot"]:not(:has(.thought-group, .sg-who))'
_CHAT_BOX = "#sg-message textarea"
_CHAT_STOP = "#sg-message button.stop-button"
_IS_CHOSEN = """([provider, strategy]) =>
  document.querySelector("#sg-asked textarea")?.value === provider &&
  document.querySelector("#sg-asked-strategy textarea")?.value === strategy"""


class ChatPage(SelectedPage):
    """The chat of this project's own page, whose address names provider, model and strategy."""

    def __init__(self, url: str, clock: Clock, call: TrialRequest) -> None:
        name, _, model = call.provider.partition(":")
        provider = call.provider if name == "sim" else name
        query = {"provider": provider, "model": "" if name == "sim" else model, "strategy": call.strategy}
        if call.request.max_tokens is not None:
            query["max_tokens"] = str(call.request.max_tokens)
        self._chosen = [provider, call.strategy]
        address = f"{url}/?{urlencode(query)}"
        selectors = PageSelectors(address, _CHAT_BOX, _CHAT_ANSWER, stop=_CHAT_STOP)
        super().__init__(selectors, clock, call, "--transport browser:chat")

    async def open(self, page: "Page") -> None:
        """Load the page and wait until it has taken the provider and the strategy from its address."""
        await super().open(page)
        await page.wait_for_function(_IS_CHOSEN, arg=self._chosen)
