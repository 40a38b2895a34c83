"""The comparison and the pipeline tab's events on virtual time."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any

import pytest

from guard import Configuration, Guard
from guard.budget import Budget
from streaming.clock import Clock
from streaming.errors import TruncatedStream
from streaming.events import Event, Finish, TextDelta, Usage
from streaming.messages import ChatRequest
from streaming.meter import Cost
from streaming.retry import NO_RECOVERY, Policy
from streaming.session import Route, Session
from tests.unit.ui.house import House, Slow, request
from tests.virtual_time import clock, run_virtual
from ui import texts
from ui.compare import COLUMNS, UNCHANGED, Compare
from ui.desk import TICK_S, Desk
from ui.pipeline import Pipeline
from ui.scenarios import Scenarios

FIELDS = ["ollama:a", "", "direct", "sim:steady", "", "whole", "local", "", "direct", "local", "", "direct"]


class Table:
    """A comparison as the page calls it."""

    def __init__(self, *, blind: bool = False, count: int = 2, seed: int = 0, budget: str = "") -> None:
        self.house = House(Slow())
        self.desk = Desk(self.house, clock())
        self.budget = budget
        self.compare = Compare(self.desk, random.Random(seed))
        self.blind, self.count = blind, count

    async def begin(self, prompt: str = "Count.") -> tuple[Any, ...]:
        return await self.compare.begin(request(), prompt, self.count, self.blind, "100", self.budget, "", *FIELDS)

    async def column(self, number: int) -> list[Any]:
        return [frame async for frame in self.compare.ask(number, request())]

    async def round(self) -> list[list[Any]]:
        await self.begin()
        return await asyncio.gather(*(self.column(number) for number in range(COLUMNS)))


def text(frame: Any) -> str:
    return "".join(p["text"] for turn in frame[0] if not turn["metadata"] for p in turn["content"])


def test_each_column_goes_at_its_own_pace_and_the_others_do_nothing() -> None:
    async def main() -> list[list[Any]]:
        return await Table().round()

    direct, whole, *rest = run_virtual(main())
    assert rest == [[UNCHANGED], [UNCHANGED]]
    assert sorted({text(frame) for frame in direct}, key=len) == ["", "one ", "one two ", "one two three"]
    assert {text(frame) for frame in whole} == {"", "one two three"}
    assert [direct[-1][3]["visible"], whole[-1][3]["visible"]] == ["hidden", "hidden"]


class PartlyStalled(House):
    """A house in which one model never answers."""

    def session(self, names: Sequence[str], *, clock: Clock) -> Session:
        adapter = Slow(1e9) if names[0] == "ollama:stalled" else self.adapter
        return Session([Route(names[0], adapter, "")], clock, policy=NO_RECOVERY)


def test_a_column_that_stalls_leaves_the_others_every_moment_of_theirs() -> None:
    async def main(count: int) -> list[list[float]]:
        table = Table(count=count)
        table.compare = Compare(Desk(PartlyStalled(Slow()), clock()))
        fields = [*FIELDS[:9], "ollama:a", "stalled", "direct"]
        await table.compare.begin(request(), "Count.", count, False, "100", "", "", *fields)
        running = [asyncio.create_task(table.column(number)) for number in range(COLUMNS)]
        await asyncio.gather(*running[:3])
        assert running[3].done() == (count == 3), "it still waits when the others have ended"
        await table.compare.stop_all(request())
        await asyncio.gather(*running)
        found = table.compare.comparison("a").round
        assert found is not None
        probes = [column.probe for column in found.columns[:3] if column.probe]
        return [[timed.at_s - probe.called_s for timed in probe.delivered] for probe in probes]

    alone = run_virtual(main(3))
    assert [len(stamps) for stamps in alone] == [4, 2, 4]
    assert run_virtual(main(4)) == alone


def test_stopping_one_column_leaves_the_other_and_stopping_all_ends_them() -> None:
    async def main() -> tuple[list[list[Any]], list[float]]:
        table = Table()
        running = asyncio.create_task(table.round())
        await asyncio.sleep(1.5)
        await table.compare.stop(0, request())
        await asyncio.sleep(1.0)
        await table.compare.stop_all(request())
        adapter = table.desk._providers.adapter  # type: ignore[attr-defined]  # the house is the test's
        return await running, adapter.closed_s

    (first, second, *_), closed_s = run_virtual(main())
    assert closed_s == [1.5, 2.5]
    assert text(first[-1]) == "one " and text(second[-1]) == ""
    assert "Stopped" in first[-1][1] and "Stopped" in second[-1][1]


def test_asked_again_the_columns_are_the_new_rounds() -> None:
    async def main() -> tuple[list[list[Any]], list[list[Any]], list[float], bool]:
        table = Table()
        first = asyncio.create_task(table.round())
        await asyncio.sleep(1.5)
        second = asyncio.create_task(table.round())
        await asyncio.sleep(0.1)
        late = await table.column(0)
        assert late == [UNCHANGED], "it is asked once, however late the first round's event comes"
        ended = table.compare.comparison("a").round
        frames = await first, await second
        assert ended is not None
        return *frames, table.house.adapter.closed_s[:2], ended.ended

    first, second, closed_s, ended = run_virtual(main())
    assert closed_s == [1.5, 1.5] and [column[-1] for column in first] == [UNCHANGED] * COLUMNS
    assert text(second[0][-1]) == "one two three" and ended


def test_results_come_when_the_last_has_ended() -> None:
    async def main() -> tuple[Any, Any]:
        table = Table()
        await table.begin()
        await table.column(0)
        early = table.compare.ended(request())
        await table.column(1)
        return early, table.compare.ended(request())

    early, late = run_virtual(main())
    assert not any("value" in item for item in early)
    ballot, announced, stop_all, spent, results, *plots = late
    assert announced == texts.COMPARE_DONE
    assert ballot["visible"] is True and stop_all["visible"] == "hidden"
    assert "for 2 answers" in spent
    assert "ollama:a" in results["value"] and "sim:steady" in results["value"]
    assert [plot["visible"] for plot in plots] == [True] * 4


@pytest.mark.parametrize("seed", range(4))
def test_nothing_on_a_blind_page_tells_who_answers_before_the_vote(seed: int) -> None:
    async def main() -> tuple[Any, ...]:
        table = Table(blind=True, seed=seed)
        head = await table.begin()
        frames = [await table.column(number) for number in range(2)]
        shown = (head, frames, table.compare.ended(request()))
        return *shown, table.compare.vote("A", request())

    *before, after = run_virtual(main())
    told = str(before).lower()
    assert not any(word in told for word in ("ollama", "sim:", "simulated", "no price"))
    heads = after[:2]
    assert {"ollama:a", "sim:steady"} == {head.partition(" · ")[2].removesuffix("</h3>") for head in heads}
    votes = after[COLUMNS + 1]
    assert heads[0].partition(" · ")[2].removesuffix("</h3>") in votes.partition("<tbody>")[2].partition("</th>")[0]


def test_a_prompt_that_cannot_be_asked_starts_nothing() -> None:
    async def main() -> tuple[tuple[Any, ...], list[Any]]:
        table = Table()
        return await table.begin("  "), await table.column(0)

    begun, frames = run_virtual(main())
    assert begun[COLUMNS] == texts.EMPTY_MESSAGE and texts.EMPTY_MESSAGE in begun[COLUMNS + 1]
    assert frames == [UNCHANGED]


def test_answers_side_by_side_share_the_budget_of_the_page() -> None:
    def price(usage: Usage) -> Cost:
        return Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "user")

    async def main() -> tuple[list[list[Any]], list[float], Any]:
        table = Table(budget="0.025")
        table.house.price = price
        first = await table.round()
        assert table.compare.ended(request())[3].count("$") == 1
        return first, [*table.house.adapter.closed_s], await table.round()

    first, closed_s, again = run_virtual(main())
    assert all(texts.BUDGET_REACHED in str(column[-1]) for column in first[:1])
    assert closed_s[0] == 2.0, "two tokens of one and one of the other, where either alone had gone on"
    assert all("which is its budget" in str(column[-1]) for column in again[:2])


def test_what_a_blind_round_cost_is_said_with_its_names() -> None:
    async def main() -> tuple[Any, Any]:
        table = Table(blind=True)
        await table.round()
        return table.compare.ended(request())[3], table.compare.vote("A", request())[COLUMNS + 2]

    before, after = run_virtual(main())
    assert "answers" not in str(before) and "for 2 answers" in after


async def piped(
    left: str,
    right: str,
    scenario: str = "sim:steady",
    stop_at_s: float | None = None,
    guard: Guard | None = None,
    adapter: Slow | None = None,
) -> list[Any]:
    desk = Desk(House(adapter or Slow()), clock(), guard or Guard(Configuration(), clock=clock()))
    pipeline = Pipeline(desk, Scenarios(desk))

    async def frames() -> list[Any]:
        return [frame async for frame in pipeline.run(scenario, left, right, 100.0, "Hi", request())]

    running = asyncio.create_task(frames())
    if stop_at_s is not None:
        await asyncio.sleep(stop_at_s)
        await pipeline.stop(request())
    return await running


def texts_of(frames: list[Any], side: int) -> list[str]:
    return [frame[side] for frame in frames if isinstance(frame[side], str) and frame[side]]


def test_one_stream_feeds_both_sides() -> None:
    frames = run_virtual(piped("direct", "whole"))
    assert {len(frame) for frame in frames} == {9}, "one value for each output"
    assert texts_of(frames, 0)[:3] == ["one ", "one two ", "one two three"]
    assert set(texts_of(frames, 1)) == {"one two three"}
    assert "Complete" in frames[-1][5] and 'data-state="succeeded"' in frames[-1][4]
    assert "<svg" in frames[-1][6]


def test_what_a_strategy_holds_at_the_end_of_the_stream_still_comes() -> None:
    frames = run_virtual(piped("pace", "debounce"))
    assert texts_of(frames, 0)[-1] == texts_of(frames, 1)[-1] == "one two three"
    assert "Complete" in frames[-1][5]


def test_the_machine_is_drawn_in_each_state_and_the_page_hears_of_it_while_waiting() -> None:
    frames = run_virtual(piped("direct", "batch", stop_at_s=1.5))
    states = [
        part[:9] for frame in frames if "data-state" in str(frame[4]) for part in frame[4].split('data-state="')[1:]
    ]
    assert [states[0], states[-1]] == ['idle"><de', "cancelled"] and "streaming" in states
    assert texts_of(frames, 0)[-1] == "one "
    assert len(frames) >= 1.5 / TICK_S


@pytest.mark.parametrize("stop_at_s", [0.5, 1.5, None])
def test_what_is_played_is_reserved_and_settled_however_it_ends(stop_at_s: float | None) -> None:
    async def main() -> list[str]:
        guard = Guard(Configuration(budget=Budget(streams_per_caller=1)), clock=clock())
        playing = asyncio.create_task(piped("direct", "batch", "local", stop_at_s, guard))
        await asyncio.sleep(0.25)
        refused = (await piped("direct", "batch", "local", guard=guard))[-1][5]
        await playing
        return [refused, (await piped("direct", "batch", "local", guard=guard))[-1][5]]

    refused, again = run_virtual(main())
    assert texts.NOT_ANSWERED in refused and "Complete" in again


def test_what_is_played_goes_through_the_output_filter() -> None:
    async def main() -> list[Any]:
        return await piped("direct", "whole", guard=Guard(Configuration(banned=("two",)), clock=clock()))

    frames = run_virtual(main())
    shown = texts_of(frames, 0)[-1]
    assert shown == texts_of(frames, 1)[-1] and "two" not in shown and shown.endswith("three")


class Flood(Slow):
    """Says a million characters at once."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        yield TextDelta("x" * 1_000_000)
        yield Finish("stop")


class Refused(Slow):
    """Fails at once, however often it is asked."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        raise TruncatedStream("down")
        yield


class Retried(House):
    def session(self, names: Sequence[str], *, clock: Clock) -> Session:
        return Session([Route(names[0], self.adapter, "")], clock, policy=Policy(delays_s=(1.0,)))


def test_a_state_that_lasts_no_time_is_drawn_too() -> None:
    async def main() -> list[Any]:
        desk = Desk(Retried(Refused()), clock())
        pipeline = Pipeline(desk, Scenarios(desk))
        return [frame async for frame in pipeline.run("sim:steady", "direct", "batch", 100.0, "Hi", request())]

    drawn = [found[1] for frame in run_virtual(main()) if (found := re.search(r'data-state="(\w+)"', str(frame[4])))]
    states = ["idle", *["streaming", "retrying"] * 3, "streaming", "fallback", "failed"]
    assert [state for state, _ in groupby(drawn)] == states


def test_of_a_flood_only_the_beginning_is_drawn() -> None:
    frames = run_virtual(piped("direct", "whole", adapter=Flood()))
    shown = texts_of(frames, 0)[-1]
    assert shown == texts_of(frames, 1)[-1] and shown.endswith("1,000,000 characters came.")
    assert len(shown) < 11_000


@pytest.mark.parametrize(("scenario", "said"), [("sim:steady", "Simulated · Complete"), ("local", "Complete")])
def test_the_end_of_what_is_simulated_says_so(scenario: str, said: str) -> None:
    last = run_virtual(piped("direct", "whole", scenario))[-1]
    assert f"<strong>{said}</strong>" in last[5] and last[8] == said


def test_a_stream_that_is_not_of_the_list_is_refused() -> None:
    frames = run_virtual(piped("direct", "batch", scenario="openai:a"))
    assert len(frames) == 1 and "There is no stream" in frames[0][5]
