"""What the attempts at an answer may be charged for, and that no other is made where nobody would pay for it."""

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


async def charged(*script: ScriptStep, stop_after_s: float | None = None) -> Charge | None:
    """Play one attempt, stopped after a time if one is given; return its charge."""
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
def test_charge_of_a_finished_answer_is_the_reported_usage(script: list[ScriptStep]) -> None:
    charge = run_on_virtual_time(charged(*script))
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
def test_charge_of_what_was_not_wholly_counted_is_unknown(script: list[ScriptStep]) -> None:
    charge = run_on_virtual_time(charged(*script))
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
def test_charge_of_a_rejected_request_is_nothing(script: list[ScriptStep]) -> None:
    charge = run_on_virtual_time(charged(*script))
    assert charge is not None and charge.rejected


def test_charge_of_a_whole_answer_that_was_cut_before_its_head_is_unknown() -> None:
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
def test_charge_of_a_stopped_answer_is_unknown_even_before_its_first_word(after_s: float) -> None:
    script: list[ScriptStep] = [(0.0, Usage(4, 1)), (0.2, TextDelta("Blue.")), (9.0, FINISH)]
    charge = run_on_virtual_time(charged(*script, stop_after_s=after_s))
    assert charge is not None and (charge.usage, charge.rejected) == (None, False)


def test_charge_of_an_answer_that_nobody_read_is_none() -> None:
    async def main() -> Charge | None:
        now = loop_clock()
        session = Session([Route("p:m", ScriptedAdapter(words_script(1)), "m")], now)
        answered = stream_answer(REQUEST, session, parse("direct").build(), clock=now)
        await answered.aclose()
        return answered.charge()

    assert run_on_virtual_time(main()) is None


class Payer:
    """Pays for `attempts` after the first; keeps what it was told."""

    def __init__(self, attempts: int) -> None:
        self.told: list[Charge] = []
        self._attempts = attempts

    async def __call__(self, charge: Charge) -> Failed | None:
        self.told.append(charge)
        return Failed("budget", "spent") if len(self.told) > self._attempts else None


async def retried(
    payer: Payer, *adapters: Adapter, stop_after_s: float = 60.0, policy: RetryPolicy | None = None
) -> tuple[list[Event], Charge | None]:
    """Ask the adapters in their order; return the events, and the last attempt's charge."""
    now = loop_clock()
    routes = [Route(f"p{number}:m", adapter, "m") for number, adapter in enumerate(adapters)]
    session = Session(routes, now, policy=policy)
    answered = stream_answer(
        REQUEST, session, parse("direct").build(), clock=now, cost_model=lambda name: CostModel(), before_retry=payer
    )
    found: list[Event] = []
    until_s = now() + stop_after_s
    async with aclosing(answered):
        while not answered.ended and (left_s := until_s - now()) > 0:
            found += await answered.next_batch(left_s)
    return found, answered.charge()


THOUGHT_AND_CUT: list[ScriptStep] = [CONNECTED, THINKING, (0.0, TruncatedStreamError("cut"))]


def test_every_attempt_after_one_that_may_be_charged_is_asked_about() -> None:
    adapter, payer = ScriptedAdapter(THOUGHT_AND_CUT, THOUGHT_AND_CUT, words_script(2)), Payer(9)
    events, charge = run_on_virtual_time(retried(payer, adapter))
    assert [told.usage for told in payer.told] == [None, None] and len(adapter.requests) == 3
    assert charge is not None and charge.usage == Usage(4, 2)
    assert events[-1] == FINISH


def test_no_attempt_is_made_that_nobody_pays_for() -> None:
    adapter, payer = ScriptedAdapter(THOUGHT_AND_CUT), Payer(1)
    events, charge = run_on_virtual_time(retried(payer, adapter))
    assert events[-1] == Failed("budget", "spent")
    assert len(adapter.requests) == 2 and adapter.open == 0
    assert charge is None, "both attempts were told of"


def test_the_next_provider_is_an_attempt_too() -> None:
    first, second, payer = ScriptedAdapter(THOUGHT_AND_CUT), ScriptedAdapter(words_script(1)), Payer(0)
    policy = RetryPolicy(max_retries=0, fallback=False)
    events, _ = run_on_virtual_time(retried(payer, first, second, policy=policy))
    assert [told.route for told in payer.told] == ["p0:m"] and second.requests == []
    assert events[-1] == Failed("budget", "spent")


def test_nobody_is_asked_about_an_attempt_after_a_rejected_one() -> None:
    first, second, payer = ScriptedAdapter([(0.0, RateLimitError("later"))]), ScriptedAdapter(words_script(1)), Payer(0)
    events, charge = run_on_virtual_time(retried(payer, first, second))
    assert payer.told == [] and events[-1] == FINISH
    assert charge is not None and (charge.route, charge.usage) == ("p1:m", Usage(4, 1))


def test_an_answer_stopped_before_its_next_attempt_began_is_charged_once() -> None:
    adapter, payer = ScriptedAdapter(THOUGHT_AND_CUT), Payer(9)
    _, charge = run_on_virtual_time(retried(payer, adapter, stop_after_s=0.3))
    assert len(payer.told) == 1 and len(adapter.requests) == 1 and charge is None


def test_an_answer_stopped_before_its_next_attempt_was_heard_is_charged_for_it_as_unknown() -> None:
    adapter, payer = ScriptedAdapter([*THOUGHT_AND_CUT], [(30.0, FINISH)]), Payer(9)
    _, charge = run_on_virtual_time(retried(payer, adapter, stop_after_s=10.0))
    assert len(payer.told) == 1 and len(adapter.requests) == 2
    assert charge is not None and (charge.usage, charge.rejected) == (None, False)
