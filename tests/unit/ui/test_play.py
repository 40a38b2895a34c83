"""A stream in the pipeline tab, on virtual time: a browser that draws slowly makes no strategy late."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from streaming import strategies
from streaming.errors import TruncatedStream
from streaming.events import Event, Finish, TextDelta
from streaming.messages import ChatRequest, Message
from streaming.pipeline import Answer, answer
from streaming.retry import NO_RECOVERY
from streaming.session import Route, Session
from tests.unit.ui.house import Slow
from tests.virtual_time import clock, run_virtual
from ui.play import Play
from ui.sides import Side

TICK_S = 0.5


class Even:
    """Twenty words, 20 ms apart."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        for _ in range(20):
            await asyncio.sleep(0.02)
            yield TextDelta("word ")
        yield Finish("stop")

    async def aclose(self) -> None:
        """Nothing is held."""


class Broken(Even):
    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        yield TextDelta("word ")
        raise TruncatedStream("down")


def asked(adapter: Even | Slow) -> Answer:
    session = Session([Route("a", adapter, "")], clock(), policy=NO_RECOVERY)
    request = ChatRequest((Message("user", "Hi"),))
    return answer(request, session, strategies.parse("direct").make(), clock=clock())


def sides(*names: str) -> list[Side]:
    return [Side(strategies.parse(name).make()) for name in names]


async def played(answered: Answer, into: list[Side], drawing_s: float) -> list[float]:
    """Play to the end while each drawing takes so long; give the moments of the changes."""
    at_s: list[float] = []
    play = Play(answered, into, clock(), lambda events, now: None, TICK_S)
    async with aclosing(answered), aclosing(play.changes()) as changes:
        async for _ in changes:
            at_s.append(clock()())
            await asyncio.sleep(drawing_s)
    return at_s


@pytest.mark.parametrize("drawing_s", [0.0, 0.15, 5.0])
def test_each_strategy_keeps_its_times_however_slowly_they_are_drawn(drawing_s: float) -> None:
    async def main() -> list[Side]:
        into = sides("direct", "batch:100ms")
        await played(asked(Even()), into, drawing_s)
        return into

    direct, batch = (side.tally() for side in run_virtual(main()))
    assert (direct.updates, direct.delay_max_s) == (20, 0.0)
    assert batch.updates == 5 and batch.delay_max_s == pytest.approx(0.1)


def test_while_nothing_comes_there_is_a_change_every_tick() -> None:
    async def main() -> list[float]:
        return await played(asked(Slow(1.2)), sides("direct", "whole"), 0.0)

    assert run_virtual(main())[:3] == pytest.approx([0.5, 1.0, 1.2])


def test_a_failure_of_the_stream_ends_both_sides() -> None:
    async def main() -> list[Side]:
        into = sides("direct", "whole")
        await played(asked(Broken()), into, 0.0)
        return into

    assert [(side.text, side.ended) for side in run_virtual(main())] == [("word ", True)] * 2


def test_who_stops_looking_ends_the_stream() -> None:
    async def main() -> list[float]:
        adapter = Slow()
        answered = asked(adapter)
        play = Play(answered, sides("direct", "whole"), clock(), lambda events, now: None, TICK_S)
        async with aclosing(answered), aclosing(play.changes()) as changes:
            await anext(changes)
        assert len(asyncio.all_tasks()) == 1
        return adapter.closed_s

    assert run_virtual(main()) == [0.5]
