"""Tests of the event handlers of the compare and pipeline tabs on virtual time."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import fields
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Any

import gradio as gr
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
from tests.unit.ui.ui_fixtures import FakeProviders, FastAdapter, SlowAdapter, make_answer_service, make_request
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui import strings
from ui.answers import TICK_INTERVAL_S
from ui.compare import columns
from ui.compare.handlers import COLUMNS, NO_UPDATE, CompareHandlers
from ui.compare.round import MAX_STOP_S, PageComparison
from ui.compare.updates import RoundParts
from ui.page_sessions.update_pacer import UPDATES_PER_S
from ui.pipeline.handlers import PipelineHandlers
from ui.pipeline.scenarios import Scenarios

COLUMN_FIELDS = ["ollama:a", "", "direct", "sim:steady", "", "whole", "local", "", "direct", "local", "", "direct"]


LIST_PARTS = ("boxes", "heads", "answers", "stages", "metrics", "stops", "letters", "plots")


def read_update(update: tuple[Any, ...]) -> dict[str, Any]:
    """Return an update of a whole round by the names of its parts."""
    names = [one.name for one in fields(RoundParts)]
    values = iter(update)
    parts = {name: [next(values) for _ in range(COLUMNS)] if name in LIST_PARTS else next(values) for name in names}
    assert not [*values]
    return parts


class ComparisonDriver:
    """A page that calls `CompareHandlers` as Gradio does."""

    def __init__(
        self, *, blind: bool = False, count: int = 2, seed: int = 0, budget: str = "", cut: bool = False
    ) -> None:
        self.providers = FakeProviders(SlowAdapter(cut=cut))
        self.answer_service = make_answer_service(self.providers)
        self.budget = budget
        self.compare = CompareHandlers(self.answer_service, random.Random(seed))
        self.blind, self.count = blind, count
        self.fields = COLUMN_FIELDS

    @property
    def comparison(self) -> PageComparison:
        return self.compare.comparison("a")

    async def begin(self, prompt: str = "Count.") -> dict[str, Any]:
        started = await self.compare.begin(
            make_request(), prompt, self.count, self.blind, "100", self.budget, "", *self.fields
        )
        return read_update(started)

    async def run_column(self, number: int) -> list[Any]:
        return [frame async for frame in self.compare.ask(number, make_request())]

    async def run_round(self, prompt: str = "Count.") -> list[list[Any]]:
        await self.begin(prompt)
        return await asyncio.gather(*(self.run_column(number) for number in range(COLUMNS)))

    def on_column_end(self) -> dict[str, Any]:
        return read_update(self.compare.on_column_end(make_request()))

    def vote(self, choice: str) -> dict[str, Any]:
        return read_update(self.compare.vote(choice, make_request()))


def answer_text(frame: Any) -> str:
    return "".join(
        p["text"] for turn in frame[0] if turn["role"] == "assistant" and not turn["metadata"] for p in turn["content"]
    )


def is_unchanged(update: dict[str, Any]) -> bool:
    skip = gr.skip()
    return all(value == skip for part in update.values() for value in (part if isinstance(part, list) else [part]))


def test_columns_stream_independently_and_unused_ones_stay_idle() -> None:
    async def main() -> list[list[Any]]:
        return await ComparisonDriver().run_round()

    direct, whole, *rest = run_on_virtual_time(main())
    assert rest == [[NO_UPDATE], [NO_UPDATE]]
    assert sorted({answer_text(frame) for frame in direct}, key=len) == ["", "one ", "one two ", "one two three"]
    assert {answer_text(frame) for frame in whole} == {"", "one two three"}
    assert [direct[-1][3]["visible"], whole[-1][3]["visible"]] == ["hidden", "hidden"]
    assert direct[0][3]["visible"] is True, "Stop is there before anything has come"


class PartlyStalledProviders(FakeProviders):
    """Providers of which one model never answers."""

    def new_session(self, names: Sequence[str], *, clock: Clock) -> Session:
        adapter = SlowAdapter(1e9) if names[0] == "ollama:stalled" else self.adapter
        return Session([Route(names[0], adapter, "")], clock, policy=NO_RETRY)


def test_stalled_column_does_not_delay_others() -> None:
    async def main(count: int) -> list[list[float]]:
        table = ComparisonDriver(count=count)
        table.compare = CompareHandlers(make_answer_service(PartlyStalledProviders(SlowAdapter())))
        table.fields = [*COLUMN_FIELDS[:9], "ollama:a", "stalled", "direct"]
        await table.begin()
        running = [asyncio.create_task(table.run_column(number)) for number in range(COLUMNS)]
        await asyncio.gather(*running[:3])
        assert running[3].done() == (count == 3), "it still waits when the others have ended"
        await table.compare.stop_all(make_request())
        await asyncio.gather(*running)
        result = table.comparison.round
        assert result is not None
        probes = [column.probe for column in result.columns[:3] if column.probe]
        return [[timed.at_s - probe.called_s for timed in probe.delivered] for probe in probes]

    alone = run_on_virtual_time(main(3))
    assert [len(stamps) for stamps in alone] == [4, 2, 4]
    assert run_on_virtual_time(main(4)) == alone


def test_four_direct_columns_share_the_updates_of_the_page_and_show_the_newest_text() -> None:
    async def main() -> tuple[list[float], list[str], list[float], list[str]]:
        table = ComparisonDriver(count=4)
        table.compare = CompareHandlers(make_answer_service(FakeProviders(FastAdapter())))
        table.fields = ["ollama:a", "", "direct"] * 4
        await table.begin()
        clock, drawn_s, behind = asyncio.get_running_loop().time, list[float](), list[float]()
        started_s = clock()

        async def run_column(number: int) -> str:
            text = ""
            async for frame in table.compare.ask(number, make_request()):
                text = answer_text(frame)
                drawn_s.append(clock())
                behind.append(min(45 * (clock() - started_s), FastAdapter.CHUNKS) - len(text))
            return text

        texts = await asyncio.gather(*(run_column(number) for number in range(4)))
        metrics = [columns.metrics_html(c, revealed=True) for c in table.comparison.round.columns]  # type: ignore[union-attr]  # a round has ended
        return drawn_s, texts, behind, metrics

    drawn_s, texts, behind, metrics = run_on_virtual_time(main())
    assert texts == ["x" * FastAdapter.CHUNKS] * 4
    busiest = max(sum(start <= at_s < start + 1 for at_s in drawn_s) for start in drawn_s)
    assert 12 <= busiest <= UPDATES_PER_S + 3 * 4, "beside the first two and the last update of each column"
    assert max(behind) <= 2, "an update shows what has arrived until then"
    for shown in metrics:
        found = re.search(r"UI updates</dt><dd[^>]*>(\d+)</dd>.*?>(\d+), (\d+) ms</dd>", shown)
        assert found is not None
        updates, mean_ms, max_ms = map(int, found.groups())
        assert 10 <= updates <= 20 and 50 < mean_ms < 200 and mean_ms < max_ms <= 300, "each has its turn in 267 ms"


def test_slow_browser_is_sent_the_newest_text_when_it_has_drawn_what_it_has() -> None:
    async def main() -> tuple[list[float], list[int]]:
        table, answer_service = ComparisonDriver(), make_answer_service(FakeProviders(FastAdapter()))
        table.compare = CompareHandlers(answer_service)
        table.fields = ["ollama:a", "", "direct"] * 4
        table.count = 1
        await table.begin()
        clock, sent_s, lengths = asyncio.get_running_loop().time, list[float](), list[int]()

        async def draw_slowly() -> None:
            for number in range(1, 100):
                await asyncio.sleep(0.5)
                answer_service.page_sessions.report_drawn("a", number)

        drawing = asyncio.create_task(draw_slowly())
        async for frame in table.compare.ask(0, make_request()):
            sent_s.append(clock())
            lengths.append(len(answer_text(frame)))
        drawing.cancel()
        return sent_s, lengths

    sent_s, lengths = run_on_virtual_time(main())
    late = [at_s for at_s in sent_s if sent_s[0] + 1.5 < at_s < sent_s[-1]]
    assert len(late) <= 6, "two a second are drawn, and no more are sent once enough of them wait"
    assert max(after - before for before, after in pairwise(lengths)) > 15 and lengths[-1] == FastAdapter.CHUNKS


class SlowlyClosedAdapter(FastAdapter):
    """A `FastAdapter` that takes `close_s` seconds to close."""

    def __init__(self, close_s: float) -> None:
        super().__init__()
        self.close_s = close_s

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        try:
            async for event in super().stream(request):
                yield event
        finally:
            await asyncio.sleep(self.close_s)


@pytest.mark.parametrize("close_s", [0.5, 2.0])
def test_stop_of_a_column_holds_back_the_other_for_a_second_at_most(close_s: float) -> None:
    async def main() -> tuple[float, float, list[float]]:
        table = ComparisonDriver()
        table.compare = CompareHandlers(make_answer_service(FakeProviders(SlowlyClosedAdapter(close_s))))
        table.fields = ["ollama:a", "", "direct"] * 4
        await table.begin()
        clock, other_s = asyncio.get_running_loop().time, list[float]()

        async def run_other() -> None:
            async for _ in table.compare.ask(1, make_request()):
                other_s.append(clock())

        running = [asyncio.create_task(table.run_column(0)), asyncio.create_task(run_other())]
        await asyncio.sleep(1.0)
        stopped_s = clock()
        await table.compare.stop(0, make_request())
        await running[0]
        ended_s = clock()
        await running[1]
        return stopped_s, ended_s, other_s

    stopped_s, ended_s, other_s = run_on_virtual_time(main())
    assert ended_s == pytest.approx(stopped_s + close_s, abs=0.1)
    before = [at_s for at_s in other_s if at_s < stopped_s]
    later = [at_s for at_s in other_s if at_s > stopped_s]
    assert len(before) > 5 and len(later) > 5
    assert later[0] == pytest.approx(stopped_s + min(close_s, MAX_STOP_S), abs=0.2)


def test_stop_ends_one_column_and_stop_all_ends_every_column() -> None:
    async def main() -> tuple[list[list[Any]], list[float], tuple[Any, Any]]:
        table = ComparisonDriver()
        running = asyncio.create_task(table.run_round())
        await asyncio.sleep(1.5)
        await table.compare.stop(0, make_request())
        await asyncio.sleep(1.0)
        buttons = await table.compare.stop_all(make_request())
        return await running, table.providers.adapter.closed_s, buttons

    (first, second, *_), closed_s, (send, stop_all) = run_on_virtual_time(main())
    assert closed_s == [1.5, 2.5]
    assert answer_text(first[-1]) == "one " and answer_text(second[-1]) == ""
    assert "Stopped" in first[-1][1] and "Stopped" in second[-1][1]
    assert send["visible"] is True and stop_all["visible"] == "hidden"


def test_stop_before_a_column_is_sent_sends_nothing_and_ends_the_round() -> None:
    async def main() -> tuple[list[Any], ComparisonDriver]:
        table = ComparisonDriver()
        await table.begin()
        await table.compare.stop(0, make_request())
        frames = await table.run_column(0)
        await table.compare.stop_all(make_request())  # the event of the second column was lost
        assert not table.comparison.running
        return frames, table

    frames, table = run_on_virtual_time(main())
    assert strings.NOT_SENT in frames[-1][1] and strings.COMPARE_NOT_SENT in str(frames[-1][0])
    assert table.providers.adapter.requests == []


def test_stop_before_the_first_token_ends_the_request() -> None:
    async def main() -> tuple[list[list[Any]], list[float]]:
        table = ComparisonDriver()
        running = asyncio.create_task(table.run_round())
        await asyncio.sleep(0.5)
        await table.compare.stop(0, make_request())
        await table.compare.stop(1, make_request())
        return await running, table.providers.adapter.closed_s

    frames, closed_s = run_on_virtual_time(main())
    assert closed_s == [0.5, 0.5] and all("Stopped" in frames[n][-1][1] for n in range(2))


@pytest.mark.parametrize(("prompt", "words"), [("Count.", None), ("", None), ("Something else.", strings.BUSY)])
def test_prompt_sent_during_a_round_changes_nothing(prompt: str, words: str | None) -> None:
    async def main() -> tuple[dict[str, Any], list[list[Any]], list[Any], int]:
        table = ComparisonDriver()
        running = asyncio.create_task(table.run_round())
        await asyncio.sleep(1.5)
        second = await table.begin(prompt)
        repeated = await table.run_column(0)
        return second, await running, repeated, len(table.providers.adapter.requests)

    second, frames, repeated, requests = run_on_virtual_time(main())
    assert is_unchanged(second) if words is None else words in second["errors"]
    assert repeated == [NO_UPDATE] and requests == 2
    assert [answer_text(column[-1]) for column in frames[:2]] == ["one two three"] * 2


def test_results_appear_after_last_column_ends() -> None:
    async def main() -> tuple[Any, Any, Any]:
        table = ComparisonDriver()
        await table.begin()
        await table.run_column(0)
        early = table.on_column_end()
        await table.run_column(1)
        return early, table.on_column_end(), table.on_column_end()

    early, late, again = run_on_virtual_time(main())
    assert is_unchanged(early) and is_unchanged(again)
    assert late["announcement"] == strings.COMPARE_DONE
    assert late["ballot"]["visible"] is True and late["stop_all"]["visible"] == "hidden"
    assert "for 2 answers" in late["spent"]
    assert "ollama:a" in late["results"]["value"] and "sim:steady" in late["results"]["value"]
    assert [plot["visible"] for plot in late["plots"]] == [True, True, True, False], "no cost is known"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cut", [False, True])
def test_blind_round_hides_providers_until_vote(seed: int, cut: bool) -> None:
    async def main() -> tuple[Any, ...]:
        table = ComparisonDriver(blind=True, seed=seed, cut=cut)
        head = await table.begin()
        frames = [await table.run_column(number) for number in range(2)]
        shown = (head, frames, table.on_column_end())
        return *shown, table.vote("A")

    *before, after = run_on_virtual_time(main())
    shown_text = str(before).lower()
    hidden = ("ollama", "sim:", "simulated", "free", "direct", "whole", "updates", "without a finish reason")
    assert not any(word in shown_text.replace("without a finish reason: ", "") for word in hidden)
    heads = after["heads"][:2]
    assert all(name in str(heads) for name in ("ollama:a", "sim:steady", "direct", "whole"))
    assert "Served by" in str(after["answers"][0]) and "Served by" in str(after["answers"][1])
    assert all("Added delay" in shown for shown in after["metrics"][:2])
    winner = "ollama:a" if "ollama:a" in heads[0] else "sim:steady"
    votes = after["results"]["value"].partition('id="sg-votes"')[2]
    assert f"A · {winner}" in votes.partition("<tbody>")[2].partition("</th>")[0]
    simulated = "A" if "sim:steady" in heads[0] else "B"
    assert winner in after["voted"]["value"]
    assert strings.VOTE_SIMULATED.format(letters=simulated) in after["voted"]["value"]


def test_blind_round_that_fails_whole_shows_its_names_and_reasons_without_a_vote() -> None:
    async def main() -> tuple[Any, Any, Any]:
        table = ComparisonDriver(blind=True)
        table.fields = ["openai:a", "", "direct", "openai:a", "b", "direct", *COLUMN_FIELDS[6:]]
        await table.begin()
        first = await table.run_column(0)
        second = await table.run_column(1)
        return first, second, table.on_column_end()

    first, second, after = run_on_virtual_time(main())
    assert "openai" not in str(first).lower() and "another provider" not in str(first)
    assert strings.HIDDEN_REASON in str(first)
    assert "openai:" in str(after["heads"]) and "choose another provider" in str(after["answers"])
    assert after["ballot"]["visible"] is False and "another provider" in str(second[-1])


def test_follow_up_goes_to_all_columns_with_what_was_said() -> None:
    async def main() -> tuple[list[ChatRequest], list[list[Any]]]:
        table = ComparisonDriver()
        await table.run_round("First.")
        frames = await table.run_round("Second.")
        return table.providers.adapter.requests, frames

    requests, frames = run_on_virtual_time(main())
    said = [[(message.role, message.content) for message in request.messages] for request in requests]
    assert said[:2] == [[("user", "First.")]] * 2
    assert said[2:] == [[("user", "First."), ("assistant", "one two three"), ("user", "Second.")]] * 2
    texts = [turn["content"][0]["text"] for turn in frames[0][-1][0] if turn["role"] == "user"]
    assert texts == ["First.", "Second."]


def test_blind_follow_up_keeps_its_columns_and_a_revealed_one_starts_anew() -> None:
    async def main() -> tuple[list[list[str]], list[int]]:
        table = ComparisonDriver(blind=True, seed=1)
        orders, turns = [], []
        for _ in range(4):
            await table.run_round()
            table.on_column_end()
            this_round = table.comparison.round
            assert this_round is not None
            orders.append([column.name for column in this_round.columns])
            turns.append(len(this_round.columns[0].earlier))
            if len(turns) == 2:
                table.vote("B")
        return orders, turns

    orders, turns = run_on_virtual_time(main())
    assert turns == [0, 1, 0, 1] and orders[0] == orders[1] and orders[2] == orders[3]


def test_changed_models_start_new_conversations() -> None:
    async def main() -> int:
        table = ComparisonDriver()
        await table.run_round()
        table.fields = ["ollama:a", "", "pace", *COLUMN_FIELDS[3:]]
        await table.run_round()
        assert table.comparison.round is not None
        return len(table.comparison.round.columns[0].earlier)

    assert run_on_virtual_time(main()) == 0


def test_new_comparison_stops_answers_and_empties_the_columns() -> None:
    async def main() -> tuple[dict[str, Any], list[list[Any]], list[float]]:
        table = ComparisonDriver()
        running = asyncio.create_task(table.run_round())
        await asyncio.sleep(1.5)
        emptied = read_update(await table.compare.start_over(make_request()))
        return emptied, await running, table.providers.adapter.closed_s

    emptied, frames, closed_s = run_on_virtual_time(main())
    assert emptied["answers"] == [[]] * COLUMNS and emptied["ask"]["visible"] is True
    assert closed_s == [1.5, 1.5] and [column[-1] for column in frames] == [NO_UPDATE] * COLUMNS


def test_failed_column_shows_its_answer_and_the_reason_above_a_folded_receipt() -> None:
    async def main() -> list[list[Any]]:
        return await ComparisonDriver(cut=True).run_round()

    shown = run_on_virtual_time(main())[0][-1][0]
    texts = [turn["content"][0]["text"] for turn in shown]
    assert texts[0] == "Count." and texts[1] == "one two three"
    assert "ended without a finish reason" in texts[2] and not shown[2]["metadata"]
    assert "Served by" in texts[3] and shown[3]["metadata"]["status"] == "done"


def test_invalid_prompt_starts_no_column_and_keeps_the_round_shown() -> None:
    async def main() -> tuple[Any, list[Any], Any]:
        table = ComparisonDriver()
        started, frames = await table.begin("  "), await table.run_column(0)
        await table.run_round()
        table.on_column_end()
        return started, frames, await table.begin(" ")

    started, frames, again = run_on_virtual_time(main())
    assert started["announcement"] == strings.EMPTY_MESSAGE and strings.EMPTY_MESSAGE in started["errors"]
    assert frames == [NO_UPDATE]
    skip = gr.skip()
    assert all(again[name] == skip for name in ("results", "ballot", "prompt", "ask"))


def test_change_of_count_hides_no_column_of_a_round() -> None:
    async def main() -> tuple[list[Any], list[Any]]:
        table = ComparisonDriver()
        before = table.compare.change_count(4, make_request())
        await table.run_round()
        return before, table.compare.change_count(2, make_request())

    before, after = run_on_virtual_time(main())
    assert [one["visible"] for one in before] == [True] * 8
    assert [one["visible"] for one in after[:4]] == [True, True, False, False]
    assert after[4:] == [gr.skip()] * 4


def test_model_list_names_its_provider_and_what_the_service_offers() -> None:
    async def main() -> list[str]:
        table = ComparisonDriver()
        table.providers.models = ["llama3.2", "qwen3"]
        return [await table.compare.list_models(name, make_request()) for name in ("ollama:a", "local", None)]

    assert run_on_virtual_time(main()) == ["ollama:a\nllama3.2\nqwen3", "local", ""]


def test_hostile_model_name_is_text_everywhere() -> None:
    hostile = "<img src=x onerror=alert(1)>\u202e"

    async def main() -> tuple[Any, Any]:
        table = ComparisonDriver()
        table.fields = ["ollama:a", hostile, "direct", *COLUMN_FIELDS[3:]]
        started = await table.begin()
        for number in range(2):
            await table.run_column(number)
        ended = table.on_column_end()
        return started, (ended, table.vote("A"))

    started, (ended, voted) = run_on_virtual_time(main())
    assert "&lt;img" in started["heads"][0] and "\u202e" not in started["heads"][0]
    for shown in (started["heads"][0], ended["results"]["value"], voted["voted"]["value"], voted["results"]["value"]):
        assert "<img" not in shown
    assert all("<img" not in plot["value"].plot for plot in ended["plots"] if plot["visible"])


def test_columns_share_page_budget() -> None:
    def price(usage: Usage) -> Cost:
        return Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "user")

    async def main() -> tuple[list[list[Any]], list[float], Any]:
        table = ComparisonDriver(budget="0.025")
        table.providers.price = price
        first = await table.run_round()
        assert table.on_column_end()["spent"].count("$") == 1
        return first, [*table.providers.adapter.closed_s], await table.run_round()

    first, closed_s, again = run_on_virtual_time(main())
    assert all(strings.BUDGET_REACHED in str(column[-1]) for column in first[:1])
    assert closed_s[0] == 2.0, "two tokens of one and one of the other, where either alone had gone on"
    assert all("has been spent" in str(column[-1]) for column in again[:2])


def test_blind_round_cost_is_shown_after_vote() -> None:
    async def main() -> tuple[Any, Any]:
        table = ComparisonDriver(blind=True)
        await table.run_round()
        return table.on_column_end()["spent"], table.vote("A")["spent"]

    before, after = run_on_virtual_time(main())
    assert before == gr.skip() and "for 2 answers" in after


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
    assert "Done" in frames[-1][5] and 'data-state="succeeded"' in frames[-1][4]
    assert "<svg" in frames[-1][6]


def test_text_held_at_stream_end_is_still_shown() -> None:
    frames = run_on_virtual_time(run_pipeline("pace", "debounce"))
    assert texts_of(frames, 0)[-1] == texts_of(frames, 1)[-1] == "one two three"
    assert "Done" in frames[-1][5]


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
    assert strings.NOT_SENT in refused and "Done" in again


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


@pytest.mark.parametrize(("scenario", "output"), [("sim:steady", "Simulated · Done"), ("local", "Done")])
def test_simulated_run_end_is_labelled(scenario: str, output: str) -> None:
    last = run_on_virtual_time(run_pipeline("direct", "whole", scenario))[-1]
    assert f"<strong>{output}</strong>" in last[5] and last[8] == output


def test_unlisted_scenario_is_rejected() -> None:
    frames = run_on_virtual_time(run_pipeline("direct", "batch", scenario="openai:a"))
    assert len(frames) == 1 and "There is no scenario" in frames[0][5]
