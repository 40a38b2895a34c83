"""The pipeline of one answer on virtual time: its source and delivered timestamps, and its receipt."""

from contextlib import aclosing

import pytest

from streaming import errors, strategies
from streaming.events import Event, Notice, TextDelta, TimedEvent, Usage
from streaming.meter import CostModel, Meter
from streaming.pipeline import AnswerStream, stream_answer
from streaming.replay import replay
from streaming.retry import NO_RETRY
from streaming.session import Route, Session
from streaming.trace import Probe
from tests.scripted_adapter import FINISH, REQUEST, ScriptedAdapter, words_script
from tests.virtual_time import loop_clock, run_on_virtual_time


def make_answer(
    *adapters: ScriptedAdapter, strategy: str = "direct", recover: bool = False
) -> tuple[AnswerStream, Probe]:
    now = loop_clock()
    routes = [Route(f"p{i}:m", adapter, "m") for i, adapter in enumerate(adapters)]
    session = Session(routes, now, policy=None if recover else NO_RETRY)
    probe = Probe(now)
    rates = {"p0:m": CostModel(), "p1:m": CostModel(counter=lambda text: 1000)}
    return stream_answer(
        REQUEST,
        session,
        strategies.parse(strategy).build(),
        clock=now,
        cost_model=lambda name: rates[name],
        probe=probe,
    ), probe


async def read_answer(answered: AnswerStream) -> list[Event]:
    async with aclosing(answered) as events:
        return [event async for event in events]


def test_answer_delivers_text_and_complete_receipt() -> None:
    async def main() -> None:
        answered, _ = make_answer(ScriptedAdapter(words_script(3)))
        assert await read_answer(answered) == [event for _, event in words_script(3)]
        receipt = answered.receipt()
        assert (receipt.outcome, receipt.finish_reason, receipt.delivered_chars) == ("completed", "stop", 9)
        assert receipt.reading.usage == Usage(4, 3)
        assert receipt.reading.ttft_s == pytest.approx(0.2)
        assert receipt.reading.elapsed_s == pytest.approx(0.24)
        assert receipt.stop_s is None

    run_on_virtual_time(main())


@pytest.mark.parametrize("strategy", strategies.EXAMPLES)
def test_delivered_events_equal_strategy_over_source(strategy: str) -> None:
    async def main() -> Probe:
        answered, probe = make_answer(ScriptedAdapter(words_script(64)), strategy=strategy)
        await read_answer(answered)
        return probe

    probe = run_on_virtual_time(main())
    assert probe.delivered == list(replay(probe.source, strategies.parse(strategy).build()))
    assert probe.called_s == 0.0
    assert probe.source[0] == TimedEvent(0.2, TextDelta("w0 "))


def test_closed_answer_is_cancelled_with_delivered_text() -> None:
    async def main() -> None:
        adapter = ScriptedAdapter(words_script(50))
        answered, _ = make_answer(adapter)
        async with aclosing(answered) as events:
            async for _ in events:
                if loop_clock()() > 0.3:
                    break
        receipt = answered.receipt()
        assert (receipt.outcome, receipt.delivered_chars, receipt.stop_s) == ("cancelled", 18, 0.0)
        assert receipt.reading.usage.source == "estimated"
        assert adapter.open == 0

    run_on_virtual_time(main())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.TruncatedStreamError("cut"), "truncated"),
        (errors.IdleTimeout("silent"), "truncated"),
        (errors.ServerError("down"), "failed"),
    ],
)
def test_failed_answers_are_never_completed(error: errors.StreamError, outcome: str) -> None:
    async def main() -> None:
        answered, _ = make_answer(ScriptedAdapter([(0.1, TextDelta("part")), (0.1, error)]))
        await read_answer(answered)
        receipt = answered.receipt()
        assert (receipt.outcome, receipt.finish_reason, receipt.delivered_chars) == (outcome, None, 4)
        assert receipt.error is not None
        assert receipt.error.kind == error.kind

    run_on_virtual_time(main())


def test_fallback_is_counted_and_priced_by_serving_provider() -> None:
    async def main() -> None:
        refused = ScriptedAdapter([(0.0, errors.AuthenticationError("key", http_status=401))])
        answered, _ = make_answer(refused, ScriptedAdapter([(0.1, TextDelta("hello")), (0.0, FINISH)]), recover=True)
        events = await read_answer(answered)
        receipt = answered.receipt()
        assert (receipt.served_by, receipt.fell_back_to, receipt.attempts) == ("p1:m", "p1:m", 2)
        assert receipt.reading.usage == Usage(1000, 1000, 0, None, "counted")
        assert [e.kind for e in events if isinstance(e, Notice)] == ["fallback", "served_by"]

    run_on_virtual_time(main())


def test_usage_of_failed_provider_is_discarded() -> None:
    async def main() -> None:
        refused = ScriptedAdapter([(0.0, Usage(900, 1)), (0.0, errors.NotFoundError("gone", http_status=404))])
        answered, _ = make_answer(refused, ScriptedAdapter([(0.1, TextDelta("hello")), (0.0, FINISH)]), recover=True)
        await read_answer(answered)
        assert answered.receipt().reading.usage == Usage(1000, 1000, 0, None, "counted")

    run_on_virtual_time(main())


def test_unread_answer_sends_no_request() -> None:
    async def main() -> None:
        adapter = ScriptedAdapter(words_script(3))
        answered, _ = make_answer(adapter)
        await answered.aclose()
        assert adapter.requests == []

    run_on_virtual_time(main())


def test_meter_is_readable_after_answer_ends() -> None:
    async def main() -> Meter:
        answered, _ = make_answer(ScriptedAdapter(words_script(3)), strategy="whole")
        await read_answer(answered)
        return answered.meter

    assert run_on_virtual_time(main()).text == "w0 w1 w2 "
