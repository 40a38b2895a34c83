"""The whole way of one answer, its two stamps and its receipt, on virtual time."""

from contextlib import aclosing

import pytest

from streaming import errors, strategies
from streaming.events import Event, Notice, TextDelta, Timed, Usage
from streaming.meter import Meter, Rates
from streaming.pipeline import Answer, answer
from streaming.probe import Probe
from streaming.replay import replay
from streaming.retry import NO_RECOVERY
from streaming.session import Route, Session
from tests.playing import FINISH, REQUEST, PlayingAdapter, words
from tests.virtual_time import clock, run_virtual


def ask(*adapters: PlayingAdapter, strategy: str = "direct", recover: bool = False) -> tuple[Answer, Probe]:
    now = clock()
    routes = [Route(f"p{i}:m", adapter, "m") for i, adapter in enumerate(adapters)]
    session = Session(routes, now, policy=None if recover else NO_RECOVERY)
    probe = Probe(now)
    rates = {"p0:m": Rates(), "p1:m": Rates(counter=lambda text: 1000)}
    return answer(
        REQUEST, session, strategies.parse(strategy).make(), clock=now, rates=lambda name: rates[name], probe=probe
    ), probe


async def read(answered: Answer) -> list[Event]:
    async with aclosing(answered) as events:
        return [event async for event in events]


def test_the_text_arrives_and_the_receipt_says_so() -> None:
    async def main() -> None:
        answered, _ = ask(PlayingAdapter(words(3)))
        assert await read(answered) == [event for _, event in words(3)]
        receipt = answered.receipt()
        assert (receipt.outcome, receipt.finish_reason, receipt.delivered_chars) == ("completed", "stop", 9)
        assert receipt.reading.usage == Usage(4, 3)
        assert receipt.reading.ttft_s == pytest.approx(0.2)
        assert receipt.reading.elapsed_s == pytest.approx(0.24)
        assert receipt.stop_s is None

    run_virtual(main())


@pytest.mark.parametrize("strategy", strategies.EXAMPLES)
def test_what_was_delivered_is_the_strategy_over_what_arrived(strategy: str) -> None:
    async def main() -> Probe:
        answered, probe = ask(PlayingAdapter(words(64)), strategy=strategy)
        await read(answered)
        return probe

    probe = run_virtual(main())
    assert probe.delivered == list(replay(probe.source, strategies.parse(strategy).make()))
    assert probe.called_s == 0.0
    assert probe.source[0] == Timed(0.2, TextDelta("w0 "))


def test_a_stop_is_a_cancelled_answer_with_what_was_delivered() -> None:
    async def main() -> None:
        adapter = PlayingAdapter(words(50))
        answered, _ = ask(adapter)
        async with aclosing(answered) as events:
            async for _ in events:
                if clock()() > 0.3:
                    break
        receipt = answered.receipt()
        assert (receipt.outcome, receipt.delivered_chars, receipt.stop_s) == ("cancelled", 18, 0.0)
        assert receipt.reading.usage.source == "estimated"
        assert adapter.open == 0

    run_virtual(main())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.TruncatedStream("cut"), "truncated"),
        (errors.IdleTimeout("silent"), "truncated"),
        (errors.ServerError("down"), "failed"),
    ],
)
def test_broken_answers_are_never_completed(error: errors.StreamError, outcome: str) -> None:
    async def main() -> None:
        answered, _ = ask(PlayingAdapter([(0.1, TextDelta("part")), (0.1, error)]))
        await read(answered)
        receipt = answered.receipt()
        assert (receipt.outcome, receipt.finish_reason, receipt.delivered_chars) == (outcome, None, 4)
        assert receipt.error is not None
        assert receipt.error.kind == error.kind

    run_virtual(main())


def test_a_fallback_is_counted_and_priced_as_the_one_who_served() -> None:
    async def main() -> None:
        refused = PlayingAdapter([(0.0, errors.AuthError("key", http_status=401))])
        answered, _ = ask(refused, PlayingAdapter([(0.1, TextDelta("hello")), (0.0, FINISH)]), recover=True)
        events = await read(answered)
        receipt = answered.receipt()
        assert (receipt.served_by, receipt.fell_back_to, receipt.attempts) == ("p1:m", "p1:m", 2)
        assert receipt.reading.usage == Usage(1000, 1000, 0, None, "counted")
        assert [e.kind for e in events if isinstance(e, Notice)] == ["fallback", "served_by"]

    run_virtual(main())


def test_what_a_failed_provider_reported_is_not_the_next_ones() -> None:
    async def main() -> None:
        refused = PlayingAdapter([(0.0, Usage(900, 1)), (0.0, errors.NotFound("gone", http_status=404))])
        answered, _ = ask(refused, PlayingAdapter([(0.1, TextDelta("hello")), (0.0, FINISH)]), recover=True)
        await read(answered)
        assert answered.receipt().reading.usage == Usage(1000, 1000, 0, None, "counted")

    run_virtual(main())


def test_an_answer_that_was_never_read_asks_nobody() -> None:
    async def main() -> None:
        adapter = PlayingAdapter(words(3))
        answered, _ = ask(adapter)
        await answered.aclose()
        assert adapter.requests == []

    run_virtual(main())


def test_a_meter_outlives_its_answer() -> None:
    async def main() -> Meter:
        answered, _ = ask(PlayingAdapter(words(3)), strategy="whole")
        await read(answered)
        return answered.meter

    assert run_virtual(main()).text == "w0 w1 w2 "
