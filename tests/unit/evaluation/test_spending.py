"""Money: what a trial may cost at most, and that a ceiling is never passed, nor what a kill broke off forgotten."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from evaluation import dry_run, manifest, record, spending
from evaluation.run import Summary, run
from evaluation.scenario import Prompt, Scenario, plan
from evaluation.spending import LEDGER, Budget, quote, spent_before
from evaluation.trial import WARM_UP_PROMPT, WARM_UP_TOKENS
from streaming.errors import UsageError
from streaming.meter import Rates
from tests.unit.evaluation import made
from tests.unit.evaluation.asking import Priced, price
from tests.virtual_time import run_virtual

ONE_USD = Decimal("0.00005")
"""What one answer of `Priced` costs: 10 input tokens at 1 and 20 output tokens at 2 USD for a million."""


def at_most(scenario: Scenario) -> Decimal:
    """A byte a token of `One?` or `Two?`, 64 for the wrapping, and the longest answer, at those prices."""
    return (4 + 64 + 2 * scenario.max_tokens) / Decimal(1_000_000)


def measured(folder: Path, wanted: Scenario, ceiling_usd: Decimal, adapter: Priced | None = None) -> Summary:
    budget = Budget(ceiling_usd, folder / LEDGER)
    return asyncio.run(run(wanted, adapter or Priced(), folder, budget=budget))


def test_at_most_is_a_token_a_byte_and_the_longest_answer_in_every_attempt() -> None:
    found = quote(Rates(price=price), "Grüße", max_tokens=100, expected_tokens=30, attempts=3)
    assert (found.input_tokens, found.output_tokens, found.most_output_tokens) == (2, 30, 100)
    assert found.usd == Decimal("0.000062") and found.at_most_usd == 3 * Decimal("0.000271")


def test_over_a_wire_the_services_own_attempts_may_all_be_paid_for() -> None:
    wanted = made.scenario(("m",), transport=("in-process", "sse"), repeats=1)
    here, there = sorted(plan(wanted)[:2], key=lambda p: p.transport)
    quotes = [spending.quote_trial(Rates(price=price), wanted, planned).at_most_usd for planned in (here, there)]
    assert quotes == [at_most(wanted), 5 * at_most(wanted)], "one, three retries, and once without streaming"
    (share,) = dry_run.shares(wanted, Priced(), plan(wanted))
    warm_up = quote(Rates(price=price), WARM_UP_PROMPT, WARM_UP_TOKENS).at_most_usd
    assert warm_up is not None and (share.trials, share.warm_ups) == (4, 2)
    assert share.at_most_usd == 2 * 6 * at_most(wanted) + 6 * warm_up


def test_an_unknown_price_is_unknown_and_not_nothing() -> None:
    found = quote(Rates(), "Why?", max_tokens=100)
    assert found.usd is None and found.at_most_usd is None


def test_the_ceiling_is_never_passed_even_by_answers_at_a_time(tmp_path: Path) -> None:
    wanted = made.scenario(("m",), repeats=50, concurrency=5, warm_up=0, max_tokens=20)
    ceiling_usd = 10 * ONE_USD + at_most(wanted) - ONE_USD
    summary = measured(tmp_path, wanted, ceiling_usd)
    assert summary.out_of_budget and not summary.interrupted and summary.trials == 10
    spent = sum((trial.cost_usd or Decimal(0) for trial in record.read_trials(tmp_path)), Decimal(0))
    assert spent == 10 * ONE_USD == spent_before(tmp_path) <= ceiling_usd
    facts = manifest.read(tmp_path)
    assert facts["out_of_budget"] and not facts["complete"] and Decimal(facts["charged_usd"]) == spent


def test_what_fits_is_not_stopped_and_warm_up_is_paid_for(tmp_path: Path) -> None:
    wanted = made.scenario(("m",), repeats=1, max_tokens=20)
    summary = measured(tmp_path, wanted, Decimal(1))
    assert summary.trials == 2 and not summary.out_of_budget
    assert spent_before(tmp_path) == 3 * ONE_USD


def test_a_ceiling_below_the_warm_up_asks_nobody(tmp_path: Path) -> None:
    adapter = Priced()
    summary = measured(tmp_path, made.scenario(("m",)), Decimal("0.000001"), adapter)
    assert summary.out_of_budget and adapter.asked == [] and summary.trials == 0


def test_a_failure_of_unknown_cost_is_charged_at_the_most(tmp_path: Path) -> None:
    wanted = made.scenario(("broken",), repeats=1, warm_up=0, max_tokens=20)
    measured(tmp_path, wanted, Decimal(1))
    assert spent_before(tmp_path) == 2 * at_most(wanted)


def test_a_retried_answer_is_charged_for_every_attempt() -> None:
    async def main() -> Decimal:
        budget = Budget(Decimal(1))
        assert await budget.reserve("a", Decimal("0.3"))
        budget.settle("a", Decimal("0.1"), attempts=2)
        return budget.charged_usd

    assert asyncio.run(main()) == Decimal("0.3")


def test_who_does_not_fit_waits_for_those_under_way() -> None:
    async def main() -> list[str]:
        budget, said = Budget(Decimal("1")), []

        async def answer(name: str, takes_s: float) -> None:
            said.append(f"{name} {await budget.reserve(name, Decimal('0.6'))}")
            await asyncio.sleep(takes_s)
            if name != "c":
                budget.settle(name, Decimal("0.3"))

        await asyncio.gather(answer("a", 5), answer("b", 5))
        await answer("c", 0)
        return said

    assert run_virtual(main()) == ["a True", "b True", "c False"]


def test_what_was_broken_off_counts_at_the_most(tmp_path: Path) -> None:
    lines = [
        '{"reserved": "a", "usd": "0.5"}',
        '{"charged": "a", "usd": "0.1"}',
        '{"reserved": "b", "usd": "0.25"}',
        '{"reser',
    ]
    (tmp_path / LEDGER).write_text("\n".join(lines))
    assert spent_before(tmp_path) == Decimal("0.35")
    (tmp_path / LEDGER).write_text('{"charged": "never reserved", "usd": "1"}\n')
    with pytest.raises(UsageError, match="line 1: not a line of a ledger"):
        spent_before(tmp_path)
    assert spent_before(tmp_path / "nothing") == 0


def test_a_dry_run_adds_up_what_each_provider_would_be_asked() -> None:
    prompts = (Prompt("a", "12345678", expected_tokens=5), Prompt("b", "1234"))
    wanted = Scenario(("m", "unpriced"), ("direct", "whole"), prompts, repeats=3, max_tokens=10, warm_up=1)
    priced, unknown = dry_run.shares(wanted, Priced(), plan(wanted))
    hello = spending.quote_warm_up(Priced().rates("m"), wanted)
    assert (priced.trials, priced.warm_ups) == (12, 1)
    assert priced.input_tokens == 6 * 2 + 6 * 1 + hello.input_tokens
    assert (priced.output_tokens, priced.most_output_tokens) == (6 * 5 + 6 * 10 + 10, 12 * 10 + 10)
    assert priced.usd is not None and priced.at_most_usd is not None and priced.usd < priced.at_most_usd
    assert unknown.usd is None and unknown.at_most_usd is None
    with pytest.raises(UsageError, match=r"unknown: unpriced.*--price unpriced=IN/OUT"):
        dry_run.require_prices([priced, unknown])
