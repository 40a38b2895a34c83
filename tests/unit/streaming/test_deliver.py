"""Live delivery on virtual time: the same as replay, bounded, and closed in every state."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import strategies
from streaming.deliver import INBOX_EVENTS, Delivery
from streaming.events import Event, Finish, GrammarError, Notice, TextDelta, ThinkingDelta, Timed
from streaming.replay import replay
from tests.unit.streaming.test_strategies import NAMES, streams
from tests.virtual_time import clock, run_virtual

END = Finish("stop")
T = TypeVar("T")


class Source:
    """Plays timed events at their times and counts how it is used."""

    def __init__(self, timed: list[Timed]) -> None:
        self.timed = timed
        self.given = 0
        self.closed = False

    async def events(self) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        try:
            for timed in self.timed:
                if timed.at_s > loop.time():
                    reached = loop.create_future()
                    loop.call_at(timed.at_s, reached.set_result, None)
                    await reached
                self.given += 1
                yield timed.event
        finally:
            self.closed = True


def delivery(source: Source, name: str = "direct") -> Delivery:
    return Delivery(source.events(), strategies.parse(name).make(), clock())


def run(main: Coroutine[Any, Any, T], start_s: float = 0.0) -> T:
    async def checked() -> T:
        result = await main
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return run_virtual(checked(), start_s=start_s)


@pytest.mark.parametrize("name", NAMES)
@given(streams())
def test_live_and_replay_give_the_same_output_at_the_same_times(name: str, timed: list[Timed]) -> None:
    async def live() -> list[Timed]:
        now = clock()
        async with aclosing(delivery(Source(timed), name)) as events:
            return [Timed(now(), event) async for event in events]

    assert run(live(), timed[0].at_s) == list(replay(timed, strategies.parse(name).make()))


def steady(count: int, gap_s: float = 0.02) -> list[Timed]:
    return [*(Timed(i * gap_s, TextDelta("x")) for i in range(count)), Timed(count * gap_s, END)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.31, 2.0])
def test_closing_ends_the_source_and_leaves_no_task(name: str, after_s: float) -> None:
    async def main() -> Source:
        source = Source([Timed(0.01 + t.at_s, t.event) for t in steady(500)])
        events = delivery(source, name)
        now = clock()
        while now() < after_s:
            await events.ready(after_s - now())
        await events.aclose()
        assert events.ended
        assert await events.ready() == []
        return source

    source = run(main())
    assert source.closed or source.given == 0


def test_closing_from_another_task_wakes_the_reader() -> None:
    async def main() -> list[Event]:
        source = Source([Timed(100.0, TextDelta("late")), Timed(101.0, END)])
        events = delivery(source)
        reader = asyncio.create_task(events.ready())
        await asyncio.sleep(1)
        await events.aclose()
        assert source.closed
        assert clock()() == 1.0
        return await reader

    assert run(main()) == []


def test_a_second_close_waits_for_the_first_and_does_not_break_it_off() -> None:
    async def main() -> tuple[bool, float]:
        cleaned = False

        async def slow_to_close() -> AsyncGenerator[Event, None]:
            nonlocal cleaned
            try:
                yield TextDelta("x")
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(0.5)
                cleaned = True

        events = Delivery(slow_to_close(), strategies.parse("direct").make(), clock())
        await events.ready()
        first = asyncio.create_task(events.aclose())
        await asyncio.sleep(0.1)
        await events.aclose()
        await first
        return cleaned, clock()()

    assert run(main()) == (True, 0.5)


def test_cancelling_the_reader_leaves_the_closing_to_its_owner() -> None:
    async def main() -> Source:
        source = Source(steady(500))

        async def read() -> None:
            async with aclosing(delivery(source)) as events:
                async for _ in events:
                    pass

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.5)
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        return source

    assert run(main()).closed


def test_ready_gives_an_empty_list_after_its_timeout_and_loses_nothing() -> None:
    async def main() -> list[tuple[float, list[Event]]]:
        now = clock()
        async with aclosing(delivery(Source([Timed(1.2, TextDelta("a")), Timed(1.3, END)]))) as events:
            return [(now(), got) async for got in _until_ended(events)]

    async def _until_ended(events: Delivery) -> AsyncGenerator[list[Event], None]:
        while not events.ended:
            yield await events.ready(0.5)

    assert run(main()) == [(0.5, []), (1.0, []), (1.2, [TextDelta("a")]), (1.3, [END])]


def test_a_reader_that_stops_reading_stops_the_pump() -> None:
    async def main() -> tuple[int, int]:
        source = Source([*(Timed(0.0, TextDelta("x")) for _ in range(2000)), Timed(0.0, END)])
        async with aclosing(delivery(source)) as events:
            first = await events.ready()
            await asyncio.sleep(60)
            waiting = source.given - len(first)
            rest = [event async for event in events]
        return waiting, len(first) + len(rest)

    waiting, total = run(main())
    assert waiting <= INBOX_EVENTS + 1
    assert total == 2001


def test_a_slow_reader_gets_joined_updates_instead_of_a_queue() -> None:
    async def main() -> int:
        updates = 0
        async with aclosing(delivery(Source(steady(200)), "batch:100ms")) as events:
            async for _ in events:
                updates += 1
                await asyncio.sleep(1.0)
        return updates

    assert run(main()) <= 8


def test_a_source_that_breaks_the_grammar_is_a_defect_and_says_so() -> None:
    async def main() -> None:
        async with aclosing(delivery(Source([Timed(0.0, TextDelta("x"))]))) as events:
            async for _ in events:
                pass

    with pytest.raises(GrammarError, match="neither Finish nor Failed"):
        run(main())


def test_a_defect_in_the_source_reaches_the_reader_after_what_came_before() -> None:
    async def broken() -> AsyncGenerator[Event, None]:
        yield TextDelta("kept")
        raise ZeroDivisionError

    async def main() -> list[Event]:
        got: list[Event] = []

        async def read() -> None:
            async with aclosing(Delivery(broken(), strategies.parse("direct").make(), clock())) as events:
                async for event in events:
                    got.append(event)

        with pytest.raises(ZeroDivisionError):
            await read()
        return got

    assert run(main()) == [TextDelta("kept")]


@given(st.floats(0.001, 5.0))
def test_timers_are_those_of_the_strategy(quiet_s: float) -> None:
    async def main() -> float:
        source = Source([Timed(0.0, TextDelta("a")), Timed(1000.0, END)])
        async with aclosing(
            Delivery(source.events(), strategies.parse(f"debounce:{quiet_s:.4f}s").make(), clock())
        ) as it:
            await it.ready()
            return clock()()

    assert run(main()) == pytest.approx(quiet_s, abs=1e-4)


class Taken:
    """Reads a delivery with a taker that needs `busy_s` for each time, and notes what came when and how."""

    def __init__(self, busy_s: float = 0.0) -> None:
        self.busy_s = busy_s
        self.now = clock()
        self.came: list[Timed] = []
        self.handed = 0
        self.waking = False

    async def take(self, events: list[Event]) -> None:
        assert not self.waking, "handed over while another was being taken"
        self.waking = True
        self.handed += 1
        self.came += [Timed(self.now(), event) for event in events]
        if self.busy_s:
            await asyncio.sleep(self.busy_s)
        self.waking = False

    async def read(self, events: Delivery, timeout_s: float | None = None) -> list[Timed]:
        async with aclosing(events):
            while not events.ended:
                given = await events.ready(timeout_s, self.take)
                assert not self.waking, "given while another was being taken"
                self.came += [Timed(self.now(), event) for event in given]
        return self.came


@pytest.mark.parametrize("name", NAMES)
@given(streams())
def test_what_a_taker_gets_is_the_same_at_the_same_times(name: str, timed: list[Timed]) -> None:
    async def main() -> list[Timed]:
        return await Taken().read(delivery(Source(timed), name))

    assert run(main(), timed[0].at_s) == list(replay(timed, strategies.parse(name).make()))


@pytest.mark.parametrize("name", NAMES)
@given(streams(), st.floats(0.001, 3.0))
def test_a_slow_taker_gets_all_of_it_in_its_order(name: str, timed: list[Timed], busy_s: float) -> None:
    async def main() -> list[Timed]:
        return await Taken(busy_s).read(delivery(Source(timed), name))

    came = [timed.event for timed in run(main(), timed[0].at_s)]
    assert came[-1] == timed[-1].event
    for kind in (TextDelta, ThinkingDelta):
        text = "".join(e.text for e in came if isinstance(e, kind))
        assert text == "".join(t.event.text for t in timed if isinstance(t.event, kind))


def test_the_reader_is_not_woken_for_what_a_taker_gets_but_for_a_burst() -> None:
    async def main() -> tuple[int, list[int]]:
        alone, together = Taken(), Taken()
        await alone.read(delivery(Source(steady(50))))
        burst = [Timed(0.0, TextDelta("x")) for _ in range(50)]
        events = delivery(Source([Timed(0.0, Notice("connected", "")), *burst, Timed(9.0, END)]))
        async with aclosing(events):
            given = []
            while not events.ended:
                given.append(len(await events.ready(None, together.take)))
        return alone.handed, [together.handed, *given]

    assert run(main()) == (50, [1, 50, 1])


def test_a_timeout_counts_from_what_was_taken_last() -> None:
    async def main() -> list[tuple[float, int]]:
        taken = Taken()
        now = clock()
        source = Source([Timed(0.4, TextDelta("a")), Timed(0.8, TextDelta("b")), Timed(9.0, END)])
        async with aclosing(delivery(source)) as events:
            return [(now(), len(await events.ready(0.5, taken.take)) + len(taken.came)) for _ in range(3)]

    assert [found for _, found in run(main())] == [2, 2, 2]


def test_closing_while_a_taker_is_busy_ends_the_source_at_once() -> None:
    async def main() -> tuple[bool, float]:
        source = Source(steady(50))
        taken = Taken(busy_s=100.0)
        events = delivery(source)
        reader = asyncio.create_task(events.ready(None, taken.take))
        await asyncio.sleep(1.0)
        assert source.given == 1  # a taker that is busy stops the pump
        await events.aclose()
        assert await reader == []
        return source.closed, clock()()

    assert run(main()) == (True, 1.0)


def test_a_takers_fault_reaches_the_reader() -> None:
    async def main() -> None:
        async def broken(events: list[Event]) -> None:
            raise ZeroDivisionError

        async with aclosing(delivery(Source(steady(50)))) as events:
            await events.ready(None, broken)

    with pytest.raises(ZeroDivisionError):
        run(main())
