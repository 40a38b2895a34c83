"""Tests of playback in the pipeline tab on virtual time: a slow browser delays no strategy."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from streaming import strategies
from streaming.adapter import Adapter
from streaming.errors import TruncatedStreamError
from streaming.events import Event, Finish, TextDelta
from streaming.messages import ChatRequest
from streaming.retry import NO_RETRY
from streaming.session import Route, Session
from tests.scripted_adapter import REQUEST, InProcessAdapter
from tests.unit.ui.ui_fixtures import FakeProviders, SlowAdapter, make_chat_service
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui.pipeline.panes import Pane, PanePlayback
from ui.types import PageAnswer

TICK_S = 0.5


class EvenAdapter(InProcessAdapter):
    """An adapter that sends twenty words, 20 ms apart."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        for _ in range(20):
            await asyncio.sleep(0.02)
            yield TextDelta("word ")
        yield Finish("stop")

    async def aclose(self) -> None:
        """Release nothing: there are no resources."""


class BrokenAdapter(EvenAdapter):
    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        yield TextDelta("word ")
        raise TruncatedStreamError("down")


async def start_answer(adapter: Adapter) -> PageAnswer:
    session = Session([Route("local", adapter, "")], loop_clock(), policy=NO_RETRY)
    return await make_chat_service(FakeProviders(SlowAdapter())).start_answer(
        "address:a", ["local"], REQUEST, "direct", wire="page", open_session=lambda: session
    )


def make_panes(*names: str) -> list[Pane]:
    return [Pane(strategies.parse(name).build()) for name in names]


async def play_to_end(answered: PageAnswer, into: list[Pane], drawing_s: float) -> list[float]:
    """Play to the end with slow drawing; return the timestamps of the changes."""
    at_s: list[float] = []
    play = PanePlayback(answered, into, loop_clock(), lambda events, now: None, TICK_S)
    async with aclosing(answered), aclosing(play.updates()) as changes:
        async for _ in changes:
            at_s.append(loop_clock()())
            await asyncio.sleep(drawing_s)
    return at_s


@pytest.mark.parametrize("drawing_s", [0.0, 0.15, 5.0])
def test_slow_drawing_does_not_change_strategy_times(drawing_s: float) -> None:
    async def main() -> list[Pane]:
        into = make_panes("direct", "batch:100ms")
        await play_to_end(await start_answer(EvenAdapter()), into, drawing_s)
        return into

    direct, batch = (side.stats() for side in run_on_virtual_time(main()))
    assert (direct.updates, direct.delay_max_s) == (20, 0.0)
    assert batch.updates == 5 and batch.delay_max_s == pytest.approx(0.1)


def test_playback_updates_every_tick_while_waiting() -> None:
    async def main() -> list[float]:
        return await play_to_end(await start_answer(SlowAdapter(1.2)), make_panes("direct", "whole"), 0.0)

    assert run_on_virtual_time(main())[:3] == pytest.approx([0.5, 1.0, 1.2])


def test_failed_stream_ends_both_panes() -> None:
    async def main() -> list[Pane]:
        into = make_panes("direct", "whole")
        await play_to_end(await start_answer(BrokenAdapter()), into, 0.0)
        return into

    assert [(side.text, side.ended) for side in run_on_virtual_time(main())] == [("word ", True)] * 2


def test_closing_playback_ends_stream() -> None:
    async def main() -> list[float]:
        adapter = SlowAdapter()
        answered = await start_answer(adapter)
        play = PanePlayback(answered, make_panes("direct", "whole"), loop_clock(), lambda events, now: None, TICK_S)
        async with aclosing(answered), aclosing(play.updates()) as changes:
            await anext(changes)
        assert len(asyncio.all_tasks()) == 1
        return adapter.closed_s

    assert run_on_virtual_time(main()) == [0.5]
