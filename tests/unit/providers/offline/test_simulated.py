"""The simulated provider: events on schedule, and errors where the profile has them."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from providers.offline.simulated import SimAdapter
from simulator.schedules import PROFILES, make_schedule, seed_for
from streaming.clock import monotonic
from streaming.errors import NotFoundError, ServerError, StreamError, TruncatedStreamError, UsageError
from streaming.events import Event, Finish, Grammar, Notice, TextDelta, ThinkingDelta, TimedEvent, Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Meter
from streaming.session import Route, Session
from tests.virtual_time import loop_clock, run_on_virtual_time

REQUEST = ChatRequest((Message("system", "Be brief."), Message("user", "Name three colours.")), "steady")
PROMPT = "Be brief.\nName three colours."


async def collect_timed(adapter: SimAdapter, request: ChatRequest) -> tuple[list[TimedEvent], StreamError | None]:
    """Return the events with their times in seconds since the call, and the error that ended them, if any."""
    now = asyncio.get_running_loop().time
    start_s, result = now(), []
    try:
        async with aclosing(adapter.stream(request)) as events:
            async for event in events:
                result.append(TimedEvent(now() - start_s, event))
    except StreamError as error:
        return result, error
    return result, None


def play_request(request: ChatRequest, *, seed: int = 0) -> tuple[list[TimedEvent], StreamError | None]:
    async def main() -> tuple[list[TimedEvent], StreamError | None]:
        return await collect_timed(SimAdapter(loop_clock(), seed=seed), request)

    return run_on_virtual_time(main(), start_s=5.0)


def join_text(result: list[TimedEvent]) -> str:
    return "".join(t.event.text for t in result if isinstance(t.event, TextDelta))


@pytest.mark.parametrize("profile", PROFILES)
def test_deltas_follow_schedule(profile: str) -> None:
    result, _ = play_request(replace(REQUEST, model=profile))
    plan = make_schedule(PROFILES[profile], seed_for(0, PROMPT))
    deltas = [t for t in result if isinstance(t.event, TextDelta | ThinkingDelta)]
    assert [t.at_s for t in deltas] == pytest.approx([step.at_s for step in plan.steps])
    assert join_text(result) == plan.text
    assert "".join(t.event.text for t in deltas if isinstance(t.event, ThinkingDelta)) == plan.thinking


def test_caching_profile_starts_sooner_when_asked_again() -> None:
    async def main() -> list[float]:
        adapter = SimAdapter(loop_clock())
        found = [await collect_timed(adapter, replace(REQUEST, model="caching")) for _ in range(2)]
        return [next(t.at_s for t in events if isinstance(t.event, TextDelta)) for events, _ in found]

    assert run_on_virtual_time(main(), start_s=5.0) == pytest.approx([0.8, 0.1])


def test_flaky_profile_breaks_off_for_three_prompts_in_ten() -> None:
    plans = [make_schedule(PROFILES["flaky"], seed_for(0, f"prompt {number}")) for number in range(400)]
    cut = [plan for plan in plans if plan.ending == "cut"]
    assert 90 <= len(cut) <= 150 and all(plan.finish_reason is None and len(plan.steps) == 32 for plan in cut)


def test_steady_profile_starts_at_200_ms_with_20_ms_gaps() -> None:
    result, error = play_request(REQUEST)
    times = [t.at_s for t in result if isinstance(t.event, TextDelta)]
    assert error is None
    assert times == pytest.approx([0.2 + 0.02 * n for n in range(64)])


def test_first_notice_says_simulated() -> None:
    result, _ = play_request(REQUEST)
    first = result[0]
    assert first.at_s == 0.0
    assert isinstance(first.event, Notice) and first.event.kind == "connected" and "imulated" in first.event.message
    assert "simulated" in join_text(result)


@pytest.mark.parametrize("profile", ["steady", "bursty", "slow-start", "stalling", "thinking"])
def test_healthy_profile_follows_grammar_and_reports_usage(profile: str) -> None:
    result, error = play_request(replace(REQUEST, model=profile))
    grammar = Grammar()
    for t in result:
        grammar.feed(t.event)
    grammar.end()
    plan = make_schedule(PROFILES[profile], seed_for(0, PROMPT))
    assert error is None
    assert [t.event for t in result[-2:]] == [
        Usage(-(-len(PROMPT) // 4), len(plan.steps), plan.thinking_tokens, 0, "reported"),
        Finish("stop", "stop"),
    ]
    assert result[-1].at_s == pytest.approx(plan.end_at_s)


def test_empty_model_name_selects_steady_profile() -> None:
    assert play_request(replace(REQUEST, model=""))[0] == play_request(REQUEST)[0]


@pytest.mark.parametrize(("profile", "error"), [("cut", TruncatedStreamError), ("error", ServerError)])
@pytest.mark.parametrize("streamed", [True, False])
def test_broken_profile_raises_its_error(profile: str, error: type[StreamError], streamed: bool) -> None:
    result, broke = play_request(replace(REQUEST, model=profile, streamed=streamed))
    assert type(broke) is error
    assert not any(isinstance(t.event, Finish | Usage) for t in result)
    assert bool(join_text(result)) == streamed


def test_non_streamed_answer_comes_at_schedule_end() -> None:
    whole, streamed = play_request(replace(REQUEST, streamed=False))[0], play_request(REQUEST)[0]
    deltas = [t for t in whole if isinstance(t.event, TextDelta)]
    assert len(deltas) == 1
    assert join_text(whole) == join_text(streamed)
    assert deltas[0].at_s == whole[-1].at_s == streamed[-1].at_s
    assert [type(t.event) for t in whole[-3:]] == [TextDelta, Usage, Finish]
    assert [t.event for t in whole[-2:]] == [t.event for t in streamed[-2:]]


@pytest.mark.parametrize("streamed", [True, False])
def test_meter_shows_reported_counts_streamed_or_not(streamed: bool) -> None:
    meter = Meter(REQUEST.messages, 0.0)
    for t in play_request(replace(REQUEST, streamed=streamed))[0]:
        meter.feed(t.event, t.at_s)
    usage = meter.read(9.0).usage
    assert (usage.output_tokens, usage.source) == (64, "reported")


def test_max_tokens_ends_answer_with_length() -> None:
    result, error = play_request(replace(REQUEST, max_tokens=5))
    assert error is None
    assert sum(isinstance(t.event, TextDelta) for t in result) == 5
    assert result[-1].event == Finish("length", "length")
    usage = next(t.event for t in result if isinstance(t.event, Usage))
    assert usage.output_tokens == 5


def test_same_prompt_and_seed_repeat_the_answer() -> None:
    other = replace(REQUEST, messages=(Message("user", "Name four."),))
    assert play_request(REQUEST) == play_request(REQUEST)
    assert (
        len(
            {
                join_text(entry)
                for entry, _ in (play_request(REQUEST), play_request(other), play_request(REQUEST, seed=1))
            }
        )
        == 3
    )


def test_unknown_profile_error_lists_profiles() -> None:
    with pytest.raises(UsageError, match="steady, bursty"):
        SimAdapter().validate_model("nervous")
    SimAdapter().validate_model("")
    SimAdapter().validate_model("stalling")
    result, error = play_request(replace(REQUEST, model="nervous"))
    assert result == []
    assert isinstance(error, NotFoundError) and "bursty" in error.message


def test_slow_consumer_does_not_shift_schedule() -> None:
    async def main() -> list[float]:
        now = asyncio.get_running_loop().time
        times = []
        async with aclosing(SimAdapter(now).stream(REQUEST)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    times.append(now())
                    if len(times) == 1:
                        await asyncio.sleep(0.25)
        return times

    times = run_on_virtual_time(main())
    assert times[1] == times[12] == pytest.approx(0.45)
    assert times[14:] == pytest.approx([0.2 + 0.02 * n for n in range(14, 64)])


def test_closing_stream_leaves_no_task() -> None:
    async def main() -> None:
        for close_after in range(4):
            events = SimAdapter(loop_clock()).stream(REQUEST)
            for _ in range(close_after):
                await anext(events)
            await events.aclose()
            assert len(asyncio.all_tasks()) == 1
        waiting = asyncio.ensure_future(collect_timed(SimAdapter(loop_clock()), REQUEST))
        await asyncio.sleep(0.3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run_on_virtual_time(main())


def test_session_reports_cut_profile_as_truncated() -> None:
    async def main() -> list[Event]:
        session = Session([Route("sim:cut", SimAdapter(loop_clock()), "cut")], loop_clock())
        return [event async for event in session.stream(REQUEST)]

    assert getattr(run_on_virtual_time(main())[-1], "kind", None) == "truncated"


def test_deltas_on_real_clock_are_never_early() -> None:
    async def main() -> list[TimedEvent]:
        result, _ = await collect_timed(SimAdapter(monotonic), REQUEST)
        return [t for t in result if isinstance(t.event, TextDelta)]

    late_s = [t.at_s - (0.2 + 0.02 * n) for n, t in enumerate(asyncio.run(main()))]
    assert min(late_s) > -0.001
