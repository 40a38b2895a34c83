"""The session on virtual time: timeouts, retries, fallbacks, the state machine, one terminal event."""

import random
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from streaming import errors
from streaming.events import Event, Failed, Grammar, Notice, TextDelta, ThinkingDelta
from streaming.messages import ChatRequest
from streaming.retry import (
    NO_RETRY,
    TRANSITIONS,
    AttemptState,
    FallBackToNextRoute,
    FallBackToNonStreaming,
    GiveUp,
    Retry,
    RetryPolicy,
    decide,
)
from streaming.session import Route, Session, Timeouts
from streaming.thinking import StageTracker
from tests.scripted_adapter import FINISH, REQUEST, ScriptedAdapter, ScriptStep, words_script
from tests.virtual_time import loop_clock, run_on_virtual_time

BUSY_ERROR = errors.RateLimitError("slow down", http_status=429)
DOWN_ERROR = errors.ServerError("down", http_status=503)
WHOLE_SCRIPT: list[ScriptStep] = [(1.0, TextDelta("all of it")), (0.0, FINISH)]


class SessionRun:
    """One run of a session over scripted adapters, with the events of the last answer."""

    def __init__(
        self,
        *adapters: ScriptedAdapter,
        request: ChatRequest = REQUEST,
        policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        answers: int = 1,
    ) -> None:
        self.events: list[Event] = []
        self.adapters = adapters
        self.took_s = 0.0
        run_on_virtual_time(self._run(request, policy, timeouts, answers))

    async def _run(
        self, request: ChatRequest, policy: RetryPolicy | None, timeouts: Timeouts | None, answers: int
    ) -> None:
        routes = [Route(f"p{i}:m", adapter, "m") for i, adapter in enumerate(self.adapters)]
        self.session = Session(routes, loop_clock(), policy=policy, timeouts=timeouts)
        for _ in range(answers):
            grammar = Grammar()
            self.events.clear()
            async with aclosing(self.session.stream(request)) as events:
                async for event in events:
                    grammar.feed(event)
                    self.events.append(event)
            grammar.end()
        self.took_s = loop_clock()()
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


def test_healthy_stream_passes_unchanged() -> None:
    run = SessionRun(ScriptedAdapter(words_script(5)))
    assert run.events == [event for _, event in words_script(5)]
    assert run.session.state == "succeeded"
    assert run.session.attempts == 1


def test_retries_back_off_then_fall_back_to_non_streaming() -> None:
    adapter = ScriptedAdapter([(0.0, DOWN_ERROR)])
    run = SessionRun(adapter)
    assert adapter.asked_at_s == [0.0, 1.0, 3.0, 7.0, 7.0]
    assert [r.streamed for r in adapter.requests] == [True, True, True, True, False]
    assert run.notices == ["retry", "retry", "retry", "fallback"]
    assert run.events[-1] == Failed("server_error", "down", 503)
    assert run.session.states == ["idle", *["streaming", "retrying"] * 3, "streaming", "fallback", "failed"]


def test_policy_without_fallback_makes_four_requests() -> None:
    adapter = ScriptedAdapter([(0.0, BUSY_ERROR)])
    SessionRun(adapter, policy=RetryPolicy(fallback=False))
    assert len(adapter.requests) == 4


def test_successful_retry_delivers_answer_once() -> None:
    run = SessionRun(ScriptedAdapter([(0.0, DOWN_ERROR)], words_script(3)))
    assert run.text == "w0 w1 w2 "
    assert run.notices == ["retry"]
    assert run.session.state == "succeeded"
    assert run.session.streamed


def test_retry_after_delays_next_attempt() -> None:
    patient = errors.RateLimitError("later", http_status=429, retry_after_s=17.5)
    adapter = ScriptedAdapter([(0.0, patient)], words_script(1))
    SessionRun(adapter)
    assert adapter.asked_at_s == [0.0, 17.5]


def test_retry_after_over_a_minute_fails_at_once() -> None:
    adapter = ScriptedAdapter([(0.0, errors.RateLimitError("later", http_status=429, retry_after_s=61))])
    run = SessionRun(adapter)
    assert run.failed == "rate_limited"
    assert run.took_s == 0.0
    assert len(adapter.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_provider_error_falls_back_to_next_route(status: int) -> None:
    first, second = ScriptedAdapter([(0.0, errors.error_from_status(status, "no"))]), ScriptedAdapter(words_script(2))
    run = SessionRun(first, second)
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert run.text == "w0 w1 "
    assert run.notices == ["fallback", "served_by"]
    assert run.session.fell_back_to == "p1:m"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_bad_request_ends_without_fallback(status: int) -> None:
    first, second = ScriptedAdapter([(0.0, errors.error_from_status(status, "no"))]), ScriptedAdapter(words_script(2))
    run = SessionRun(first, second)
    assert (len(first.requests), len(second.requests)) == (1, 0)
    assert run.events == [Failed("bad_request", "no", status)]


def test_error_after_text_is_not_retried() -> None:
    first, second = (
        ScriptedAdapter([*words_script(3)[:3], (0.0, errors.NetworkError("lost"))]),
        ScriptedAdapter(words_script(2)),
    )
    run = SessionRun(first, second)
    assert run.text == "w0 w1 w2 "
    assert run.failed == "network"
    assert (len(first.requests), len(second.requests)) == (1, 0)


def test_error_after_thinking_is_retried() -> None:
    run = SessionRun(ScriptedAdapter([(0.1, ThinkingDelta("hm")), (0.0, DOWN_ERROR)], words_script(1)))
    assert run.text == "w0 "


def test_session_stays_non_streaming_after_fallback() -> None:
    adapter = ScriptedAdapter(*[[(0.0, DOWN_ERROR)]] * 4, WHOLE_SCRIPT)
    run = SessionRun(adapter, answers=2)
    assert not run.session.streamed
    assert run.notices == ["non_streamed"]
    assert [r.streamed for r in adapter.requests] == [True] * 4 + [False, False]
    assert run.text == "all of it"


def test_stage_does_not_regress_after_fallback() -> None:
    run = SessionRun(ScriptedAdapter(*[[(0.0, DOWN_ERROR)]] * 4, WHOLE_SCRIPT))
    stages, seen = StageTracker(0.0), []
    for event in run.events:
        if stages.feed(event, 0.0):
            seen.append(stages.stage)
    assert seen == ["retrying", "connecting", "generating", "done"]


def test_fallback_is_announced_before_its_text() -> None:
    run = SessionRun(ScriptedAdapter(*[[(0.0, DOWN_ERROR)]] * 4, WHOLE_SCRIPT))
    assert run.notices == ["retry", "retry", "retry", "fallback", "served_by", "non_streamed"]
    kinds = [type(e) for e in run.events]
    assert kinds.index(TextDelta) == 5


def test_stream_without_finish_is_truncated() -> None:
    run = SessionRun(ScriptedAdapter(words_script(3)[:3]))
    assert run.failed == "truncated"
    assert run.text == "w0 w1 w2 "


def test_notices_do_not_extend_first_content_timeout() -> None:
    alive: list[ScriptStep] = [(5.0, Notice("connected", "here")), *[(5.0, Notice("loading", "…"))] * 100]
    run = SessionRun(ScriptedAdapter(alive), policy=NO_RETRY)
    assert run.failed == "first_content_timeout"
    assert run.took_s == 60.0


def test_silence_after_content_raises_idle_timeout() -> None:
    run = SessionRun(ScriptedAdapter([*words_script(3)[:3], (1e4, FINISH)]))
    assert run.failed == "idle_timeout"
    assert run.took_s == pytest.approx(0.24 + 30)
    assert run.text == "w0 w1 w2 "


def test_long_answer_raises_total_timeout() -> None:
    run = SessionRun(ScriptedAdapter([(20.0, TextDelta("x"))] * 100))
    assert run.failed == "total_timeout"
    assert run.took_s == 600.0


def test_retry_beyond_total_timeout_is_not_made() -> None:
    run = SessionRun(
        ScriptedAdapter([(9.0, DOWN_ERROR)]), timeouts=Timeouts(total_s=9.5), policy=RetryPolicy(fallback=False)
    )
    assert run.failed == "server_error"
    assert run.took_s == 9.0


def test_slow_non_streamed_answer_succeeds() -> None:
    request = ChatRequest(REQUEST.messages, streamed=False)
    run = SessionRun(ScriptedAdapter([(300.0, TextDelta("x")), (0.0, FINISH)]), request=request)
    assert run.failed is None
    assert run.session.state == "succeeded"


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.21, 1.0, 5.0])
def test_closing_in_any_state_closes_adapter(after_s: float) -> None:
    async def main() -> None:
        adapter = ScriptedAdapter([(0.5, DOWN_ERROR)], [(0.5, TextDelta("x"))] * 100)
        session = Session([Route("p:m", adapter, "m")], loop_clock())
        events = session.stream(REQUEST)
        async with aclosing(events):
            async for _ in events:
                if loop_clock()() >= after_s:
                    break
        assert adapter.open == 0
        assert session.state == "cancelled"

    run_on_virtual_time(main())


def test_adapter_exception_becomes_internal_failure() -> None:
    run = SessionRun(ScriptedAdapter([(0.1, TextDelta("kept ")), (0.0, KeyError("choices"))]))
    assert run.text == "kept "
    assert run.failed == "internal"


def test_every_state_is_reachable() -> None:
    states = {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())
    assert states == {"idle", "streaming", "retrying", "fallback", "succeeded", "failed", "cancelled"}
    assert set(TRANSITIONS.values()) == states - {"idle"}


def make_state(**changes: int | bool) -> AttemptState:
    fields: dict[str, int | bool] = {
        "retries_done": 0, "streamed": True, "in_fallback": False, "text_delivered": False, "routes_left": 1
    }  # fmt: skip
    return AttemptState(**{**fields, **changes})  # type: ignore[arg-type] # the test names real fields


ALL_ERRORS: Sequence[type[errors.StreamError]] = [
    errors.NetworkError, errors.ConnectTimeout, errors.FirstContentTimeout, errors.IdleTimeout, errors.TotalTimeout,
    errors.BadRequestError, errors.AuthenticationError, errors.NotFoundError, errors.RateLimitError, errors.ServerError,
    errors.TruncatedStreamError, errors.ProtocolError,
]  # fmt: skip


@pytest.mark.parametrize("error", ALL_ERRORS)
def test_decide_after_text_always_gives_up(error: type[errors.StreamError]) -> None:
    assert decide(RetryPolicy(), error("x"), make_state(text_delivered=True)) == GiveUp()


@pytest.mark.parametrize("error", ALL_ERRORS)
def test_decide_in_fallback_does_not_repeat_it(error: type[errors.StreamError]) -> None:
    decision = decide(RetryPolicy(), error("x"), make_state(in_fallback=True, streamed=False))
    assert decision == (GiveUp() if error.recovery == "fail" else FallBackToNextRoute())


def test_retry_delays_repeat_the_last() -> None:
    policy = RetryPolicy(max_retries=6)
    delays = [decide(policy, DOWN_ERROR, make_state(retries_done=n)) for n in range(7)]
    assert delays == [*(Retry(s) for s in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0)), FallBackToNonStreaming()]


def test_jitter_is_seeded_and_never_exceeds_delay() -> None:
    policy = RetryPolicy(jitter=True)
    drawn = [decide(policy, DOWN_ERROR, make_state(retries_done=1), random.Random(seed)) for seed in range(50)]
    assert all(isinstance(d, Retry) and 1.0 <= d.delay_s <= 2.0 for d in drawn)
    assert len({str(d) for d in drawn}) > 10
    assert drawn[0] == decide(policy, DOWN_ERROR, make_state(retries_done=1), random.Random(0))


def test_protocol_error_falls_back_to_non_streaming() -> None:
    assert decide(RetryPolicy(), errors.ProtocolError("html"), make_state()) == FallBackToNonStreaming()


@pytest.mark.parametrize(
    ("status", "cls", "recovery"),
    [
        (400, errors.BadRequestError, "fail"), (401, errors.AuthenticationError, "next"),
        (403, errors.AuthenticationError, "next"),
        (404, errors.NotFoundError, "next"), (408, errors.ServerError, "retry"), (409, errors.ServerError, "retry"),
        (413, errors.BadRequestError, "fail"), (418, errors.BadRequestError, "fail"),
        (422, errors.BadRequestError, "fail"),
        (425, errors.ServerError, "retry"), (429, errors.RateLimitError, "retry"), (500, errors.ServerError, "retry"),
        (503, errors.ServerError, "retry"), (529, errors.ServerError, "retry"),
    ],
)  # fmt: skip
def test_error_from_status_selects_class_and_recovery(status: int, cls: type[errors.ApiError], recovery: str) -> None:
    error = errors.error_from_status(status, "x", retry_after_s=2.0)
    assert (type(error), error.recovery, error.http_status, error.retry_after_s) == (cls, recovery, status, 2.0)
