"""Budgets: what is reserved, what is given back, and until when who waits."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.budget import LEASE_S, LIMITS, Amount, Budget, Ledger, estimate, nano, used
from guard.refusal import Refusal
from guard.reservations import Budgets
from streaming.events import Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Cost, Rates, Reading

DAY, NEXT_DAY = "2030-01-01", "2030-01-02"
OPEN = Budget(streams_per_caller=None, streams_total=None, output_tokens=None)


def price(usage: Usage) -> Cost:
    return Cost(Decimal(usage.input_tokens or 0) / 1000, Decimal(usage.output_tokens or 0) / 100, "test")


def reading(tokens_in: int | None, tokens_out: int | None, cost: Cost | None = None) -> Reading:
    return Reading(Usage(tokens_in, tokens_out), cost, 1.0, None, None)


def question(chars: int, max_tokens: int | None = 100) -> ChatRequest:
    return ChatRequest((Message("user", "x" * chars),), max_tokens=max_tokens)


def test_the_most_is_reserved_and_what_it_took_is_counted() -> None:
    assert estimate(question(401), Rates()) == Amount(101 + 100, 0)
    assert estimate(question(400), Rates(price=price)) == Amount(200, nano(Decimal("0.1") + Decimal(1)))
    assert estimate(question(4, None), Rates()) == Amount(1 + 4096)
    assert estimate(question(4, -7), Rates()) == Amount(1), "nobody is given tokens for asking for less than none"
    reserved = Amount(200, 500)
    assert used(reading(10, 5, Cost(Decimal("1e-9"), Decimal("2e-9"), "test")), reserved) == Amount(15, 3)
    assert used(reading(10, None), reserved) == reserved, "unknown is not nothing"
    assert used(reading(0, 0, Cost(Decimal(0), Decimal(0), "test")), reserved) == Amount(0, 0)


def test_output_is_clamped() -> None:
    assert [Budget().clamped(asked) for asked in (None, 10, 10**30)] == [4096, 10, 4096]
    assert [OPEN.clamped(asked) for asked in (None, 10)] == [None, 10]


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(tokens_per_caller=150), "tokens_per_caller"),
        (Budget(tokens_total=150), "tokens_total"),
        (Budget(usd_per_caller=Decimal("0.0000015")), "usd_per_caller"),
        (Budget(usd_total=Decimal("0.0000015")), "usd_total"),
        (Budget(streams_per_caller=1), "streams_per_caller"),
        (Budget(streams_total=1), "streams_total"),
    ],
)
def test_each_limit_stands(budget: Budget, limit: str) -> None:
    ledger, amount = Ledger(budget), Amount(100, 1000)
    assert ledger.reserve("1", "a", amount, DAY, 0.0) is None
    assert ledger.reserve("2", "a", amount, DAY, 0.0) == limit
    assert ledger.reserve("3", "b", amount, DAY, 0.0) == (None if limit.endswith("caller") else limit)
    ledger.settle("1", "a", amount, Amount(), DAY)
    assert ledger.reserve("4", "a", amount, DAY, 0.0) is None


def test_a_day_is_new_and_yesterday_settles_nothing_in_it() -> None:
    ledger = Ledger(Budget(tokens_per_caller=100))
    assert ledger.reserve("1", "a", Amount(100), DAY, 0.0) is None
    assert ledger.reserve("2", "a", Amount(100), NEXT_DAY, 0.0) is None
    ledger.settle("1", "a", Amount(100), Amount(1), DAY)
    assert ledger.reserve("3", "a", Amount(1), NEXT_DAY, 0.0) == "tokens_per_caller"


def test_a_stream_that_nobody_settled_runs_out() -> None:
    ledger = Ledger(Budget(streams_total=1))
    assert ledger.reserve("1", "a", Amount(), DAY, 0.0) is None
    assert ledger.reserve("2", "a", Amount(), DAY, LEASE_S - 1) == "streams_total"
    assert ledger.reserve("3", "a", Amount(), DAY, LEASE_S) is None
    ledger.settle("1", "a", Amount(), Amount(), DAY)
    assert ledger.reserve("4", "a", Amount(), DAY, LEASE_S) == "streams_total", (
        "a late settling frees no other's stream"
    )


def test_many_callers_take_bounded_memory_and_the_whole_stands() -> None:
    ledger = Ledger(Budget(tokens_total=5_000, streams_total=None, streams_per_caller=1), callers=100)
    refused = 0
    for number in range(6_000):
        refused += ledger.reserve(str(number), str(number), Amount(1), DAY, 0.0) is not None
        ledger.settle(str(number), str(number), Amount(1), Amount(1), DAY)
    assert refused >= 1_000
    assert len(ledger._taken) == 100 and not ledger._streams and not ledger._leases


STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 90), st.booleans()), max_size=30)


@given(STEPS)
def test_no_limit_is_ever_passed_by_reserving(steps: list[tuple[str, int, int, bool]]) -> None:
    budget = Budget(tokens_per_caller=100, tokens_total=150, streams_per_caller=None)
    ledger, spent = Ledger(budget), {"a": 0, "b": 0}
    for number, (caller, reserve, took, settles) in enumerate(steps):
        before = dict(spent)
        if ledger.reserve(str(number), caller, Amount(reserve), DAY, 0.0) is None:
            assert before[caller] + reserve <= 100 and sum(before.values()) + reserve <= 150
            spent[caller] += took if settles else reserve
            if settles:
                ledger.settle(str(number), caller, Amount(reserve), Amount(took), DAY)
        else:
            assert before[caller] + reserve > 100 or sum(before.values()) + reserve > 150


def evening() -> datetime:
    return datetime(2030, 1, 1, 23, 59, 0, 1, tzinfo=UTC)


def budgets(budget: Budget) -> Budgets:
    return Budgets(budget, lambda: 0.0, None, evening)


def test_a_reservation_clamps_and_settles_once() -> None:
    async def main() -> None:
        money = budgets(Budget(tokens_per_caller=300, output_tokens=200))
        reservation = await money.reserve("a", question(400, 1_000_000), Rates())
        assert reservation.request.max_tokens == 200
        with pytest.raises(Refusal, match=r"^your 300 tokens of the day .* after 00:00 UTC$") as caught:
            await money.reserve("a", question(4), Rates())
        refusal = caught.value
        assert (refusal.rule, refusal.kind, refusal.status, refusal.retry_after_s) == (
            "budget.tokens",
            "budget",
            429,
            60,
        )
        await reservation.settle(reading(100, 50))
        await reservation.settle(reading(0, 0))
        assert (await money.reserve("a", question(200, 100), Rates())).request.max_tokens == 100
        with pytest.raises(Refusal):
            await money.reserve("a", question(4, 1), Rates())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("budget", "rule", "says", "later"),
    [
        (Budget(tokens_total=150), "budget.tokens", "this service's 150 tokens of the day", True),
        (Budget(usd_per_caller=Decimal("1.5")), "budget.cost", "your 1.5 USD of the day", True),
        (Budget(usd_total=Decimal("1.5")), "budget.cost", "this service's 1.5 USD of the day", True),
        (Budget(streams_per_caller=1), "budget.streams", "1 answers are on their way to you: wait", False),
        (Budget(streams_total=1), "budget.streams", "1 answers are under way in this service: wait", False),
    ],
)
def test_refusals_say_what_and_until_when(budget: Budget, rule: str, says: str, later: bool) -> None:
    async def main() -> None:
        money = budgets(budget)
        await money.reserve("a", question(4), Rates(price=price))
        with pytest.raises(Refusal) as caught:
            await money.reserve("a", question(4), Rates(price=price))
        assert caught.value.rule == rule and says in caught.value.message
        assert (caught.value.retry_after_s is not None) is later

    asyncio.run(main())


def test_an_answer_larger_than_a_day_is_not_told_to_wait() -> None:
    async def main() -> None:
        with pytest.raises(Refusal, match="whole day: ask for fewer max_tokens") as caught:
            await budgets(Budget(tokens_per_caller=50)).reserve("a", question(4), Rates())
        assert caught.value.retry_after_s is None

    asyncio.run(main())


def test_what_was_never_asked_is_given_back_whole() -> None:
    async def main() -> None:
        money = budgets(Budget(tokens_total=101, streams_total=1))
        for _ in range(5):
            await (await money.reserve("a", question(4), Rates())).settle(None)

    asyncio.run(main())


def test_the_limits_stand_in_the_order_of_their_names() -> None:
    everything = Budget(1, 2, Decimal(3), Decimal("0.5"), 5, 6, 7)
    assert dict(zip(LIMITS, everything.bounds(), strict=True)) == {
        "tokens_per_caller": 1,
        "tokens_total": 2,
        "usd_per_caller": 3 * 10**9,
        "usd_total": 5 * 10**8,
        "streams_per_caller": 5,
        "streams_total": 6,
    }
