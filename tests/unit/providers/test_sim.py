"""The simulated provider keeps its schedule, and breaks where its profile says so."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from providers.sim import SimAdapter
from simulator.schedules import PROFILES, schedule, seed_for
from streaming.clock import monotonic
from streaming.errors import NotFound, ServerError, StreamError, TruncatedStream, UsageError
from streaming.events import Event, Finish, Grammar, Notice, TextDelta, ThinkingDelta, Timed, Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Meter
from streaming.session import Route, Session
from tests.virtual_time import clock, run_virtual

ASKED = ChatRequest((Message("system", "Be brief."), Message("user", "Name three colours.")), "steady")
PROMPT = "Be brief.\nName three colours."


async def timed(adapter: SimAdapter, request: ChatRequest) -> tuple[list[Timed], StreamError | None]:
    """Give the events with seconds since the call, and how it broke."""
    now = asyncio.get_running_loop().time
    start_s, found = now(), []
    try:
        async with aclosing(adapter.stream(request)) as events:
            async for event in events:
                found.append(Timed(now() - start_s, event))
    except StreamError as error:
        return found, error
    return found, None


def play(request: ChatRequest, *, seed: int = 0) -> tuple[list[Timed], StreamError | None]:
    async def main() -> tuple[list[Timed], StreamError | None]:
        return await timed(SimAdapter(clock(), seed=seed), request)

    return run_virtual(main(), start_s=5.0)


def text_of(found: list[Timed]) -> str:
    return "".join(t.event.text for t in found if isinstance(t.event, TextDelta))


@pytest.mark.parametrize("profile", PROFILES)
def test_deltas_come_when_the_schedule_says(profile: str) -> None:
    found, _ = play(replace(ASKED, model=profile))
    plan = schedule(PROFILES[profile], seed_for(0, PROMPT))
    deltas = [t for t in found if isinstance(t.event, TextDelta | ThinkingDelta)]
    assert [t.at_s for t in deltas] == pytest.approx([step.at_s for step in plan.steps])
    assert text_of(found) == plan.text
    assert "".join(t.event.text for t in deltas if isinstance(t.event, ThinkingDelta)) == plan.thinking


def test_steady_begins_after_200_ms_and_goes_on_every_20() -> None:
    found, error = play(ASKED)
    times = [t.at_s for t in found if isinstance(t.event, TextDelta)]
    assert error is None
    assert times == pytest.approx([0.2 + 0.02 * n for n in range(64)])


def test_the_first_event_says_that_it_is_simulated() -> None:
    found, _ = play(ASKED)
    first = found[0]
    assert first.at_s == 0.0
    assert isinstance(first.event, Notice) and first.event.kind == "connected" and "imulated" in first.event.message
    assert "simulated" in text_of(found)


@pytest.mark.parametrize("profile", ["steady", "bursty", "slow-start", "stalling", "thinking"])
def test_a_healthy_profile_obeys_the_grammar_and_reports_its_own_counts(profile: str) -> None:
    found, error = play(replace(ASKED, model=profile))
    grammar = Grammar()
    for t in found:
        grammar.feed(t.event)
    grammar.end()
    plan = schedule(PROFILES[profile], seed_for(0, PROMPT))
    assert error is None
    assert [t.event for t in found[-2:]] == [
        Usage(-(-len(PROMPT) // 4), len(plan.steps), plan.thinking_tokens, 0, "reported"),
        Finish("stop", "stop"),
    ]
    assert found[-1].at_s == pytest.approx(plan.end_at_s)


def test_an_empty_name_is_the_steady_profile() -> None:
    assert play(replace(ASKED, model=""))[0] == play(ASKED)[0]


@pytest.mark.parametrize(("profile", "error"), [("cut", TruncatedStream), ("error", ServerError)])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_broken_profile_ends_in_its_error(profile: str, error: type[StreamError], streamed: bool) -> None:
    found, broke = play(replace(ASKED, model=profile, streamed=streamed))
    assert type(broke) is error
    assert not any(isinstance(t.event, Finish | Usage) for t in found)
    assert bool(text_of(found)) == streamed


def test_without_streaming_the_whole_text_comes_at_the_end_of_the_schedule() -> None:
    whole, streamed = play(replace(ASKED, streamed=False))[0], play(ASKED)[0]
    deltas = [t for t in whole if isinstance(t.event, TextDelta)]
    assert len(deltas) == 1
    assert text_of(whole) == text_of(streamed)
    assert deltas[0].at_s == whole[-1].at_s == streamed[-1].at_s
    assert [type(t.event) for t in whole[-3:]] == [TextDelta, Usage, Finish]
    assert [t.event for t in whole[-2:]] == [t.event for t in streamed[-2:]]


@pytest.mark.parametrize("streamed", [True, False])
def test_its_own_counts_are_what_the_meter_shows_streamed_or_not(streamed: bool) -> None:
    meter = Meter(ASKED.messages, 0.0)
    for t in play(replace(ASKED, streamed=streamed))[0]:
        meter.feed(t.event, t.at_s)
    usage = meter.read(9.0).usage
    assert (usage.output_tokens, usage.source) == (64, "reported")


def test_max_tokens_ends_it_with_length() -> None:
    found, error = play(replace(ASKED, max_tokens=5))
    assert error is None
    assert sum(isinstance(t.event, TextDelta) for t in found) == 5
    assert found[-1].event == Finish("length", "length")
    usage = next(t.event for t in found if isinstance(t.event, Usage))
    assert usage.output_tokens == 5


def test_repeats_are_equal_and_other_prompts_and_seeds_are_not() -> None:
    other = replace(ASKED, messages=(Message("user", "Name four."),))
    assert play(ASKED) == play(ASKED)
    assert len({text_of(found) for found, _ in (play(ASKED), play(other), play(ASKED, seed=1))}) == 3


def test_an_unknown_profile_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match="steady, bursty"):
        SimAdapter().check("nervous")
    SimAdapter().check("")
    SimAdapter().check("stalling")
    found, error = play(replace(ASKED, model="nervous"))
    assert found == []
    assert isinstance(error, NotFound) and "bursty" in error.message


def test_a_consumer_that_lags_makes_it_catch_up_without_moving_the_schedule() -> None:
    async def main() -> list[float]:
        now = asyncio.get_running_loop().time
        times = []
        async with aclosing(SimAdapter(now).stream(ASKED)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    times.append(now())
                    if len(times) == 1:
                        await asyncio.sleep(0.25)
        return times

    times = run_virtual(main())
    assert times[1] == times[12] == pytest.approx(0.45)
    assert times[14:] == pytest.approx([0.2 + 0.02 * n for n in range(14, 64)])


def test_closing_leaves_nothing_behind() -> None:
    async def main() -> None:
        for close_after in range(4):
            events = SimAdapter(clock()).stream(ASKED)
            for _ in range(close_after):
                await anext(events)
            await events.aclose()
            assert len(asyncio.all_tasks()) == 1
        waiting = asyncio.ensure_future(timed(SimAdapter(clock()), ASKED))
        await asyncio.sleep(0.3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run_virtual(main())


def test_a_session_reports_the_cut_profile_as_failed() -> None:
    async def main() -> list[Event]:
        session = Session([Route("sim:cut", SimAdapter(clock()), "cut")], clock())
        return [event async for event in session.answer(ASKED)]

    assert getattr(run_virtual(main())[-1], "kind", None) == "truncated"


def test_on_the_real_clock_it_is_never_early() -> None:
    async def main() -> list[Timed]:
        found, _ = await timed(SimAdapter(monotonic), ASKED)
        return [t for t in found if isinstance(t.event, TextDelta)]

    late_s = [t.at_s - (0.2 + 0.02 * n) for n, t in enumerate(asyncio.run(main()))]
    assert min(late_s) > -0.001
