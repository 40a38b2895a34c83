"""Requests that a provider refuses for now: the provider rests, the request is sent again, and the wait is known."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from evaluation.backends.base import Instrument, TimedResponse, TrialRequest
from evaluation.metrics.trial_metrics import TimedEvents
from evaluation.runner.trial import MAX_REFUSALS, MAX_REST_S, ProviderEndedError, TrialSender
from streaming.clock import Clock
from streaming.events import Finish, TextDelta, TimedEvent, Usage
from streaming.http.timed_exchange import Gate
from streaming.messages import ChatRequest, Message
from streaming.retry import RetryPolicy
from tests.virtual_time import loop_clock, run_on_virtual_time


def make_call(provider: str = "openai:m") -> TrialRequest:
    return TrialRequest(provider, "direct", "in-process", ChatRequest((Message("user", "Why?"),), request_id="r"))


def failed(clock: Clock, status: int | None, wait_s: float | None = None, kind: str = "rate_limited") -> TimedResponse:
    stamps = TimedEvents(clock(), (), ())
    ending = {"error_type": kind, "error_message": "too many", "http_status": status, "attempts": 1}
    return TimedResponse(stamps, "failed", Usage(), ending, Instrument(), wait_s)


def completed(clock: Clock) -> TimedResponse:
    events = (TimedEvent(clock() + 0.2, TextDelta("Yes.")), TimedEvent(clock() + 0.3, Finish("stop")))
    return TimedResponse(TimedEvents(clock(), events, events), "completed", Usage(), {"attempts": 1}, Instrument())


class ScriptedProvider:
    """Answers with each of the responses in turn, after 0.1 s, then with completed ones."""

    def __init__(self, *responses: Callable[[Clock], TimedResponse]) -> None:
        self.clock = loop_clock()
        self.sent_s: list[float] = []
        self._left = iter(responses)

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        if gate is not None:
            await gate()
        self.sent_s.append(round(self.clock(), 6))
        response = next(self._left, completed)(self.clock)
        await asyncio.sleep(0.1)
        return response


def send(*responses: Callable[[Clock], TimedResponse], retries: int = 0) -> tuple[TimedResponse, list[float]]:
    async def main() -> tuple[TimedResponse, list[float]]:
        provider = ScriptedProvider(*responses)
        sender = TrialSender(provider.send, provider.clock, RetryPolicy(max_retries=retries))
        return await sender.send(make_call()), provider.sent_s

    return run_on_virtual_time(main())


def refused(status: int = 429, wait_s: float | None = 2.0, kind: str = "rate_limited") -> Any:
    return lambda clock: failed(clock, status, wait_s, kind)


@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limited"), (503, "server_error"), (529, "server_error")])
def test_refused_start_waits_as_named_and_counts_no_failure(status: int, kind: str) -> None:
    response, sent_s = send(refused(status, 2.0, kind), refused(status, 3.0, kind))
    assert sent_s == [0.0, 2.1, 5.2] and response.outcome == "completed"
    assert response.ending["attempts"] == 3 and response.ending["refused_starts"] == 2
    assert response.ending["refused_wait_s"] == pytest.approx(5.2) and response.ending["retry_wait_s"] == 0.0
    assert response.stamps.sent_s == pytest.approx(5.2), "of the attempt that answered"


def test_refusal_without_named_wait_backs_off() -> None:
    response, sent_s = send(refused(429, None), refused(429, None))
    assert sent_s == [0.0, 1.1, 3.2] and response.ending["refused_starts"] == 2


@pytest.mark.parametrize(
    "response", [refused(503, None, "server_error"), refused(429, 2.0, "billing"), refused(500, 2.0, "server_error")]
)
def test_other_failures_are_outcomes(response: Any) -> None:
    result, sent_s = send(response)
    assert result.outcome == "failed" and sent_s == [0.0] and result.ending["refused_starts"] == 0


def test_retries_are_sent_again_and_their_time_is_no_wait_of_the_provider() -> None:
    failure = refused(500, None, "server_error")
    result, sent_s = send(failure, failure, retries=2)
    assert result.outcome == "completed" and sent_s == [0.0, 1.1, 3.2]
    assert (result.ending["attempts"], result.ending["refused_starts"]) == (3, 0)
    assert result.ending["refused_wait_s"] == 0.0 and result.ending["retry_wait_s"] == pytest.approx(3.2)
    assert send(failure, failure, retries=1)[0].outcome == "failed"
    assert send(refused(400, None, "bad_request"), retries=5)[0].outcome == "failed", "no retry can help"


def test_all_requests_of_a_resting_provider_wait_and_others_do_not() -> None:
    async def main() -> tuple[list[TimedResponse], list[float]]:
        provider = ScriptedProvider(refused(429, 5.0))
        sender = TrialSender(provider.send, provider.clock, RetryPolicy(max_retries=0))
        first = asyncio.create_task(sender.send(make_call()))
        await asyncio.sleep(1.0)
        rest = [asyncio.create_task(sender.send(make_call(name))) for name in ("openai:m", "groq:m")]
        return [await first, *[await task for task in rest]], provider.sent_s

    result, sent_s = run_on_virtual_time(main())
    assert sent_s == [0.0, 1.0, 5.1, 5.1], "groq at once, openai after its rest"
    assert [round(response.ending["refused_wait_s"], 6) for response in result] == [5.1, 4.1, 0.0]
    assert [response.ending["refused_starts"] for response in result] == [1, 0, 0]


def test_refusals_in_a_row_end_the_part_of_the_provider() -> None:
    async def main() -> tuple[TrialSender, int]:
        provider = ScriptedProvider(*[refused(429, 1.0)] * 99)
        sender = TrialSender(provider.send, provider.clock, RetryPolicy(max_retries=0))
        for _ in range(2):
            with pytest.raises(ProviderEndedError):
                await sender.send(make_call())
        return sender, len(provider.sent_s)

    sender, sent = run_on_virtual_time(main())
    assert sent == MAX_REFUSALS
    assert sender.ended == {"openai:m": f"it refused {MAX_REFUSALS} requests in a row (too many)"}


def test_too_long_a_wait_ends_the_part_of_the_provider() -> None:
    with pytest.raises(ProviderEndedError, match="asked for a wait of 3600 s"):
        send(refused(429, 3600.0))
    assert MAX_REST_S < 3600


def test_refusals_beside_running_answers_do_not_end_the_part() -> None:
    async def main() -> TimedResponse:
        provider = ScriptedProvider()

        async def answer(call: TrialRequest, gate: Gate | None) -> TimedResponse:
            if call.request.request_id == "long":
                await asyncio.sleep(60)
            elif provider.clock() < 60:
                return failed(provider.clock, 429, 1.0)
            return completed(provider.clock)

        sender = TrialSender(answer, provider.clock, RetryPolicy(max_retries=0))
        long = TrialRequest("openai:m", "direct", "in-process", ChatRequest((), request_id="long"))
        running = asyncio.create_task(sender.send(long))
        await asyncio.sleep(0)
        result = await sender.send(make_call())
        await running
        return result

    result = run_on_virtual_time(main())
    assert result.outcome == "completed" and result.ending["refused_starts"] > MAX_REFUSALS


async def wait_two_seconds() -> None:
    await asyncio.sleep(2.0)


def test_gate_delays_only_the_first_attempt_and_is_no_wait_of_the_provider() -> None:
    async def main() -> tuple[TimedResponse, list[float]]:
        provider = ScriptedProvider(refused(429, 3.0))
        sender = TrialSender(provider.send, provider.clock, RetryPolicy(max_retries=0))
        return await sender.send(make_call(), wait_two_seconds), provider.sent_s

    response, sent_s = run_on_virtual_time(main())
    assert sent_s == [2.0, 5.1] and response.ending["refused_wait_s"] == pytest.approx(3.1)


def test_request_at_its_gate_waits_for_a_provider_that_rests_then() -> None:
    async def main() -> tuple[list[TimedResponse], list[float]]:
        provider = ScriptedProvider(refused(429, 5.0))
        sender = TrialSender(provider.send, provider.clock, RetryPolicy(max_retries=0))
        calls = [sender.send(make_call(), gate) for gate in (None, wait_two_seconds)]
        return await asyncio.gather(*calls), provider.sent_s

    (refused_first, held), sent_s = run_on_virtual_time(main())
    assert sent_s == [0.0, 5.1, 5.1]
    assert held.ending["refused_wait_s"] == pytest.approx(3.1), "from when it was due"
    assert (held.ending["attempts"], held.ending["refused_starts"], refused_first.ending["attempts"]) == (1, 0, 2)


def test_requests_at_their_gates_are_no_answers_under_way() -> None:
    async def main() -> int:
        provider = ScriptedProvider(*[refused(429, 1.0)] * 99)
        sender = TrialSender(provider.send, provider.clock, RetryPolicy(max_retries=0))
        waiting = asyncio.create_task(sender.send(make_call(), asyncio.Event().wait))
        with pytest.raises(ProviderEndedError):
            await sender.send(make_call())
        waiting.cancel()
        return len(provider.sent_s)

    assert run_on_virtual_time(main()) == MAX_REFUSALS
