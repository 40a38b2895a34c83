"""Budgets: reservations, settlements, and the time to the next day."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.budget import (
    LEASE_S,
    LIMITS,
    UNBOUNDED_TOKENS,
    Budget,
    BudgetLedger,
    Estimator,
    Overruns,
    Spend,
    to_nano_usd,
)
from guard.budget_store import BudgetService
from guard.rejection import RejectionError
from streaming.events import Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Cost, CostModel, MeterReading
from streaming.pipeline import Charge

DAY, NEXT_DAY = "2030-01-01", "2030-01-02"
UNLIMITED_STREAMS_BUDGET = Budget(streams_per_caller=None, streams_total=None, output_tokens=None)


def price_usage(usage: Usage) -> Cost:
    return Cost(Decimal(usage.input_tokens or 0) / 1000, Decimal(usage.output_tokens or 0) / 100, "test")


def make_reading(tokens_in: int | None, tokens_out: int | None, cost: Cost | None = None) -> MeterReading:
    return MeterReading(Usage(tokens_in, tokens_out), cost, 1.0, None, None)


def charge(tokens_in: int | None, tokens_out: int | None, *, reported: bool = True, **more: Any) -> Charge:
    """Return the charge of an attempt at `p:m`; `reported`: the provider reported the usage."""
    result = make_reading(tokens_in, tokens_out)
    return Charge("p:m", result, result.usage if reported else None, **more)


FREE = {"p:m": CostModel()}
PRICED = {"p:m": CostModel(price=price_usage, paid=True)}
UNPRICED = {"p:m": CostModel(paid=True)}


def make_question(chars: int, max_tokens: int | None = 100) -> ChatRequest:
    return ChatRequest((Message("user", "x" * chars),), max_tokens=max_tokens)


def test_estimate_counts_prompt_and_output_limit() -> None:
    estimate = Estimator().estimate
    assert estimate(make_question(401), CostModel()) == Spend(101 + 100, 0)
    assert estimate(make_question(4, None), CostModel()) == Spend(1 + 4096)
    assert estimate(make_question(4, -7), CostModel()) == Spend(1), (
        "nobody is given tokens for asking for less than none"
    )


@pytest.mark.parametrize(("text", "tokens"), [("x" * 400, 100), ("日" * 400, 400), ("é" + "x" * 400, 101), ("🌍", 1)])
def test_estimate_counts_one_token_for_each_character_outside_ascii(text: str, tokens: int) -> None:
    request = ChatRequest((Message("user", text),), max_tokens=0)
    assert Estimator().estimate(request, CostModel()) == Spend(tokens)


def test_estimate_of_paid_route_covers_framing_caching_and_extra_output() -> None:
    estimate = Estimator().estimate
    assert estimate(make_question(400), CostModel(price=price_usage)) == Spend(
        204, to_nano_usd(Decimal("0.104") + Decimal(1))
    )
    assert estimate(make_question(400), CostModel(price=price_usage), 50) == Spend(
        254, to_nano_usd(Decimal("0.104") + Decimal("1.5"))
    )
    turns = ChatRequest((Message("user", "x"),) * 100, max_tokens=0)
    assert estimate(turns, CostModel(price=price_usage)) == Spend(425, to_nano_usd(Decimal("0.425"))), (
        "each message is wrapped"
    )
    cached = estimate(make_question(4 * 2000, 0), CostModel(price=price_usage))
    assert cached.nano_usd == to_nano_usd(Decimal("2.004") * Decimal("1.25")), "writing a cache costs more"


def test_estimate_without_list_price_uses_configured_price() -> None:
    estimator = Estimator((Decimal(1000), Decimal(2000)))
    assert estimator.estimate(make_question(0, 10), CostModel(paid=True)).nano_usd == to_nano_usd(
        Decimal("0.004") + Decimal("0.02")
    )
    assert estimator.estimate(make_question(0, 10), CostModel(paid=True, price=price_usage)).nano_usd == to_nano_usd(
        Decimal("0.104")
    )
    behind_gateway = CostModel(find_cautious_price=lambda: price_usage)
    assert estimator.estimate(make_question(0, 10), behind_gateway).nano_usd == to_nano_usd(Decimal("0.104"))
    assert estimator.estimate(make_question(0, 10), CostModel()).nano_usd == 0, "what nobody pays for is free"


def dear(usage: Usage) -> Cost:
    return Cost(Decimal(0), Decimal(usage.output_tokens or 0), "test")


@pytest.mark.parametrize("names", [("free", "dear", "cheap"), ("dear", "cheap", "free"), ("cheap", "free", "dear")])
def test_estimate_uses_most_expensive_route_in_any_position(names: tuple[str, ...]) -> None:
    known = {
        "free": CostModel(),
        "cheap": CostModel(price=price_usage, paid=True),
        "dear": CostModel(price=dear, paid=True),
    }
    routes = {name: known[name] for name in names}
    assert Estimator().estimate_dearest(make_question(4, 10), routes, {}).nano_usd == to_nano_usd(Decimal(10))
    assert Estimator().estimate_dearest(make_question(4, 10), routes, {"cheap": 10_000}).nano_usd > to_nano_usd(
        Decimal(99)
    )


def test_settle_uses_reported_usage_and_upper_bound_for_unknown() -> None:
    settle, most = Estimator().settle, Spend(200, 500)
    paid, free = PRICED["p:m"], CostModel()
    assert settle(charge(1000, 5), paid, most) == Spend(1005, to_nano_usd(Decimal("1.05"))), (
        "more than was reserved counts"
    )
    assert settle(charge(10, 5, reported=False), paid, most) == most, "counted text says nothing of hidden thinking"
    assert settle(charge(10, None), paid, most) == most, "unknown is not nothing"
    assert settle(charge(0, 0, reported=False, rejected=True), paid, most) == Spend()
    assert settle(charge(10, 5, reported=False), free, most) == Spend(15, 0)
    assert settle(charge(None, 5), free, Spend(200)) == Spend(200)
    assert Estimator((Decimal(1), Decimal(1))).settle(charge(10, 5), UNPRICED["p:m"], most) == Spend(15, 15_000)


def test_bill_in_the_answer_counts_only_when_the_service_pays() -> None:
    billed = replace(charge(10, 5), usage=Usage(10, 5, billed_usd=Decimal("0.9")))
    assert Estimator().settle(billed, PRICED["p:m"], Spend()).nano_usd == to_nano_usd(Decimal("0.9"))
    assert Estimator().settle(billed, CostModel(), Spend()) == Spend(15, 0), "a user's own key pays the bill"


def test_room_for_thinking_is_reserved_beside_the_first_answer_of_a_model() -> None:
    overruns, routes = Overruns(), {"a": CostModel(thinking_room=8192), "b": CostModel()}
    assert overruns.expect(routes) == {"a": 0, "b": 0}, "an answer that is alone reserves its visible limit"
    overruns.start(routes)
    assert overruns.expect(routes) == {"a": 8192, "b": 0}
    overruns.add("a", 350, 10)
    assert overruns.expect(routes) == {"a": 340, "b": 0}, "what an answer has shown replaces the room"
    overruns.end(routes)
    assert overruns.expect({"c": CostModel(thinking_room=8192)}) == {"c": 0}


def test_overruns_are_remembered_for_latest_answers_of_route() -> None:
    overruns = Overruns(routes=2, answers=2)
    overruns.add("a", 277, 10)
    assert overruns.longest(["a", "b"]) == {"a": 267, "b": 0}
    overruns.add("a", 5, 10)
    overruns.add("a", 12, 10)
    assert overruns.longest(["a"]) == {"a": 2}
    overruns.add("b", 20, 10)
    overruns.add("c", 30, 10)
    assert overruns.longest("abc") == {"a": 0, "b": 10, "c": 20}


def test_output_tokens_are_clamped_to_budget() -> None:
    assert [Budget().clamp_output_tokens(requests) for requests in (None, 10, 10**30)] == [4096, 10, 4096]
    assert [UNLIMITED_STREAMS_BUDGET.clamp_output_tokens(requests) for requests in (None, 10)] == [None, 10]


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
def test_each_budget_limit_is_enforced(budget: Budget, limit: str) -> None:
    ledger, amount = BudgetLedger(budget), Spend(100, 1000)
    assert ledger.reserve("1", "a", amount, DAY, 0.0) is None
    assert ledger.reserve("2", "a", amount, DAY, 0.0) == limit
    assert ledger.reserve("3", "b", amount, DAY, 0.0) == (None if limit.endswith("caller") else limit)
    ledger.settle("1", "a", amount, Spend(), DAY)
    assert ledger.reserve("4", "a", amount, DAY, 0.0) is None


def test_new_day_resets_budget_and_ignores_late_settlement() -> None:
    ledger = BudgetLedger(Budget(tokens_per_caller=100))
    assert ledger.reserve("1", "a", Spend(100), DAY, 0.0) is None
    assert ledger.reserve("2", "a", Spend(100), NEXT_DAY, 0.0) is None
    ledger.settle("1", "a", Spend(100), Spend(1), DAY)
    assert ledger.reserve("3", "a", Spend(1), NEXT_DAY, 0.0) == "tokens_per_caller"


def test_unsettled_stream_lease_expires() -> None:
    ledger = BudgetLedger(Budget(streams_total=1))
    assert ledger.reserve("1", "a", Spend(), DAY, 0.0) is None
    assert ledger.reserve("2", "a", Spend(), DAY, LEASE_S - 1) == "streams_total"
    assert ledger.reserve("3", "a", Spend(), DAY, LEASE_S) is None
    ledger.settle("1", "a", Spend(), Spend(), DAY)
    assert ledger.reserve("4", "a", Spend(), DAY, LEASE_S) == "streams_total", "a late settling frees no other's stream"


def test_many_callers_use_bounded_memory_and_total_limit_holds() -> None:
    ledger = BudgetLedger(Budget(tokens_total=5_000, streams_total=None, streams_per_caller=1), callers=100)
    refused = 0
    for number in range(6_000):
        refused += ledger.reserve(str(number), str(number), Spend(1), DAY, 0.0) is not None
        ledger.settle(str(number), str(number), Spend(1), Spend(1), DAY)
    assert refused >= 1_000
    assert ledger.entries == 100, "no stream is left"


STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 90), st.booleans()), max_size=30)


@given(STEPS)
def test_reservations_never_exceed_any_limit(steps: list[tuple[str, int, int, bool]]) -> None:
    budget = Budget(tokens_per_caller=100, tokens_total=150, streams_per_caller=None)
    ledger, spent = BudgetLedger(budget), {"a": 0, "b": 0}
    for number, (caller, reserve, took, settles) in enumerate(steps):
        before = dict(spent)
        if ledger.reserve(str(number), caller, Spend(reserve), DAY, 0.0) is None:
            assert before[caller] + reserve <= 100 and sum(before.values()) + reserve <= 150
            spent[caller] += took if settles else reserve
            if settles:
                ledger.settle(str(number), caller, Spend(reserve), Spend(took), DAY)
        else:
            assert before[caller] + reserve > 100 or sum(before.values()) + reserve > 150


def fixed_now() -> datetime:
    return datetime(2030, 1, 1, 23, 59, 0, 1, tzinfo=UTC)


def make_budgets(budget: Budget) -> BudgetService:
    return BudgetService(budget, lambda: 0.0, None, fixed_now)


def test_reservation_clamps_output_and_settles_once() -> None:
    async def main() -> None:
        money = make_budgets(Budget(tokens_per_caller=300, output_tokens=200))
        reservation = await money.reserve("a", make_question(400, 1_000_000), FREE)
        assert reservation.request.max_tokens == 200
        with pytest.raises(RejectionError, match=r"^budget: your 300 tokens a day .* after 00:00 UTC\)$") as excinfo:
            await money.reserve("a", make_question(4), FREE)
        rejection = excinfo.value
        assert (rejection.rule, rejection.kind, rejection.status, rejection.retry_after_s) == (
            "budget.tokens",
            "budget",
            429,
            60,
        )
        await reservation.settle(charge(100, 50))
        await reservation.settle(charge(0, 0))
        assert (await money.reserve("a", make_question(200, 100), FREE)).request.max_tokens == 100
        with pytest.raises(RejectionError):
            await money.reserve("a", make_question(4, 1), FREE)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("budget", "rule", "says", "later"),
    [
        (Budget(tokens_total=150), "budget.tokens", "budget: this service's 150 tokens a day", True),
        (Budget(usd_per_caller=Decimal("1.5")), "budget.cost", "budget: your 1.5 USD a day", True),
        (Budget(usd_total=Decimal("1.5")), "budget.cost", "budget: this service's 1.5 USD a day", True),
        (
            Budget(streams_per_caller=1),
            "budget.streams",
            "budget: 1 answers are already under way for you (wait",
            False,
        ),
        (
            Budget(streams_total=1),
            "budget.streams",
            "budget: 1 answers are already under way in this service (wait",
            False,
        ),
    ],
)
def test_budget_rejection_names_limit_and_retry_after(budget: Budget, rule: str, says: str, later: bool) -> None:
    async def main() -> None:
        money = make_budgets(budget)
        await money.reserve("a", make_question(4), PRICED)
        with pytest.raises(RejectionError) as excinfo:
            await money.reserve("a", make_question(4), PRICED)
        assert excinfo.value.rule == rule and says in excinfo.value.message
        assert (excinfo.value.retry_after_s is not None) is later

    asyncio.run(main())


def test_answer_larger_than_daily_budget_has_no_retry_after() -> None:
    async def main() -> None:
        with pytest.raises(RejectionError, match=r"daily 50 tokens \(lower max_tokens") as excinfo:
            await make_budgets(Budget(tokens_per_caller=50)).reserve("a", make_question(4), FREE)
        assert excinfo.value.retry_after_s is None

    asyncio.run(main())


def test_unused_reservation_is_returned_in_full() -> None:
    async def main() -> None:
        money = make_budgets(Budget(tokens_total=101, streams_total=1))
        for _ in range(5):
            await (await money.reserve("a", make_question(4), FREE)).settle(None)

    asyncio.run(main())


def test_budget_bounds_follow_order_of_limits() -> None:
    everything = Budget(1, 2, Decimal(3), Decimal("0.5"), 5, 6, 7)
    assert dict(zip(LIMITS, everything.bounds(), strict=True)) == {
        "tokens_per_caller": 1,
        "tokens_total": 2,
        "usd_per_caller": 3 * 10**9,
        "usd_total": 5 * 10**8,
        "streams_per_caller": 5,
        "streams_total": 6,
    }


def test_evicted_caller_gets_no_refund() -> None:
    ledger = BudgetLedger(Budget(tokens_per_caller=100), callers=1)
    assert ledger.reserve("1", "a", Spend(90), DAY, 0.0) is None
    assert ledger.reserve("2", "b", Spend(1), DAY, 0.0) is None
    ledger.settle("1", "a", Spend(90), Spend(10), DAY)
    assert ledger.reserve("3", "a", Spend(91), DAY, 0.0) == "tokens_per_caller"


MONEY = Budget(usd_per_caller=Decimal(1))


@pytest.mark.parametrize("names", [("p:m", "q:m"), ("q:m", "p:m")])
def test_unpriced_paid_route_is_rejected_in_any_position(names: tuple[str, ...]) -> None:
    known = {"p:m": CostModel(paid=True), "q:m": CostModel()}

    async def main() -> None:
        with pytest.raises(RejectionError, match=r"^p:m: the price is unknown.*UNPRICED_USD_PER_1M") as excinfo:
            await make_budgets(MONEY).reserve("a", make_question(4), {name: known[name] for name in names})
        assert (excinfo.value.rule, excinfo.value.status, excinfo.value.retry_after_s) == ("budget.unpriced", 403, None)

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
def test_unpriced_route_passes_if_free_or_without_cost_limit(budget: Budget, routes: dict[str, CostModel]) -> None:
    async def main() -> None:
        await (await make_budgets(budget).reserve("a", make_question(4), routes)).settle(None)

    asyncio.run(main())


def test_configured_price_of_unpriced_models_is_reserved_and_settled() -> None:
    async def main() -> None:
        money = make_budgets(Budget(usd_per_caller=Decimal(1), unpriced=(Decimal(0), Decimal(10_000))))
        reservation = await money.reserve("a", make_question(4, 60), UNPRICED)  # 0.60 USD
        with pytest.raises(RejectionError, match="1 USD a day"):
            await money.reserve("a", make_question(4, 60), UNPRICED)
        await reservation.settle(charge(5, 20))  # 0.20 USD
        await money.reserve("a", make_question(4, 60), UNPRICED)

    asyncio.run(main())


@pytest.mark.parametrize("requests", [None, 10])
def test_request_under_cost_budget_always_has_token_limit(requests: int | None) -> None:
    async def main() -> tuple[int | None, int | None]:
        money = make_budgets(Budget(usd_per_caller=Decimal(1000), output_tokens=None))
        paid = await money.reserve("a", make_question(4, requests), PRICED)
        free = await money.reserve("a", make_question(4, requests), FREE)
        return paid.request.max_tokens, free.request.max_tokens

    assert asyncio.run(main()) == (requests or UNBOUNDED_TOKENS, requests)


@pytest.mark.parametrize(
    ("ends", "left_usd"),
    [
        (None, "1"),
        (charge(0, 0, reported=False, rejected=True), "1"),
        (charge(0, 50), "0.5"),
        (charge(4, 3, reported=False), "0.2"),
        (Charge("elsewhere", make_reading(1, 1)), "0.2"),
    ],
    ids=["nobody asked", "rejected", "reported", "stopped", "an unknown route"],
)
def test_settlement_releases_unspent_reservation(ends: Charge | None, left_usd: str) -> None:
    output_priced = {
        "p:m": CostModel(price=lambda usage: Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "t"))
    }

    async def main() -> None:
        money = make_budgets(Budget(usd_per_caller=Decimal(1)))
        await (await money.reserve("a", make_question(4, 80), output_priced)).settle(ends)
        tokens = int(Decimal(left_usd) * 100)
        with pytest.raises(RejectionError):
            await money.reserve("a", make_question(4, tokens + 1), output_priced)
        await money.reserve("a", make_question(4, tokens), output_priced)

    asyncio.run(main())


def test_renewal_charges_failed_attempt_and_reserves_next() -> None:
    output_priced = {
        "p:m": CostModel(price=lambda usage: Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "t"))
    }

    async def main() -> None:
        money = make_budgets(Budget(usd_per_caller=Decimal(1), streams_per_caller=1))
        reservation = await money.reserve("a", make_question(4, 40), output_priced)
        assert await reservation.renew(charge(1, 1, reported=False)) is None  # 0.40 spent, 0.40 reserved
        failed = await reservation.renew(charge(1, 1, reported=False))
        assert failed is not None and failed.kind == "budget"
        assert failed.message.startswith("p:m: the answer failed and is not requested again: budget: your 1 USD a day")
        await reservation.settle(charge(1, 100))
        await money.reserve("a", make_question(4, 20), output_priced)

    asyncio.run(main())


def test_overrun_is_reserved_for_next_answer() -> None:
    output_priced = {
        "p:m": CostModel(price=lambda usage: Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "t"))
    }

    async def main() -> None:
        money = make_budgets(Budget(usd_total=Decimal(10)))
        await (await money.reserve("a", make_question(4, 10), output_priced)).settle(charge(5, 277))
        left = 1000 - 277
        with pytest.raises(RejectionError):
            await money.reserve("b", make_question(4, left - 267 + 1), output_priced)
        await money.reserve("b", make_question(4, left - 267), output_priced)

    asyncio.run(main())
