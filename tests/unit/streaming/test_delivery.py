"""Live delivery on virtual time: it equals replay, has bounded memory, and can be closed in every state."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from streaming import strategies
from streaming.delivery import QUEUE_SIZE, Delivery
from streaming.events import Event, Finish, GrammarError, Notice, TextDelta, ThinkingDelta, TimedEvent
from streaming.replay import replay
from tests.unit.streaming.test_strategies import NAMES, STREAMS, event_streams
from tests.virtual_time import loop_clock, run_on_virtual_time

END = Finish("stop")
T = TypeVar("T")


class TimedSource:
    """A source that yields timed events at their times, counts them and records its closing."""

    def __init__(self, timed: list[TimedEvent]) -> None:
        self.timed = timed
        self.yielded = 0
        self.closed = False

    async def events(self) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        try:
            for timed in self.timed:
                if timed.at_s > loop.time():
                    reached = loop.create_future()
                    loop.call_at(timed.at_s, reached.set_result, None)
                    await reached
                self.yielded += 1
                yield timed.event
        finally:
            self.closed = True


def make_delivery(source: TimedSource, name: str = "direct") -> Delivery:
    return Delivery(source.events(), strategies.parse(name).build(), loop_clock())


def run_and_check_tasks(main: Coroutine[Any, Any, T], start_s: float = 0.0) -> T:
    async def run_checked() -> T:
        result = await main
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return run_on_virtual_time(run_checked(), start_s=start_s)


@given(event_streams())
@settings(max_examples=STREAMS)
def test_live_and_replayed_delivery_are_equal(timed: list[TimedEvent]) -> None:
    async def live(name: str) -> list[TimedEvent]:
        now = loop_clock()
        async with aclosing(make_delivery(TimedSource(timed), name)) as events:
            return [TimedEvent(now(), event) async for event in events]

    for name in NAMES:
        replayed = list(replay(timed, strategies.parse(name).build()))
        assert run_and_check_tasks(live(name), timed[0].at_s) == replayed, name


def steady_events(count: int, gap_s: float = 0.02) -> list[TimedEvent]:
    return [*(TimedEvent(i * gap_s, TextDelta("x")) for i in range(count)), TimedEvent(count * gap_s, END)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.31, 2.0])
def test_closing_delivery_ends_source_and_leaves_no_task(name: str, after_s: float) -> None:
    async def main() -> TimedSource:
        source = TimedSource([TimedEvent(0.01 + t.at_s, t.event) for t in steady_events(500)])
        events = make_delivery(source, name)
        now = loop_clock()
        while now() < after_s:
            await events.next_batch(after_s - now())
        await events.aclose()
        assert events.ended
        assert await events.next_batch() == []
        return source

    source = run_and_check_tasks(main())
    assert source.closed or source.yielded == 0


def test_closing_from_another_task_wakes_reader() -> None:
    async def main() -> list[Event]:
        source = TimedSource([TimedEvent(100.0, TextDelta("late")), TimedEvent(101.0, END)])
        events = make_delivery(source)
        reader = asyncio.create_task(events.next_batch())
        await asyncio.sleep(1)
        await events.aclose()
        assert source.closed
        assert loop_clock()() == 1.0
        return await reader

    assert run_and_check_tasks(main()) == []


def test_second_close_waits_for_first() -> None:
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

        events = Delivery(slow_to_close(), strategies.parse("direct").build(), loop_clock())
        await events.next_batch()
        first = asyncio.create_task(events.aclose())
        await asyncio.sleep(0.1)
        await events.aclose()
        await first
        return cleaned, loop_clock()()

    assert run_and_check_tasks(main()) == (True, 0.5)


def test_cancelled_reader_still_closes_source() -> None:
    async def main() -> TimedSource:
        source = TimedSource(steady_events(500))

        async def read() -> None:
            async with aclosing(make_delivery(source)) as events:
                async for _ in events:
                    pass

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.5)
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        return source

    assert run_and_check_tasks(main()).closed


def test_next_batch_timeout_returns_empty_and_loses_nothing() -> None:
    async def main() -> list[tuple[float, list[Event]]]:
        now = loop_clock()
        async with aclosing(
            make_delivery(TimedSource([TimedEvent(1.2, TextDelta("a")), TimedEvent(1.3, END)]))
        ) as events:
            return [(now(), got) async for got in _until_ended(events)]

    async def _until_ended(events: Delivery) -> AsyncGenerator[list[Event], None]:
        while not events.ended:
            yield await events.next_batch(0.5)

    assert run_and_check_tasks(main()) == [(0.5, []), (1.0, []), (1.2, [TextDelta("a")]), (1.3, [END])]


def test_stalled_reader_stops_pump_at_queue_size() -> None:
    async def main() -> tuple[int, int]:
        source = TimedSource([*(TimedEvent(0.0, TextDelta("x")) for _ in range(2000)), TimedEvent(0.0, END)])
        async with aclosing(make_delivery(source)) as events:
            first = await events.next_batch()
            await asyncio.sleep(60)
            waiting = source.yielded - len(first)
            rest = [event async for event in events]
        return waiting, len(first) + len(rest)

    waiting, total = run_and_check_tasks(main())
    assert waiting <= QUEUE_SIZE + 1
    assert total == 2001


def test_slow_reader_gets_coalesced_updates() -> None:
    async def main() -> int:
        updates = 0
        async with aclosing(make_delivery(TimedSource(steady_events(200)), "batch:100ms")) as events:
            async for _ in events:
                updates += 1
                await asyncio.sleep(1.0)
        return updates

    assert run_and_check_tasks(main()) <= 8


def test_source_without_end_raises_grammar_error() -> None:
    async def main() -> None:
        async with aclosing(make_delivery(TimedSource([TimedEvent(0.0, TextDelta("x"))]))) as events:
            async for _ in events:
                pass

    with pytest.raises(GrammarError, match="neither Finish nor Failed"):
        run_and_check_tasks(main())


def test_source_exception_reaches_reader_after_received_events() -> None:
    async def fail_after_text() -> AsyncGenerator[Event, None]:
        yield TextDelta("kept")
        raise ZeroDivisionError

    async def main() -> list[Event]:
        got: list[Event] = []

        async def read() -> None:
            async with aclosing(
                Delivery(fail_after_text(), strategies.parse("direct").build(), loop_clock())
            ) as events:
                async for event in events:
                    got.append(event)

        with pytest.raises(ZeroDivisionError):
            await read()
        return got

    assert run_and_check_tasks(main()) == [TextDelta("kept")]


@given(st.floats(0.001, 5.0))
def test_delivery_wakes_at_strategy_time(quiet_s: float) -> None:
    async def main() -> float:
        source = TimedSource([TimedEvent(0.0, TextDelta("a")), TimedEvent(1000.0, END)])
        async with aclosing(
            Delivery(source.events(), strategies.parse(f"debounce:{quiet_s:.4f}s").build(), loop_clock())
        ) as it:
            await it.next_batch()
            return loop_clock()()

    assert run_and_check_tasks(main()) == pytest.approx(quiet_s, abs=1e-4)


class RecordingSink:
    """A reader of a delivery whose sink takes `busy_s` for each call; it records the events and their times."""

    def __init__(self, busy_s: float = 0.0) -> None:
        self.busy_s = busy_s
        self.now = loop_clock()
        self.received: list[TimedEvent] = []
        self.sink_calls = 0
        self.busy = False

    async def receive(self, events: list[Event]) -> None:
        assert not self.busy, "the sink was called during another call"
        self.busy = True
        self.sink_calls += 1
        self.received += [TimedEvent(self.now(), event) for event in events]
        if self.busy_s:
            await asyncio.sleep(self.busy_s)
        self.busy = False

    async def read_delivery(self, events: Delivery, timeout_s: float | None = None) -> list[TimedEvent]:
        async with aclosing(events):
            while not events.ended:
                batch = await events.next_batch(timeout_s, self.receive)
                assert not self.busy, "events were returned during a sink call"
                self.received += [TimedEvent(self.now(), event) for event in batch]
        return self.received


@given(event_streams())
@settings(max_examples=STREAMS)
def test_sink_receives_same_events_as_replay(timed: list[TimedEvent]) -> None:
    async def main(name: str) -> list[TimedEvent]:
        return await RecordingSink().read_delivery(make_delivery(TimedSource(timed), name))

    for name in NAMES:
        replayed = list(replay(timed, strategies.parse(name).build()))
        assert run_and_check_tasks(main(name), timed[0].at_s) == replayed, name


@given(event_streams(), st.floats(0.001, 3.0))
@settings(max_examples=STREAMS)
def test_slow_sink_receives_everything_in_order(timed: list[TimedEvent], busy_s: float) -> None:
    async def main(name: str) -> list[TimedEvent]:
        return await RecordingSink(busy_s).read_delivery(make_delivery(TimedSource(timed), name))

    for name in NAMES:
        note(name)
        came = [timed.event for timed in run_and_check_tasks(main(name), timed[0].at_s)]
        assert came[-1] == timed[-1].event
        for kind in (TextDelta, ThinkingDelta):
            text = "".join(e.text for e in came if isinstance(e, kind))
            assert text == "".join(t.event.text for t in timed if isinstance(t.event, kind))


def test_reader_wakes_for_burst_but_not_for_sink_events() -> None:
    async def main() -> tuple[int, list[int]]:
        alone, together = RecordingSink(), RecordingSink()
        await alone.read_delivery(make_delivery(TimedSource(steady_events(50))))
        burst = [TimedEvent(0.0, TextDelta("x")) for _ in range(50)]
        events = make_delivery(TimedSource([TimedEvent(0.0, Notice("connected", "")), *burst, TimedEvent(9.0, END)]))
        async with aclosing(events):
            given = []
            while not events.ended:
                given.append(len(await events.next_batch(None, together.receive)))
        return alone.sink_calls, [together.sink_calls, *given]

    assert run_and_check_tasks(main()) == (50, [1, 50, 1])


def test_next_batch_timeout_counts_from_last_sink_event() -> None:
    async def main() -> list[tuple[float, int]]:
        taken = RecordingSink()
        now = loop_clock()
        source = TimedSource([TimedEvent(0.4, TextDelta("a")), TimedEvent(0.8, TextDelta("b")), TimedEvent(9.0, END)])
        async with aclosing(make_delivery(source)) as events:
            return [(now(), len(await events.next_batch(0.5, taken.receive)) + len(taken.received)) for _ in range(3)]

    assert [entry for _, entry in run_and_check_tasks(main())] == [2, 2, 2]


def test_closing_with_busy_sink_ends_source_at_once() -> None:
    async def main() -> tuple[bool, float]:
        source = TimedSource(steady_events(50))
        taken = RecordingSink(busy_s=100.0)
        events = make_delivery(source)
        reader = asyncio.create_task(events.next_batch(None, taken.receive))
        await asyncio.sleep(1.0)
        assert source.yielded == 1  # a busy sink stops the pump
        await events.aclose()
        assert await reader == []
        return source.closed, loop_clock()()

    assert run_and_check_tasks(main()) == (True, 1.0)


def test_sink_exception_reaches_reader() -> None:
    async def main() -> None:
        async def broken(events: list[Event]) -> None:
            raise ZeroDivisionError

        async with aclosing(make_delivery(TimedSource(steady_events(50)))) as events:
            await events.next_batch(None, broken)

    with pytest.raises(ZeroDivisionError):
        run_and_check_tasks(main())
