"""The charges of an answer's attempts, and the check of the budget before another attempt."""

from contextlib import aclosing
from dataclasses import replace

import pytest

from streaming.adapter import Adapter
from streaming.errors import (
    BadRequestError,
    ConnectTimeout,
    FirstContentTimeout,
    NetworkError,
    RateLimitError,
    ServerError,
    TruncatedStreamError,
)
from streaming.events import Event, Failed, Notice, TextDelta, ThinkingDelta, Usage
from streaming.meter import CostModel
from streaming.pipeline import Charge, stream_answer
from streaming.retry import NO_RETRY, RetryPolicy
from streaming.session import Route, Session
from streaming.strategies import parse
from tests.scripted_adapter import FINISH, REQUEST, ScriptedAdapter, ScriptStep, words_script
from tests.virtual_time import loop_clock, run_on_virtual_time

CONNECTED: ScriptStep = (0.0, Notice("connected", "p answers."))
TEXT: ScriptStep = (0.1, TextDelta("Blue."))
THINKING: ScriptStep = (0.1, ThinkingDelta("Hm."))
WHOLE = Usage(4, 2)


async def run_and_charge(*script: ScriptStep, stop_after_s: float | None = None) -> Charge | None:
    """Run one attempt, stopped after `stop_after_s` if set, and return its charge."""
    now = loop_clock()
    session = Session([Route("p:m", ScriptedAdapter(list(script)), "m")], now, policy=NO_RETRY)
    async with aclosing(stream_answer(REQUEST, session, parse("direct").build(), clock=now)) as answered:
        if stop_after_s is not None:
            await answered.next_batch(stop_after_s)
        else:
            async for _ in answered:
                pass
    return answered.charge()


@pytest.mark.parametrize(
    "script",
    [
        [TEXT, (0.0, WHOLE), (0.0, FINISH)],
        [(0.0, Usage(4, 1)), TEXT, (0.0, Usage(output_tokens=2)), (0.0, FINISH)],
    ],
    ids=["after the text", "in two parts"],
)
def test_charge_of_finished_answer_is_reported_usage(script: list[ScriptStep]) -> None:
    charge = run_on_virtual_time(run_and_charge(*script))
    assert charge is not None and (charge.route, charge.usage, charge.rejected) == ("p:m", WHOLE, False)


@pytest.mark.parametrize(
    "script",
    [
        [TEXT, (0.0, FINISH)],
        [TEXT, (0.0, Usage(0, 0)), (0.0, FINISH)],
        [TEXT, (0.0, Usage(4, 0)), (0.0, FINISH)],
        [TEXT, (0.0, Usage(0, 2)), (0.0, FINISH)],
        [TEXT, (0.0, Usage(4, 2, thinking_tokens=9)), (0.0, FINISH)],
        [TEXT, (0.0, Usage(None, 2)), (0.0, FINISH)],
        [TEXT, (0.0, Usage(4, -5)), (0.0, FINISH)],
        [(0.0, Usage(4, 2)), TEXT, (0.0, FINISH)],
        [TEXT, (0.0, WHOLE), (0.0, TruncatedStreamError("cut"))],
        [TEXT, (0.0, WHOLE), (0.0, ServerError("overloaded"))],
        [THINKING, (0.0, ServerError("overloaded"))],
        [(0.0, Usage(4, 0)), (0.0, ServerError("overloaded"))],
        [CONNECTED, (0.0, NetworkError("reset"))],
        [(0.0, FirstContentTimeout("silence"))],
        [(0.0, TruncatedStreamError("cut"))],
    ],
)
def test_charge_with_partial_usage_is_unknown(script: list[ScriptStep]) -> None:
    charge = run_on_virtual_time(run_and_charge(*script))
    assert charge is not None and (charge.usage, charge.rejected) == (None, False)


@pytest.mark.parametrize(
    "script",
    [
        [(0.1, BadRequestError("no"))],
        [(0.1, RateLimitError("later"))],
        [CONNECTED, (0.1, ServerError("overloaded"))],
        [(0.1, ConnectTimeout("no connection"))],
        [(0.1, NetworkError("no connection"))],
    ],
)
def test_charge_of_rejected_request_is_zero(script: list[ScriptStep]) -> None:
    charge = run_on_virtual_time(run_and_charge(*script))
    assert charge is not None and charge.rejected


def test_charge_of_non_streamed_answer_cut_before_head_is_unknown() -> None:
    async def main() -> Charge | None:
        now = loop_clock()
        session = Session([Route("p:m", ScriptedAdapter([(0.1, NetworkError("reset"))]), "m")], now, policy=NO_RETRY)
        whole = replace(REQUEST, streamed=False)
        async with aclosing(stream_answer(whole, session, parse("direct").build(), clock=now)) as answered:
            async for _ in answered:
                pass
        return answered.charge()

    charge = run_on_virtual_time(main())
    assert charge is not None and (charge.usage, charge.rejected) == (None, False)


@pytest.mark.parametrize("after_s", [0.05, 0.25])
def test_charge_of_answer_stopped_before_first_text_is_unknown(after_s: float) -> None:
    script: list[ScriptStep] = [(0.0, Usage(4, 1)), (0.2, TextDelta("Blue.")), (9.0, FINISH)]
    charge = run_on_virtual_time(run_and_charge(*script, stop_after_s=after_s))
    assert charge is not None and (charge.usage, charge.rejected) == (None, False)


def test_charge_of_unread_answer_is_none() -> None:
    async def main() -> Charge | None:
        now = loop_clock()
        session = Session([Route("p:m", ScriptedAdapter(words_script(1)), "m")], now)
        answered = stream_answer(REQUEST, session, parse("direct").build(), clock=now)
        await answered.aclose()
        return answered.charge()

    assert run_on_virtual_time(main()) is None


class FakeBudget:
    """A `before_retry` callback that allows `attempts` further attempts and records the charges."""

    def __init__(self, attempts: int) -> None:
        self.charges: list[Charge] = []
        self._attempts = attempts

    async def __call__(self, charge: Charge) -> Failed | None:
        self.charges.append(charge)
        return Failed("budget", "spent") if len(self.charges) > self._attempts else None


async def run_with_retries(
    budget: FakeBudget, *adapters: Adapter, stop_after_s: float = 60.0, policy: RetryPolicy | None = None
) -> tuple[list[Event], Charge | None]:
    """Run an answer with these adapters as routes; return the events and the last attempt's charge."""
    now = loop_clock()
    routes = [Route(f"p{number}:m", adapter, "m") for number, adapter in enumerate(adapters)]
    session = Session(routes, now, policy=policy)
    answered = stream_answer(
        REQUEST, session, parse("direct").build(), clock=now, cost_model=lambda name: CostModel(), before_retry=budget
    )
    result: list[Event] = []
    until_s = now() + stop_after_s
    async with aclosing(answered):
        while not answered.ended and (left_s := until_s - now()) > 0:
            result += await answered.next_batch(left_s)
    return result, answered.charge()


THOUGHT_AND_CUT: list[ScriptStep] = [CONNECTED, THINKING, (0.0, TruncatedStreamError("cut"))]


def test_before_retry_after_chargeable_attempt_is_called() -> None:
    adapter, budget = ScriptedAdapter(THOUGHT_AND_CUT, THOUGHT_AND_CUT, words_script(2)), FakeBudget(9)
    events, charge = run_on_virtual_time(run_with_retries(budget, adapter))
    assert [charge.usage for charge in budget.charges] == [None, None] and len(adapter.requests) == 3
    assert charge is not None and charge.usage == Usage(4, 2)
    assert events[-1] == FINISH


def test_attempt_after_rejected_charge_is_not_made() -> None:
    adapter, budget = ScriptedAdapter(THOUGHT_AND_CUT), FakeBudget(1)
    events, charge = run_on_virtual_time(run_with_retries(budget, adapter))
    assert events[-1] == Failed("budget", "spent")
    assert len(adapter.requests) == 2 and adapter.open == 0
    assert charge is None, "both attempts were already charged"


def test_before_retry_before_next_provider_is_called() -> None:
    first, second, budget = ScriptedAdapter(THOUGHT_AND_CUT), ScriptedAdapter(words_script(1)), FakeBudget(0)
    policy = RetryPolicy(max_retries=0, fallback=False)
    events, _ = run_on_virtual_time(run_with_retries(budget, first, second, policy=policy))
    assert [charge.route for charge in budget.charges] == ["p0:m"] and second.requests == []
    assert events[-1] == Failed("budget", "spent")


def test_before_retry_after_rejected_attempt_is_not_called() -> None:
    first, second, budget = (
        ScriptedAdapter([(0.0, RateLimitError("later"))]),
        ScriptedAdapter(words_script(1)),
        FakeBudget(0),
    )
    events, charge = run_on_virtual_time(run_with_retries(budget, first, second))
    assert budget.charges == [] and events[-1] == FINISH
    assert charge is not None and (charge.route, charge.usage) == ("p1:m", Usage(4, 1))


def test_answer_stopped_before_next_attempt_is_charged_once() -> None:
    adapter, budget = ScriptedAdapter(THOUGHT_AND_CUT), FakeBudget(9)
    _, charge = run_on_virtual_time(run_with_retries(budget, adapter, stop_after_s=0.3))
    assert len(budget.charges) == 1 and len(adapter.requests) == 1 and charge is None


def test_answer_stopped_before_next_attempts_events_has_unknown_charge() -> None:
    adapter, budget = ScriptedAdapter([*THOUGHT_AND_CUT], [(30.0, FINISH)]), FakeBudget(9)
    _, charge = run_on_virtual_time(run_with_retries(budget, adapter, stop_after_s=10.0))
    assert len(budget.charges) == 1 and len(adapter.requests) == 2
    assert charge is not None and (charge.usage, charge.rejected) == (None, False)
