"""An answer under way: what its reader and its account are told when this program has a defect, or it is stopped."""

import asyncio
import json
import re
from contextlib import aclosing
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Message

from server.frames import LAST, Entries, Entry
from server.openai_api import CompletionStream
from server.sse import EventStream
from server.streams import Stream, Streams
from streaming import strategies
from streaming.events import Event, TextDelta
from streaming.pipeline import Charge, Receipt, answer
from streaming.session import Route, Session
from tests.playing import REQUEST, PlayingAdapter, words
from tests.virtual_time import clock, run_virtual


class Breaking:
    """A filter with a defect: it cannot take the piece of text with this number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def feed(self, event: Event) -> list[Event]:
        self._left -= isinstance(event, TextDelta)
        if self._left == 0:
            raise KeyError("a defect")
        return [event]


class Told:
    """Account and reservation of one answer."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.settled = 0

    def passed(self, events: list[Event], now: float) -> None:
        """Nothing of that is looked at here."""

    def ended(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)

    async def settle(self, charge: Charge | None) -> None:
        self.settled += 1


@pytest.mark.parametrize(("number", "outcome"), [(1, "failed"), (2, "truncated")])
def test_a_defect_is_told_as_an_error_and_never_as_a_stop(number: int, outcome: str) -> None:
    told = Told()

    async def main() -> list[Entry]:
        now = clock()
        session = Session([Route("p:m", PlayingAdapter(words(3)), "m")], now)
        strategy = strategies.parse("direct").make()
        asked = answer(REQUEST, session, strategy, clock=now, filter=Breaking(number))
        stream = Streams(now).opened(asked, None, told, told)
        found: list[Entry] = []
        async with aclosing(Entries(stream, now)) as entries:
            while not entries.ended:
                found += await entries.batch()
        return found

    found: Any = run_virtual(main())
    assert [name for _, name, _ in found if name in LAST] == ["error"] == [found[-1][1]]
    assert json.loads(found[-1][2])["error"]["type"] == "internal"
    assert [(r.outcome, r.error.kind if r.error else None) for r in told.receipts] == [(outcome, "internal")]
    assert told.settled == 1


class SlowClient:
    """Takes a response's beginning, and all that follows only from a time on, as uvicorn's `send` does it."""

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


def sse_response(stream: Stream) -> Response:
    return EventStream(Entries(stream, clock()), stream.id)


def openai_response(stream: Stream) -> Response:
    return CompletionStream(stream, "p:m", with_usage=False)


@pytest.mark.parametrize("response", [sse_response, openai_response])
@pytest.mark.parametrize("takes", range(2, 9))
def test_what_a_slow_client_had_not_taken_when_it_was_stopped_comes_before_the_end(response: Any, takes: int) -> None:
    told = Told()

    async def main() -> bytes:
        now, again = clock(), asyncio.Event()
        client = SlowClient(takes, again)
        session = Session([Route("p:m", PlayingAdapter(words(50)), "m")], now)
        asked = answer(REQUEST, session, strategies.parse("direct").make(), clock=now)
        stream = Streams(now).opened(asked, None, told, told)
        reading = asyncio.create_task(response(stream)({"type": "http"}, client.receive, client.send))
        await asyncio.sleep(5.0)
        assert await stream.cancel()
        again.set()
        await reading
        return client.body

    body = run_virtual(main()).decode()
    ids = [int(number) for number in re.findall(r"^id: \S+:(\d+)$", body, re.MULTILINE)]
    assert ids == [*range(1, len(ids) + 1)]
    text = "".join(json.loads(content) for content in re.findall(r'"content":("(?:[^"\\]|\\.)*")', body))
    assert len(text) == told.receipts[0].delivered_chars > 0
    assert "event: cancelled" in body or "the answer was stopped on request" in body
