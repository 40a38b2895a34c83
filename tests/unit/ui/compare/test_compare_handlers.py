"""Tests of the event handlers of the compare and pipeline tabs on virtual time."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any

import pytest

from guard import Guard, GuardConfig
from guard.budget import Budget
from streaming.clock import Clock
from streaming.errors import TruncatedStreamError
from streaming.events import Event, Finish, TextDelta, Usage
from streaming.messages import ChatRequest
from streaming.meter import Cost
from streaming.retry import NO_RETRY, RetryPolicy
from streaming.session import Route, Session
from tests.unit.ui.ui_fixtures import FakeProviders, SlowAdapter, make_answer_service, make_request
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui import strings
from ui.answers import TICK_INTERVAL_S
from ui.compare.handlers import COLUMNS, NO_UPDATE, CompareHandlers
from ui.page_sessions.update_pacer import UPDATES_PER_S
from ui.pipeline.handlers import PipelineHandlers
from ui.pipeline.scenarios import Scenarios

COLUMN_FIELDS = ["ollama:a", "", "direct", "sim:steady", "", "whole", "local", "", "direct", "local", "", "direct"]


class ComparisonDriver:
    """A page that calls `CompareHandlers` as Gradio does."""

    def __init__(self, *, blind: bool = False, count: int = 2, seed: int = 0, budget: str = "") -> None:
        self.providers = FakeProviders(SlowAdapter())
        self.answer_service = make_answer_service(self.providers)
        self.budget = budget
        self.compare = CompareHandlers(self.answer_service, random.Random(seed))
        self.blind, self.count = blind, count

    async def begin(self, prompt: str = "Count.") -> tuple[Any, ...]:
        return await self.compare.begin(
            make_request(), prompt, self.count, self.blind, "100", self.budget, "", *COLUMN_FIELDS
        )

    async def run_column(self, number: int) -> list[Any]:
        return [frame async for frame in self.compare.ask(number, make_request())]

    async def run_round(self) -> list[list[Any]]:
        await self.begin()
        return await asyncio.gather(*(self.run_column(number) for number in range(COLUMNS)))


def answer_text(frame: Any) -> str:
    return "".join(p["text"] for turn in frame[0] if not turn["metadata"] for p in turn["content"])


def test_columns_stream_independently_and_unused_ones_stay_idle() -> None:
    async def main() -> list[list[Any]]:
        return await ComparisonDriver().run_round()

    direct, whole, *rest = run_on_virtual_time(main())
    assert rest == [[NO_UPDATE], [NO_UPDATE]]
    assert sorted({answer_text(frame) for frame in direct}, key=len) == ["", "one ", "one two ", "one two three"]
    assert {answer_text(frame) for frame in whole} == {"", "one two three"}
    assert [direct[-1][3]["visible"], whole[-1][3]["visible"]] == ["hidden", "hidden"]


class PartlyStalledProviders(FakeProviders):
    """Providers of which one model never answers."""

    def new_session(self, names: Sequence[str], *, clock: Clock) -> Session:
        adapter = SlowAdapter(1e9) if names[0] == "ollama:stalled" else self.adapter
        return Session([Route(names[0], adapter, "")], clock, policy=NO_RETRY)


def test_stalled_column_does_not_delay_others() -> None:
    async def main(count: int) -> list[list[float]]:
        table = ComparisonDriver(count=count)
        table.compare = CompareHandlers(make_answer_service(PartlyStalledProviders(SlowAdapter())))
        fields = [*COLUMN_FIELDS[:9], "ollama:a", "stalled", "direct"]
        await table.compare.begin(make_request(), "Count.", count, False, "100", "", "", *fields)
        running = [asyncio.create_task(table.run_column(number)) for number in range(COLUMNS)]
        await asyncio.gather(*running[:3])
        assert running[3].done() == (count == 3), "it still waits when the others have ended"
        await table.compare.stop_all(make_request())
        await asyncio.gather(*running)
        result = table.compare.comparison("a").round
        assert result is not None
        probes = [column.probe for column in result.columns[:3] if column.probe]
        return [[timed.at_s - probe.called_s for timed in probe.delivered] for probe in probes]

    alone = run_on_virtual_time(main(3))
    assert [len(stamps) for stamps in alone] == [4, 2, 4]
    assert run_on_virtual_time(main(4)) == alone


class FastAdapter(SlowAdapter):
    """An adapter that sends 45 chunks a second for four seconds."""

    CHUNKS = 180

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        for _ in range(self.CHUNKS):
            await asyncio.sleep(1 / 45)
            yield TextDelta("x")
        yield Finish("stop")


def test_four_direct_columns_share_the_updates_of_the_page_and_show_the_newest_text() -> None:
    async def main() -> tuple[list[float], list[str], list[float]]:
        table = ComparisonDriver(count=4)
        table.compare = CompareHandlers(make_answer_service(FakeProviders(FastAdapter())))
        fields = ["ollama:a", "", "direct"] * 4
        await table.compare.begin(make_request(), "Count.", 4, False, "400", "", "", *fields)
        clock, drawn_s, behind = asyncio.get_running_loop().time, list[float](), list[float]()
        started_s = clock()

        async def run_column(number: int) -> str:
            text = ""
            async for frame in table.compare.ask(number, make_request()):
                text = answer_text(frame)
                drawn_s.append(clock())
                behind.append(min(45 * (clock() - started_s), FastAdapter.CHUNKS) - len(text))
            return text

        return drawn_s, await asyncio.gather(*(run_column(number) for number in range(4))), behind

    drawn_s, texts, behind = run_on_virtual_time(main())
    assert texts == ["x" * FastAdapter.CHUNKS] * 4
    busiest = max(sum(start <= at_s < start + 1 for at_s in drawn_s) for start in drawn_s)
    assert 12 <= busiest <= UPDATES_PER_S + 2 * 4, "beside a first and a last update of each column"
    assert max(behind) <= 2, "an update shows what has arrived until then"


def test_stop_ends_one_column_and_stop_all_ends_every_column() -> None:
    async def main() -> tuple[list[list[Any]], list[float]]:
        table = ComparisonDriver()
        running = asyncio.create_task(table.run_round())
        await asyncio.sleep(1.5)
        await table.compare.stop(0, make_request())
        await asyncio.sleep(1.0)
        await table.compare.stop_all(make_request())
        adapter = table.providers.adapter
        return await running, adapter.closed_s

    (first, second, *_), closed_s = run_on_virtual_time(main())
    assert closed_s == [1.5, 2.5]
    assert answer_text(first[-1]) == "one " and answer_text(second[-1]) == ""
    assert "Stopped" in first[-1][1] and "Stopped" in second[-1][1]


def test_new_round_replaces_columns_of_previous_round() -> None:
    async def main() -> tuple[list[list[Any]], list[list[Any]], list[float], bool]:
        table = ComparisonDriver()
        first = asyncio.create_task(table.run_round())
        await asyncio.sleep(1.5)
        second = asyncio.create_task(table.run_round())
        await asyncio.sleep(0.1)
        late = await table.run_column(0)
        assert late == [NO_UPDATE], "it is asked once, however late the first round's event comes"
        ended = table.compare.comparison("a").round
        frames = await first, await second
        assert ended is not None
        return *frames, table.providers.adapter.closed_s[:2], ended.ended

    first, second, closed_s, ended = run_on_virtual_time(main())
    assert closed_s == [1.5, 1.5] and [column[-1] for column in first] == [NO_UPDATE] * COLUMNS
    assert answer_text(second[0][-1]) == "one two three" and ended


def test_results_appear_after_last_column_ends() -> None:
    async def main() -> tuple[Any, Any]:
        table = ComparisonDriver()
        await table.begin()
        await table.run_column(0)
        early = table.compare.on_column_end(make_request())
        await table.run_column(1)
        return early, table.compare.on_column_end(make_request())

    early, late = run_on_virtual_time(main())
    assert not any("value" in item for item in early)
    ballot, announced, stop_all, spent, results, *plots = late
    assert announced == strings.COMPARE_DONE
    assert ballot["visible"] is True and stop_all["visible"] == "hidden"
    assert "for 2 answers" in spent
    assert "ollama:a" in results["value"] and "sim:steady" in results["value"]
    assert [plot["visible"] for plot in plots] == [True] * 4


@pytest.mark.parametrize("seed", range(4))
def test_blind_round_hides_providers_until_vote(seed: int) -> None:
    async def main() -> tuple[Any, ...]:
        table = ComparisonDriver(blind=True, seed=seed)
        head = await table.begin()
        frames = [await table.run_column(number) for number in range(2)]
        shown = (head, frames, table.compare.on_column_end(make_request()))
        return *shown, table.compare.vote("A", make_request())

    *before, after = run_on_virtual_time(main())
    shown_text = str(before).lower()
    assert not any(word in shown_text for word in ("ollama", "sim:", "simulated", "no price"))
    heads = after[:2]
    assert {"ollama:a", "sim:steady"} == {head.partition(" · ")[2].removesuffix("</h3>") for head in heads}
    votes = after[COLUMNS + 1]
    assert heads[0].partition(" · ")[2].removesuffix("</h3>") in votes.partition("<tbody>")[2].partition("</th>")[0]


def test_invalid_prompt_starts_no_column() -> None:
    async def main() -> tuple[tuple[Any, ...], list[Any]]:
        table = ComparisonDriver()
        return await table.begin("  "), await table.run_column(0)

    started, frames = run_on_virtual_time(main())
    assert started[COLUMNS] == strings.EMPTY_MESSAGE and strings.EMPTY_MESSAGE in started[COLUMNS + 1]
    assert frames == [NO_UPDATE]


def test_columns_share_page_budget() -> None:
    def price(usage: Usage) -> Cost:
        return Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "user")

    async def main() -> tuple[list[list[Any]], list[float], Any]:
        table = ComparisonDriver(budget="0.025")
        table.providers.price = price
        first = await table.run_round()
        assert table.compare.on_column_end(make_request())[3].count("$") == 1
        return first, [*table.providers.adapter.closed_s], await table.run_round()

    first, closed_s, again = run_on_virtual_time(main())
    assert all(strings.BUDGET_REACHED in str(column[-1]) for column in first[:1])
    assert closed_s[0] == 2.0, "two tokens of one and one of the other, where either alone had gone on"
    assert all("which is its budget" in str(column[-1]) for column in again[:2])


def test_blind_round_cost_is_shown_after_vote() -> None:
    async def main() -> tuple[Any, Any]:
        table = ComparisonDriver(blind=True)
        await table.run_round()
        return table.compare.on_column_end(make_request())[3], table.compare.vote("A", make_request())[COLUMNS + 2]

    before, after = run_on_virtual_time(main())
    assert "answers" not in str(before) and "for 2 answers" in after


async def run_pipeline(
    left: str,
    right: str,
    scenario: str = "sim:steady",
    stop_at_s: float | None = None,
    guard: Guard | None = None,
    adapter: SlowAdapter | None = None,
) -> list[Any]:
    answer_service = make_answer_service(FakeProviders(adapter or SlowAdapter()), GuardConfig(), guard=guard)
    pipeline = PipelineHandlers(answer_service, Scenarios(answer_service))

    async def collect_updates() -> list[Any]:
        return [frame async for frame in pipeline.run(scenario, left, right, 100.0, "Hi", make_request())]

    running = asyncio.create_task(collect_updates())
    if stop_at_s is not None:
        await asyncio.sleep(stop_at_s)
        await pipeline.stop(make_request())
    return await running


def texts_of(frames: list[Any], side: int) -> list[str]:
    return [frame[side] for frame in frames if isinstance(frame[side], str) and frame[side]]


def test_pipeline_stream_feeds_both_panes() -> None:
    frames = run_on_virtual_time(run_pipeline("direct", "whole"))
    assert {len(frame) for frame in frames} == {9}, "one value for each output"
    assert texts_of(frames, 0)[:3] == ["one ", "one two ", "one two three"]
    assert set(texts_of(frames, 1)) == {"one two three"}
    assert "Complete" in frames[-1][5] and 'data-state="succeeded"' in frames[-1][4]
    assert "<svg" in frames[-1][6]


def test_text_held_at_stream_end_is_still_shown() -> None:
    frames = run_on_virtual_time(run_pipeline("pace", "debounce"))
    assert texts_of(frames, 0)[-1] == texts_of(frames, 1)[-1] == "one two three"
    assert "Complete" in frames[-1][5]


def test_state_diagram_is_updated_in_each_state_while_waiting() -> None:
    frames = run_on_virtual_time(run_pipeline("direct", "batch", stop_at_s=1.5))
    states = [
        part[:9] for frame in frames if "data-state" in str(frame[4]) for part in frame[4].split('data-state="')[1:]
    ]
    assert [states[0], states[-1]] == ['idle"><de', "cancelled"] and "streaming" in states
    assert texts_of(frames, 0)[-1] == "one "
    assert len(frames) >= 1.5 / TICK_INTERVAL_S


@pytest.mark.parametrize("stop_at_s", [0.5, 1.5, None])
def test_pipeline_run_settles_its_reservation_however_it_ends(stop_at_s: float | None) -> None:
    async def main() -> list[str]:
        guard = Guard(GuardConfig(budget=Budget(streams_per_caller=1)), clock=loop_clock())
        playing = asyncio.create_task(run_pipeline("direct", "batch", "local", stop_at_s, guard))
        await asyncio.sleep(0.25)
        refused = (await run_pipeline("direct", "batch", "local", guard=guard))[-1][5]
        await playing
        return [refused, (await run_pipeline("direct", "batch", "local", guard=guard))[-1][5]]

    refused, again = run_on_virtual_time(main())
    assert strings.NOT_ANSWERED in refused and "Complete" in again


def test_pipeline_run_applies_output_filter() -> None:
    async def main() -> list[Any]:
        return await run_pipeline("direct", "whole", guard=Guard(GuardConfig(banned=("two",)), clock=loop_clock()))

    frames = run_on_virtual_time(main())
    shown = texts_of(frames, 0)[-1]
    assert shown == texts_of(frames, 1)[-1] and "two" not in shown and shown.endswith("three")


class FloodAdapter(SlowAdapter):
    """An adapter that sends a million characters at once."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        yield TextDelta("x" * 1_000_000)
        yield Finish("stop")


class FailingAdapter(SlowAdapter):
    """An adapter that fails every request immediately."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        raise TruncatedStreamError("down")
        yield


class RetryingProviders(FakeProviders):
    def new_session(self, names: Sequence[str], *, clock: Clock) -> Session:
        return Session([Route(names[0], self.adapter, "")], clock, policy=RetryPolicy(delays_s=(1.0,)))


def test_instantaneous_state_is_drawn() -> None:
    async def main() -> list[Any]:
        answer_service = make_answer_service(RetryingProviders(FailingAdapter()))
        pipeline = PipelineHandlers(answer_service, Scenarios(answer_service))
        return [frame async for frame in pipeline.run("sim:steady", "direct", "batch", 100.0, "Hi", make_request())]

    drawn = [
        match[1] for frame in run_on_virtual_time(main()) if (match := re.search(r'data-state="(\w+)"', str(frame[4])))
    ]
    states = ["idle", *["streaming", "retrying"] * 3, "streaming", "fallback", "failed"]
    assert [state for state, _ in groupby(drawn)] == states


def test_huge_answer_is_truncated_for_display() -> None:
    frames = run_on_virtual_time(run_pipeline("direct", "whole", adapter=FloodAdapter()))
    shown = texts_of(frames, 0)[-1]
    assert shown == texts_of(frames, 1)[-1] and shown.endswith("1,000,000 characters came.")
    assert len(shown) < 11_000


@pytest.mark.parametrize(("scenario", "output"), [("sim:steady", "Simulated · Complete"), ("local", "Complete")])
def test_simulated_run_end_is_labelled(scenario: str, output: str) -> None:
    last = run_on_virtual_time(run_pipeline("direct", "whole", scenario))[-1]
    assert f"<strong>{output}</strong>" in last[5] and last[8] == output


def test_unlisted_scenario_is_rejected() -> None:
    frames = run_on_virtual_time(run_pipeline("direct", "batch", scenario="openai:a"))
    assert len(frames) == 1 and "There is no stream" in frames[0][5]
