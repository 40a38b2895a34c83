"""Budgets: what is reserved, what is given back, and until when who waits."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.budget import LEASE_S, LIMITS, UNBOUNDED_TOKENS, Amount, Budget, Estimator, Ledger, Overruns, nano
from guard.refusal import Refusal
from guard.reservations import Budgets
from streaming.events import Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Cost, Rates, Reading
from streaming.pipeline import Charge

DAY, NEXT_DAY = "2030-01-01", "2030-01-02"
OPEN = Budget(streams_per_caller=None, streams_total=None, output_tokens=None)


def price(usage: Usage) -> Cost:
    return Cost(Decimal(usage.input_tokens or 0) / 1000, Decimal(usage.output_tokens or 0) / 100, "test")


def reading(tokens_in: int | None, tokens_out: int | None, cost: Cost | None = None) -> Reading:
    return Reading(Usage(tokens_in, tokens_out), cost, 1.0, None, None)


def charge(tokens_in: int | None, tokens_out: int | None, *, reported: bool = True, **more: Any) -> Charge:
    """Give what an attempt at `p:m` came to; `reported`: the provider counted it itself."""
    found = reading(tokens_in, tokens_out)
    return Charge("p:m", found, found.usage if reported else None, **more)


FREE = {"p:m": Rates()}
PRICED = {"p:m": Rates(price=price, paid=True)}
UNPRICED = {"p:m": Rates(paid=True)}


def question(chars: int, max_tokens: int | None = 100) -> ChatRequest:
    return ChatRequest((Message("user", "x" * chars),), max_tokens=max_tokens)


def test_estimate_counts_prompt_and_output_limit() -> None:
    estimate = Estimator().estimate
    assert estimate(question(401), Rates()) == Amount(101 + 100, 0)
    assert estimate(question(4, None), Rates()) == Amount(1 + 4096)
    assert estimate(question(4, -7), Rates()) == Amount(1), "nobody is given tokens for asking for less than none"


@pytest.mark.parametrize(("text", "tokens"), [("x" * 400, 100), ("日" * 400, 400), ("é" + "x" * 400, 101), ("🌍", 1)])
def test_estimate_counts_one_token_for_each_character_outside_ascii(text: str, tokens: int) -> None:
    request = ChatRequest((Message("user", text),), max_tokens=0)
    assert Estimator().estimate(request, Rates()) == Amount(tokens)


def test_estimate_of_a_charged_route_covers_wrapping_caching_and_extra_output() -> None:
    estimate = Estimator().estimate
    assert estimate(question(400), Rates(price=price)) == Amount(204, nano(Decimal("0.104") + Decimal(1)))
    assert estimate(question(400), Rates(price=price), 50) == Amount(254, nano(Decimal("0.104") + Decimal("1.5")))
    turns = ChatRequest((Message("user", "x"),) * 100, max_tokens=0)
    assert estimate(turns, Rates(price=price)) == Amount(425, nano(Decimal("0.425"))), "each message is wrapped"
    cached = estimate(question(4 * 2000, 0), Rates(price=price))
    assert cached.nano_usd == nano(Decimal("2.004") * Decimal("1.25")), "writing a cache costs more"


def test_estimate_takes_the_cautious_price_and_the_set_one_where_no_price_is_known() -> None:
    estimator = Estimator((Decimal(1000), Decimal(2000)))
    assert estimator.estimate(question(0, 10), Rates(paid=True)).nano_usd == nano(Decimal("0.004") + Decimal("0.02"))
    assert estimator.estimate(question(0, 10), Rates(paid=True, price=price)).nano_usd == nano(Decimal("0.104"))
    assert estimator.estimate(question(0, 10), Rates(cautious_price=price)).nano_usd == nano(Decimal("0.104"))
    assert estimator.estimate(question(0, 10), Rates()).nano_usd == 0, "what nobody pays for is free"


def dear(usage: Usage) -> Cost:
    return Cost(Decimal(0), Decimal(usage.output_tokens or 0), "test")


@pytest.mark.parametrize("names", [("free", "dear", "cheap"), ("dear", "cheap", "free"), ("cheap", "free", "dear")])
def test_estimate_dearest_takes_the_dearest_route_wherever_it_stands(names: tuple[str, ...]) -> None:
    known = {"free": Rates(), "cheap": Rates(price=price, paid=True), "dear": Rates(price=dear, paid=True)}
    routes = {name: known[name] for name in names}
    assert Estimator().estimate_dearest(question(4, 10), routes, {}).nano_usd == nano(Decimal(10))
    assert Estimator().estimate_dearest(question(4, 10), routes, {"cheap": 10_000}).nano_usd > nano(Decimal(99))


def test_settle_takes_reported_usage_and_the_most_for_what_is_unknown() -> None:
    settle, most = Estimator().settle, Amount(200, 500)
    paid, free = PRICED["p:m"], Rates()
    assert settle(charge(1000, 5), paid, most) == Amount(1005, nano(Decimal("1.05"))), "more than was reserved counts"
    assert settle(charge(10, 5, reported=False), paid, most) == most, "counted text says nothing of hidden thinking"
    assert settle(charge(10, None), paid, most) == most, "unknown is not nothing"
    assert settle(charge(0, 0, reported=False, rejected=True), paid, most) == Amount()
    assert settle(charge(10, 5, reported=False), free, most) == Amount(15, 0)
    assert settle(charge(None, 5), free, Amount(200)) == Amount(200)
    assert Estimator((Decimal(1), Decimal(1))).settle(charge(10, 5), UNPRICED["p:m"], most) == Amount(15, 15_000)


def test_overruns_are_remembered_for_the_latest_answers_of_a_route() -> None:
    overruns = Overruns(routes=2, answers=2)
    overruns.add("a", 277, 10)
    assert overruns.longest(["a", "b"]) == {"a": 267, "b": 0}
    overruns.add("a", 5, 10)
    overruns.add("a", 12, 10)
    assert overruns.longest(["a"]) == {"a": 2}
    overruns.add("b", 20, 10)
    overruns.add("c", 30, 10)
    assert overruns.longest("abc") == {"a": 0, "b": 10, "c": 20}


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
        reservation = await money.reserve("a", question(400, 1_000_000), FREE)
        assert reservation.request.max_tokens == 200
        with pytest.raises(Refusal, match=r"^your 300 tokens of the day .* after 00:00 UTC$") as caught:
            await money.reserve("a", question(4), FREE)
        refusal = caught.value
        assert (refusal.rule, refusal.kind, refusal.status, refusal.retry_after_s) == (
            "budget.tokens",
            "budget",
            429,
            60,
        )
        await reservation.settle(charge(100, 50))
        await reservation.settle(charge(0, 0))
        assert (await money.reserve("a", question(200, 100), FREE)).request.max_tokens == 100
        with pytest.raises(Refusal):
            await money.reserve("a", question(4, 1), FREE)

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
        await money.reserve("a", question(4), PRICED)
        with pytest.raises(Refusal) as caught:
            await money.reserve("a", question(4), PRICED)
        assert caught.value.rule == rule and says in caught.value.message
        assert (caught.value.retry_after_s is not None) is later

    asyncio.run(main())


def test_an_answer_larger_than_a_day_is_not_told_to_wait() -> None:
    async def main() -> None:
        with pytest.raises(Refusal, match="whole day: ask for fewer max_tokens") as caught:
            await budgets(Budget(tokens_per_caller=50)).reserve("a", question(4), FREE)
        assert caught.value.retry_after_s is None

    asyncio.run(main())


def test_what_was_never_asked_is_given_back_whole() -> None:
    async def main() -> None:
        money = budgets(Budget(tokens_total=101, streams_total=1))
        for _ in range(5):
            await (await money.reserve("a", question(4), FREE)).settle(None)

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


def test_a_caller_forgotten_while_its_answer_ran_is_given_nothing_back() -> None:
    ledger = Ledger(Budget(tokens_per_caller=100), callers=1)
    assert ledger.reserve("1", "a", Amount(90), DAY, 0.0) is None
    assert ledger.reserve("2", "b", Amount(1), DAY, 0.0) is None
    ledger.settle("1", "a", Amount(90), Amount(10), DAY)
    assert ledger.reserve("3", "a", Amount(91), DAY, 0.0) == "tokens_per_caller"


MONEY = Budget(usd_per_caller=Decimal(1))


@pytest.mark.parametrize("names", [("p:m", "q:m"), ("q:m", "p:m")])
def test_an_unpriced_paid_route_is_refused_wherever_it_stands_in_the_list(names: tuple[str, ...]) -> None:
    known = {"p:m": Rates(paid=True), "q:m": Rates()}

    async def main() -> None:
        with pytest.raises(Refusal, match=r"^p:m: its price is not known.*UNPRICED_USD_PER_1M") as caught:
            await budgets(MONEY).reserve("a", question(4), {name: known[name] for name in names})
        assert (caught.value.rule, caught.value.status, caught.value.retry_after_s) == ("budget.unpriced", 403, None)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("budget", "routes"),
    [
        (Budget(), UNPRICED),
        (MONEY, FREE),
        (MONEY, {}),
        (Budget(usd_total=Decimal(1), unpriced=(Decimal(1), Decimal(1))), UNPRICED),
    ],
)
def test_an_unpriced_route_passes_where_nobody_pays_or_nothing_limits_money(
    budget: Budget, routes: dict[str, Rates]
) -> None:
    async def main() -> None:
        await (await budgets(budget).reserve("a", question(4), routes)).settle(None)

    asyncio.run(main())


def test_the_price_set_for_unpriced_models_is_reserved_and_settled() -> None:
    async def main() -> None:
        money = budgets(Budget(usd_per_caller=Decimal(1), unpriced=(Decimal(0), Decimal(10_000))))
        reservation = await money.reserve("a", question(4, 60), UNPRICED)  # 0.60 USD
        with pytest.raises(Refusal, match="1 USD of the day"):
            await money.reserve("a", question(4, 60), UNPRICED)
        await reservation.settle(charge(5, 20))  # 0.20 USD
        await money.reserve("a", question(4, 60), UNPRICED)

    asyncio.run(main())


@pytest.mark.parametrize("asked", [None, 10])
def test_an_answer_that_money_limits_is_never_asked_for_without_a_limit_of_its_own(asked: int | None) -> None:
    async def main() -> tuple[int | None, int | None]:
        money = budgets(Budget(usd_per_caller=Decimal(1000), output_tokens=None))
        paid = await money.reserve("a", question(4, asked), PRICED)
        free = await money.reserve("a", question(4, asked), FREE)
        return paid.request.max_tokens, free.request.max_tokens

    assert asyncio.run(main()) == (asked or UNBOUNDED_TOKENS, asked)


@pytest.mark.parametrize(
    ("ends", "left_usd"),
    [
        (None, "1"),
        (charge(0, 0, reported=False, rejected=True), "1"),
        (charge(0, 50), "0.5"),
        (charge(4, 3, reported=False), "0.2"),
        (Charge("elsewhere", reading(1, 1)), "0.2"),
    ],
    ids=["nobody asked", "rejected", "reported", "stopped", "an unknown route"],
)
def test_settling_leaves_what_was_not_spent(ends: Charge | None, left_usd: str) -> None:
    output_priced = {"p:m": Rates(price=lambda usage: Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "t"))}

    async def main() -> None:
        money = budgets(Budget(usd_per_caller=Decimal(1)))
        await (await money.reserve("a", question(4, 80), output_priced)).settle(ends)
        tokens = int(Decimal(left_usd) * 100)
        with pytest.raises(Refusal):
            await money.reserve("a", question(4, tokens + 1), output_priced)
        await money.reserve("a", question(4, tokens), output_priced)

    asyncio.run(main())


def test_renewing_counts_the_failed_attempt_and_reserves_the_next() -> None:
    output_priced = {"p:m": Rates(price=lambda usage: Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "t"))}

    async def main() -> None:
        money = budgets(Budget(usd_per_caller=Decimal(1), streams_per_caller=1))
        reservation = await money.reserve("a", question(4, 40), output_priced)
        assert await reservation.renew(charge(1, 1, reported=False)) is None  # 0.40 spent, 0.40 reserved
        failed = await reservation.renew(charge(1, 1, reported=False))
        assert failed is not None and failed.kind == "budget"
        assert failed.message.startswith("p:m: the answer broke, and is not asked for again: your 1 USD of the day")
        await reservation.settle(charge(1, 100))
        await money.reserve("a", question(4, 20), output_priced)

    asyncio.run(main())


def test_an_overrun_is_reserved_for_the_next_answer() -> None:
    output_priced = {"p:m": Rates(price=lambda usage: Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "t"))}

    async def main() -> None:
        money = budgets(Budget(usd_total=Decimal(10)))
        await (await money.reserve("a", question(4, 10), output_priced)).settle(charge(5, 277))
        left = 1000 - 277
        with pytest.raises(Refusal):
            await money.reserve("b", question(4, left - 267 + 1), output_priced)
        await money.reserve("b", question(4, left - 267), output_priced)

    asyncio.run(main())
