"""Cost estimates, the cost ceiling, and the ledger that survives a kill of the process."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from evaluation import manifest, schema
from evaluation.cli import dry_run
from evaluation.prompts.prompt_file import Prompt
from evaluation.runner import budget
from evaluation.runner.budget import LEDGER_FILE, CostCeiling, estimate_cost, read_ledger_total
from evaluation.runner.runner import RunSummary, run
from evaluation.runner.trial import WARM_UP_PROMPT, WARM_UP_TOKENS
from evaluation.scenario import Scenario, plan
from streaming.errors import UsageError
from streaming.meter import CostModel
from tests.unit.evaluation import factories
from tests.unit.evaluation.fake_backend import PricedAdapter, price_usage
from tests.virtual_time import run_on_virtual_time

ONE_USD = Decimal("0.00005")
"""What one answer of `PricedAdapter` costs: 10 input tokens at 1 and 20 output tokens at 2 USD for a million."""


def max_cost_usd(scenario: Scenario) -> Decimal:
    """Return the highest cost of `One?` or `Two?`: a token per byte, 64 template tokens, and the longest answer."""
    return (4 + 64 + 2 * scenario.max_tokens) / Decimal(1_000_000)


def run_with_ceiling(
    folder: Path, expected: Scenario, ceiling_usd: Decimal, adapter: PricedAdapter | None = None
) -> RunSummary:
    budget = CostCeiling(ceiling_usd, folder / LEDGER_FILE)
    return asyncio.run(run(expected, adapter or PricedAdapter(), folder, budget=budget))


def test_maximum_cost_assumes_byte_per_token_and_all_attempts() -> None:
    result = estimate_cost(CostModel(price=price_usage), "Grüße", max_tokens=100, expected_tokens=30, attempts=3)
    assert (result.input_tokens, result.output_tokens, result.most_output_tokens) == (2, 30, 100)
    assert result.usd == Decimal("0.000062") and result.at_most_usd == 3 * Decimal("0.000271")


def test_maximum_cost_over_transport_includes_service_attempts() -> None:
    expected = factories.make_scenario(("m",), transport=("in-process", "sse"), repeats=1, fresh=False)
    here, there = sorted(plan(expected)[:2], key=lambda p: p.transport)
    quotes = [
        budget.estimate_trial_cost(CostModel(price=price_usage), expected, planned).at_most_usd
        for planned in (here, there)
    ]
    assert quotes == [max_cost_usd(expected), 5 * max_cost_usd(expected)], (
        "one, three retries, and once without streaming"
    )
    (share,) = dry_run.estimate_run(expected, PricedAdapter(), plan(expected))
    warm_up = estimate_cost(CostModel(price=price_usage), WARM_UP_PROMPT, WARM_UP_TOKENS).at_most_usd
    assert warm_up is not None and (share.trials, share.warm_ups) == (4, 2)
    assert share.at_most_usd == 2 * 6 * max_cost_usd(expected) + 6 * warm_up


def test_unknown_price_gives_unknown_cost() -> None:
    result = estimate_cost(CostModel(), "Why?", max_tokens=100)
    assert result.usd is None and result.at_most_usd is None


def test_cost_ceiling_holds_for_concurrent_answers(tmp_path: Path) -> None:
    expected = factories.make_scenario(("m",), repeats=50, concurrency=5, warm_up=0, max_tokens=20)
    ceiling_usd = 10 * ONE_USD + max_cost_usd(expected) - ONE_USD
    summary = run_with_ceiling(tmp_path, expected, ceiling_usd)
    assert summary.out_of_budget and not summary.interrupted and summary.trials == 10
    spent = sum((trial.cost_usd or Decimal(0) for trial in schema.read_trials(tmp_path)), Decimal(0))
    assert spent == 10 * ONE_USD == read_ledger_total(tmp_path) <= ceiling_usd
    facts = manifest.read(tmp_path)
    assert facts["out_of_budget"] and not facts["complete"] and Decimal(facts["charged_usd"]) == spent


def test_affordable_run_completes_and_charges_warm_up(tmp_path: Path) -> None:
    expected = factories.make_scenario(("m",), repeats=1, max_tokens=20)
    summary = run_with_ceiling(tmp_path, expected, Decimal(1))
    assert summary.trials == 2 and not summary.out_of_budget
    assert read_ledger_total(tmp_path) == 3 * ONE_USD


def test_ceiling_below_warm_up_cost_sends_nothing(tmp_path: Path) -> None:
    adapter = PricedAdapter()
    summary = run_with_ceiling(tmp_path, factories.make_scenario(("m",)), Decimal("0.000001"), adapter)
    assert summary.out_of_budget and adapter.requests == [] and summary.trials == 0


def test_failure_of_unknown_cost_is_charged_at_maximum(tmp_path: Path) -> None:
    expected = factories.make_scenario(("broken",), repeats=1, warm_up=0, max_tokens=20)
    run_with_ceiling(tmp_path, expected, Decimal(1))
    assert read_ledger_total(tmp_path) == 2 * max_cost_usd(expected)


def test_retried_answer_is_charged_for_every_attempt() -> None:
    async def main() -> Decimal:
        budget = CostCeiling(Decimal(1))
        assert await budget.reserve("a", Decimal("0.3"))
        budget.settle("a", Decimal("0.1"), attempts=2)
        return budget.charged_usd

    assert asyncio.run(main()) == Decimal("0.3")


def test_reservation_waits_for_answers_under_way() -> None:
    async def main() -> list[str]:
        budget, output = CostCeiling(Decimal("1")), []

        async def reserve_and_settle(name: str, takes_s: float) -> None:
            output.append(f"{name} {await budget.reserve(name, Decimal('0.6'))}")
            await asyncio.sleep(takes_s)
            if name != "c":
                budget.settle(name, Decimal("0.3"))

        await asyncio.gather(reserve_and_settle("a", 5), reserve_and_settle("b", 5))
        await reserve_and_settle("c", 0)
        return output

    assert run_on_virtual_time(main()) == ["a True", "b True", "c False"]


def test_room_for_thinking_that_does_not_fit_is_requested_alone() -> None:
    async def main() -> list[str]:
        budget, said = CostCeiling(Decimal("0.10")), []

        async def ask(name: str, cost_usd: str) -> None:
            said.append(f"{name} {await budget.reserve(name, Decimal('0.25'), 'm', Decimal('0.03'))}")
            await asyncio.sleep(1)
            if said[-1].endswith("True"):
                budget.settle(name, Decimal(cost_usd))

        await asyncio.gather(ask("a", "0.04"), ask("b", "0.04"), ask("c", "0.04"))
        assert budget.charged_usd == Decimal("0.08")
        return said

    assert run_on_virtual_time(main()) == ["a True", "b True", "c False"]


def test_estimate_separates_visible_limit_from_room_for_thinking() -> None:
    found = estimate_cost(CostModel(price=price_usage, thinking_room=8192), "Why?", max_tokens=100)
    assert found.visible_usd == Decimal(4 + 64 + 200) / 1_000_000
    assert found.at_most_usd == found.visible_usd + Decimal(2 * 8192) / 1_000_000


def test_ledger_counts_unsettled_reservation_at_maximum(tmp_path: Path) -> None:
    lines = [
        '{"reserved": "a", "usd": "0.5"}',
        '{"charged": "a", "usd": "0.1"}',
        '{"reserved": "b", "usd": "0.25"}',
        '{"reser',
    ]
    (tmp_path / LEDGER_FILE).write_text("\n".join(lines))
    assert read_ledger_total(tmp_path) == Decimal("0.35")
    (tmp_path / LEDGER_FILE).write_text('{"charged": "never reserved", "usd": "1"}\n')
    with pytest.raises(UsageError, match="line 1: not a line of a ledger"):
        read_ledger_total(tmp_path)
    assert read_ledger_total(tmp_path / "nothing") == 0


def test_dry_run_says_what_the_planned_prompts_can_show() -> None:
    def power_of(
        prompts: int, providers: tuple[str, ...] = ("m", "n"), repeats: int = 1
    ) -> dry_run.PlannedPower | None:
        requests = tuple(Prompt(f"p{number}", f"{number}?") for number in range(prompts))
        return dry_run.estimate_power(Scenario(providers, ("direct",), requests, repeats))

    default, more = power_of(24), power_of(60)
    assert default is not None and more is not None and default.smallest_effect and more.smallest_effect
    assert 0.25 < default.smallest_effect <= 0.35 and more.smallest_effect <= 0.20
    assert default == power_of(24, repeats=5), "repeats are no further prompts"
    assert "24 prompts a difference of 31%" in default.describe() and "10 % needs" in default.describe()
    strict = power_of(24, ("m", "n", "o"))
    assert strict is not None and strict.comparisons == 3 and (strict.smallest_effect or 0) > default.smallest_effect
    few = power_of(2)
    assert few is not None and few.smallest_effect is None and "too few" in few.describe()
    assert power_of(24, ("m",)) is None


def test_dry_run_sums_estimates_per_provider() -> None:
    prompts = (Prompt("a", "12345678", expected_tokens=5), Prompt("b", "1234"))
    expected = Scenario(("m", "unpriced"), ("direct", "whole"), prompts, 3, max_tokens=10, warm_up=1, fresh=False)
    priced, unknown = dry_run.estimate_run(expected, PricedAdapter(), plan(expected))
    hello = budget.estimate_warm_up_cost(PricedAdapter().cost_model("m"), expected)
    assert (priced.trials, priced.warm_ups) == (12, 1)
    assert priced.input_tokens == 6 * 2 + 6 * 1 + hello.input_tokens
    assert (priced.output_tokens, priced.most_output_tokens) == (6 * 5 + 6 * 10 + 10, 12 * 10 + 10)
    assert priced.usd is not None and priced.at_most_usd is not None and priced.usd < priced.at_most_usd
    assert unknown.usd is None and unknown.at_most_usd is None
    with pytest.raises(UsageError, match=r"the price of unpriced is unknown.*--price unpriced=IN/OUT"):
        dry_run.require_prices([priced, unknown])
