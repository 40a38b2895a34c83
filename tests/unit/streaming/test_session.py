"""The session on virtual time: time limits, retries, fallbacks, the state machine, one terminal event."""

import random
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from streaming import errors
from streaming.events import Event, Failed, Grammar, Notice, TextDelta, ThinkingDelta
from streaming.messages import ChatRequest
from streaming.retry import NO_RECOVERY, GiveUp, NextRoute, NonStreamed, Policy, Retry, Situation, decide
from streaming.session import Route, Session, Timeouts
from streaming.states import TRANSITIONS
from streaming.thinking import Stages
from tests.playing import FINISH, REQUEST, PlayingAdapter, Step, words
from tests.virtual_time import clock, run_virtual

BUSY = errors.RateLimited("slow down", http_status=429)
DOWN = errors.ServerError("down", http_status=503)
WHOLE: list[Step] = [(1.0, TextDelta("all of it")), (0.0, FINISH)]


class Asked:
    """One answer, its events and its session."""

    def __init__(
        self,
        *adapters: PlayingAdapter,
        request: ChatRequest = REQUEST,
        policy: Policy | None = None,
        timeouts: Timeouts | None = None,
        answers: int = 1,
    ) -> None:
        self.events: list[Event] = []
        self.adapters = adapters
        self.took_s = 0.0
        run_virtual(self._run(request, policy, timeouts, answers))

    async def _run(self, request: ChatRequest, policy: Policy | None, timeouts: Timeouts | None, answers: int) -> None:
        routes = [Route(f"p{i}:m", adapter, "m") for i, adapter in enumerate(self.adapters)]
        self.session = Session(routes, clock(), policy=policy, timeouts=timeouts)
        for _ in range(answers):
            grammar = Grammar()
            self.events.clear()
            async with aclosing(self.session.answer(request)) as events:
                async for event in events:
                    grammar.feed(event)
                    self.events.append(event)
            grammar.end()
        self.took_s = clock()()
        for adapter in self.adapters:
            await adapter.aclose()

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TextDelta))

    @property
    def notices(self) -> list[str]:
        return [e.kind for e in self.events if isinstance(e, Notice)]

    @property
    def failed(self) -> str | None:
        last = self.events[-1]
        return last.kind if isinstance(last, Failed) else None


def test_a_healthy_stream_passes_unchanged() -> None:
    asked = Asked(PlayingAdapter(words(5)))
    assert asked.events == [event for _, event in words(5)]
    assert asked.session.state == "succeeded"
    assert asked.session.attempts == 1


def test_retries_wait_one_two_and_four_seconds_then_ask_once_without_streaming() -> None:
    adapter = PlayingAdapter([(0.0, DOWN)])
    asked = Asked(adapter)
    assert adapter.asked_at_s == [0.0, 1.0, 3.0, 7.0, 7.0]
    assert [r.streamed for r in adapter.requests] == [True, True, True, True, False]
    assert asked.notices == ["retry", "retry", "retry", "fallback"]
    assert asked.events[-1] == Failed("server_error", "down", 503)
    assert asked.session.states == ["idle", *["streaming", "retrying"] * 3, "streaming", "fallback", "failed"]


def test_without_the_fallback_four_requests_are_made() -> None:
    adapter = PlayingAdapter([(0.0, BUSY)])
    Asked(adapter, policy=Policy(fallback=False))
    assert len(adapter.requests) == 4


def test_a_retry_that_succeeds_gives_the_answer_once() -> None:
    asked = Asked(PlayingAdapter([(0.0, DOWN)], words(3)))
    assert asked.text == "w0 w1 w2 "
    assert asked.notices == ["retry"]
    assert asked.session.state == "succeeded"
    assert asked.session.streamed


def test_retry_after_is_waited_for() -> None:
    patient = errors.RateLimited("later", http_status=429, retry_after_s=17.5)
    adapter = PlayingAdapter([(0.0, patient)], words(1))
    Asked(adapter)
    assert adapter.asked_at_s == [0.0, 17.5]


def test_more_patience_than_a_minute_is_not_waited_for() -> None:
    adapter = PlayingAdapter([(0.0, errors.RateLimited("later", http_status=429, retry_after_s=61))])
    asked = Asked(adapter)
    assert asked.failed == "rate_limited"
    assert asked.took_s == 0.0
    assert len(adapter.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_this_provider_goes_to_the_next(status: int) -> None:
    first, second = PlayingAdapter([(0.0, errors.api_error(status, "no"))]), PlayingAdapter(words(2))
    asked = Asked(first, second)
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert asked.text == "w0 w1 "
    assert asked.notices == ["fallback", "served_by"]
    assert asked.session.fell_back_to == "p1:m"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_of_the_question_ends_it(status: int) -> None:
    first, second = PlayingAdapter([(0.0, errors.api_error(status, "no"))]), PlayingAdapter(words(2))
    asked = Asked(first, second)
    assert (len(first.requests), len(second.requests)) == (1, 0)
    assert asked.events == [Failed("bad_request", "no", status)]


def test_nothing_is_tried_after_text_was_delivered() -> None:
    first, second = PlayingAdapter([*words(3)[:3], (0.0, errors.NetworkError("lost"))]), PlayingAdapter(words(2))
    asked = Asked(first, second)
    assert asked.text == "w0 w1 w2 "
    assert asked.failed == "network"
    assert (len(first.requests), len(second.requests)) == (1, 0)


def test_thinking_alone_does_not_forbid_a_retry() -> None:
    asked = Asked(PlayingAdapter([(0.1, ThinkingDelta("hm")), (0.0, DOWN)], words(1)))
    assert asked.text == "w0 "


def test_after_the_fallback_the_conversation_stays_without_streaming_and_says_so() -> None:
    adapter = PlayingAdapter(*[[(0.0, DOWN)]] * 4, WHOLE)
    asked = Asked(adapter, answers=2)
    assert not asked.session.streamed
    assert asked.notices == ["non_streamed"]
    assert [r.streamed for r in adapter.requests] == [True] * 4 + [False, False]
    assert asked.text == "all of it"


def test_the_stage_does_not_go_back_once_the_answer_has_come() -> None:
    asked = Asked(PlayingAdapter(*[[(0.0, DOWN)]] * 4, WHOLE))
    stages, seen = Stages(0.0), []
    for event in asked.events:
        if stages.feed(event, 0.0):
            seen.append(stages.stage)
    assert seen == ["retrying", "connecting", "generating", "done"]


def test_the_fallback_is_announced_before_its_text() -> None:
    asked = Asked(PlayingAdapter(*[[(0.0, DOWN)]] * 4, WHOLE))
    assert asked.notices == ["retry", "retry", "retry", "fallback", "served_by", "non_streamed"]
    kinds = [type(e) for e in asked.events]
    assert kinds.index(TextDelta) == 5


def test_a_stream_that_merely_stops_is_truncated() -> None:
    asked = Asked(PlayingAdapter(words(3)[:3]))
    assert asked.failed == "truncated"
    assert asked.text == "w0 w1 w2 "


def test_no_content_in_time_even_with_signs_of_life() -> None:
    alive: list[Step] = [(5.0, Notice("connected", "here")), *[(5.0, Notice("loading", "…"))] * 100]
    asked = Asked(PlayingAdapter(alive), policy=NO_RECOVERY)
    assert asked.failed == "first_content_timeout"
    assert asked.took_s == 60.0


def test_silence_after_content() -> None:
    asked = Asked(PlayingAdapter([*words(3)[:3], (1e4, FINISH)]))
    assert asked.failed == "idle_timeout"
    assert asked.took_s == pytest.approx(0.24 + 30)
    assert asked.text == "w0 w1 w2 "


def test_the_whole_answer_has_a_limit() -> None:
    asked = Asked(PlayingAdapter([(20.0, TextDelta("x"))] * 100))
    assert asked.failed == "total_timeout"
    assert asked.took_s == 600.0


def test_no_retry_that_could_only_end_after_the_limit() -> None:
    asked = Asked(PlayingAdapter([(9.0, DOWN)]), timeouts=Timeouts(total_s=9.5), policy=Policy(fallback=False))
    assert asked.failed == "server_error"
    assert asked.took_s == 9.0


def test_a_slow_whole_answer_is_not_late() -> None:
    request = ChatRequest(REQUEST.messages, streamed=False)
    asked = Asked(PlayingAdapter([(300.0, TextDelta("x")), (0.0, FINISH)]), request=request)
    assert asked.failed is None
    assert asked.session.state == "succeeded"


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.21, 1.0, 5.0])
def test_closing_in_any_state_closes_the_adapter_and_cancels(after_s: float) -> None:
    async def main() -> None:
        adapter = PlayingAdapter([(0.5, DOWN)], [(0.5, TextDelta("x"))] * 100)
        session = Session([Route("p:m", adapter, "m")], clock())
        events = session.answer(REQUEST)
        async with aclosing(events):
            async for _ in events:
                if clock()() >= after_s:
                    break
        assert adapter.open == 0
        assert session.state == "cancelled"

    run_virtual(main())


def test_a_defect_in_an_adapter_is_one_honest_failure() -> None:
    asked = Asked(PlayingAdapter([(0.1, TextDelta("kept ")), (0.0, KeyError("choices"))]))
    assert asked.text == "kept "
    assert asked.failed == "internal"


def test_every_state_can_be_reached_and_every_transition_leads_to_one() -> None:
    states = {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())
    assert states == {"idle", "streaming", "retrying", "fallback", "succeeded", "failed", "cancelled"}
    assert set(TRANSITIONS.values()) == states - {"idle"}


def situation(**changes: int | bool) -> Situation:
    fields: dict[str, int | bool] = {
        "retries_done": 0, "streamed": True, "in_fallback": False, "text_delivered": False, "routes_left": 1
    }  # fmt: skip
    return Situation(**{**fields, **changes})  # type: ignore[arg-type] # the test names real fields


ALL_ERRORS: Sequence[type[errors.StreamError]] = [
    errors.NetworkError, errors.ConnectTimeout, errors.FirstContentTimeout, errors.IdleTimeout, errors.TotalTimeout,
    errors.BadRequest, errors.AuthError, errors.NotFound, errors.RateLimited, errors.ServerError,
    errors.TruncatedStream, errors.ProtocolError,
]  # fmt: skip


@pytest.mark.parametrize("error", ALL_ERRORS)
def test_text_delivered_ends_every_recovery(error: type[errors.StreamError]) -> None:
    assert decide(Policy(), error("x"), situation(text_delivered=True)) == GiveUp()


@pytest.mark.parametrize("error", ALL_ERRORS)
def test_the_fallback_is_not_repeated(error: type[errors.StreamError]) -> None:
    decision = decide(Policy(), error("x"), situation(in_fallback=True, streamed=False))
    assert decision == (GiveUp() if error.recovery == "fail" else NextRoute())


def test_delays_go_on_with_the_last() -> None:
    policy = Policy(max_retries=6)
    delays = [decide(policy, DOWN, situation(retries_done=n)) for n in range(7)]
    assert delays == [*(Retry(s) for s in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0)), NonStreamed()]


def test_jitter_is_seeded_and_never_longer() -> None:
    policy = Policy(jitter=True)
    drawn = [decide(policy, DOWN, situation(retries_done=1), random.Random(seed)) for seed in range(50)]
    assert all(isinstance(d, Retry) and 1.0 <= d.delay_s <= 2.0 for d in drawn)
    assert len({str(d) for d in drawn}) > 10
    assert drawn[0] == decide(policy, DOWN, situation(retries_done=1), random.Random(0))


def test_garbage_is_not_retried_but_asked_for_without_streaming() -> None:
    assert decide(Policy(), errors.ProtocolError("html"), situation()) == NonStreamed()


@pytest.mark.parametrize(
    ("status", "cls", "recovery"),
    [
        (400, errors.BadRequest, "fail"), (401, errors.AuthError, "next"), (403, errors.AuthError, "next"),
        (404, errors.NotFound, "next"), (408, errors.ServerError, "retry"), (409, errors.ServerError, "retry"),
        (413, errors.BadRequest, "fail"), (418, errors.BadRequest, "fail"), (422, errors.BadRequest, "fail"),
        (425, errors.ServerError, "retry"), (429, errors.RateLimited, "retry"), (500, errors.ServerError, "retry"),
        (503, errors.ServerError, "retry"), (529, errors.ServerError, "retry"),
    ],
)  # fmt: skip
def test_status_to_error(status: int, cls: type[errors.ApiError], recovery: str) -> None:
    error = errors.api_error(status, "x", retry_after_s=2.0)
    assert (type(error), error.recovery, error.http_status, error.retry_after_s) == (cls, recovery, status, 2.0)
