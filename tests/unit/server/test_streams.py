"""An answer under way: what its reader and its account are told when this program has a defect."""

import json
from contextlib import aclosing
from typing import Any

import pytest

from server.frames import LAST, Entries, Entry
from server.streams import Streams
from streaming import strategies
from streaming.events import Event, TextDelta
from streaming.meter import Reading
from streaming.pipeline import Receipt, answer
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

    async def settle(self, reading: Reading) -> None:
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
