"""An answer under way: the events and the receipt after an internal error, and after a cancel."""

import asyncio
import json
import re
from contextlib import aclosing
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Message

from server.routes.openai import CompletionStream
from server.routes.sse import SSEResponse
from server.streams.active import ActiveAnswer, ActiveAnswers
from server.streams.events import TERMINAL_EVENTS, WireEvent, WireEventEncoder
from streaming import strategies
from streaming.events import Event, TextDelta
from streaming.pipeline import Charge, Receipt, stream_answer
from streaming.session import Route, Session
from tests.scripted_adapter import REQUEST, ScriptedAdapter, words_script
from tests.virtual_time import loop_clock, run_on_virtual_time


class BrokenFilter:
    """A filter that raises an error at the piece of text with this number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def feed(self, event: Event) -> list[Event]:
        self._left -= isinstance(event, TextDelta)
        if self._left == 0:
            raise KeyError("a defect")
        return [event]


class RecordingObserver:
    """An observer and reservation of one answer, which records its receipts and settlements."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.settled = 0

    def on_events(self, events: list[Event], now: float) -> None:
        """Ignore the events."""

    def on_end(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)

    async def settle(self, charge: Charge | None) -> None:
        self.settled += 1


@pytest.mark.parametrize(("number", "outcome"), [(1, "failed"), (2, "truncated")])
def test_internal_defect_ends_answer_with_error_not_cancelled(number: int, outcome: str) -> None:
    recorder = RecordingObserver()

    async def main() -> list[WireEvent]:
        now = loop_clock()
        session = Session([Route("p:m", ScriptedAdapter(words_script(3)), "m")], now)
        strategy = strategies.parse("direct").build()
        answer = stream_answer(REQUEST, session, strategy, clock=now, filter=BrokenFilter(number))
        stream = ActiveAnswers(now).add(answer, None, recorder, recorder)
        result: list[WireEvent] = []
        async with aclosing(WireEventEncoder(stream, now)) as entries:
            while not entries.ended:
                result += await entries.next_batch()
        return result

    result: Any = run_on_virtual_time(main())
    assert [name for _, name, _ in result if name in TERMINAL_EVENTS] == ["error"] == [result[-1][1]]
    assert json.loads(result[-1][2])["error"]["type"] == "internal"
    assert [(r.outcome, r.error.kind if r.error else None) for r in recorder.receipts] == [(outcome, "internal")]
    assert recorder.settled == 1


class SlowClient:
    """A client that reads the first `takes` messages at once, and the rest only after `again` is set."""

    def __init__(self, takes: int, again: asyncio.Event) -> None:
        self.takes = takes
        self.body = b""
        self._again = again

    async def send(self, message: Message) -> None:
        if self.takes <= 0:
            await self._again.wait()
        self.takes -= 1
        self.body += message.get("body", b"")

    async def receive(self) -> Message:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("it never leaves")


def make_sse_response(stream: ActiveAnswer) -> Response:
    return SSEResponse(WireEventEncoder(stream, loop_clock()), stream.id)


def make_openai_response(stream: ActiveAnswer) -> Response:
    return CompletionStream(stream, "p:m", with_usage=False)


@pytest.mark.parametrize("response", [make_sse_response, make_openai_response])
@pytest.mark.parametrize("takes", range(2, 9))
def test_slow_client_receives_pending_events_before_cancelled_end(response: Any, takes: int) -> None:
    recorder = RecordingObserver()

    async def main() -> bytes:
        now, again = loop_clock(), asyncio.Event()
        client = SlowClient(takes, again)
        session = Session([Route("p:m", ScriptedAdapter(words_script(50)), "m")], now)
        answer = stream_answer(REQUEST, session, strategies.parse("direct").build(), clock=now)
        stream = ActiveAnswers(now).add(answer, None, recorder, recorder)
        reading = asyncio.create_task(response(stream)({"type": "http"}, client.receive, client.send))
        await asyncio.sleep(5.0)
        assert await stream.cancel()
        again.set()
        await reading
        return client.body

    body = run_on_virtual_time(main()).decode()
    ids = [int(number) for number in re.findall(r"^id: \S+:(\d+)$", body, re.MULTILINE)]
    assert ids == [*range(1, len(ids) + 1)]
    text = "".join(json.loads(content) for content in re.findall(r'"content":("(?:[^"\\]|\\.)*")', body))
    assert len(text) == recorder.receipts[0].delivered_chars > 0
    assert "event: cancelled" in body or "answer: stopped on request" in body
