"""A dry run: the number of requests, tokens and the cost of a run per provider, without sending any request."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.table import Table

from evaluation.backends.base import ProviderAccess
from evaluation.prompts.prompt_file import Prompt
from evaluation.reports import formatting
from evaluation.runner.budget import CostEstimate, estimate_trial_cost, estimate_warm_up_cost
from evaluation.scenario import PlannedTrial, Scenario, display_name, warm_trials
from streaming.errors import UsageError
from streaming.escaping import to_line

NOISE = 0.3
"""The standard deviation of the logarithm of single answers' latencies that is assumed before a run."""


@dataclass(frozen=True, slots=True)
class ProviderEstimate:
    """The estimated requests, tokens and cost of one provider. Tokens and cost include warm-up; None: price unknown."""

    provider: str
    trials: int
    warm_ups: int
    input_tokens: int
    output_tokens: int
    most_output_tokens: int
    usd: Decimal | None
    at_most_usd: Decimal | None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON fields of the estimate; amounts are strings, so that they stay exact."""
        money = {"usd": self.usd, "at_most_usd": self.at_most_usd}
        counts = {name: getattr(self, name) for name in ("provider", "trials", "warm_ups", "input_tokens")}
        counts |= {"output_tokens": self.output_tokens, "at_most_output_tokens": self.most_output_tokens}
        return counts | {name: None if value is None else str(value) for name, value in money.items()}


def estimate_run(scenario: Scenario, access: ProviderAccess, planned: Sequence[PlannedTrial]) -> list[ProviderEstimate]:
    """Return the estimate of the planned trials, one entry per provider."""
    estimates = []
    for provider in scenario.providers:
        cost_model = access.cost_model(provider)
        # The strategy does not change the cost: each prompt is estimated once per transport.
        some = {_request_key(trial): trial for trial in planned if trial.provider == provider}
        prompts = Counter(_request_key(trial) for trial in planned if trial.provider == provider)
        warmed = Counter(_request_key(trial) for trial in warm_trials(scenario, planned) if trial.provider == provider)
        if not prompts:
            continue
        requests = prompts + warmed
        quotes = [
            (estimate_trial_cost(cost_model, scenario, some[prompt]), count) for prompt, count in requests.items()
        ]
        transports = dict.fromkeys(transport for *_, transport in prompts)
        warm_ups = [
            (estimate_warm_up_cost(cost_model, scenario, transport), scenario.warm_up) for transport in transports
        ]
        warm_ups_count = scenario.warm_up * len(transports) + warmed.total()
        estimates.append(_estimate_provider(provider, prompts.total(), warm_ups_count, quotes + warm_ups))
    return estimates


def _request_key(trial: PlannedTrial) -> tuple[Prompt, int, str]:
    return trial.prompt, trial.turn, trial.transport


def _estimate_provider(
    provider: str, trials: int, warm_ups: int, quotes: Sequence[tuple[CostEstimate, int]]
) -> ProviderEstimate:
    def sum_tokens(name: str) -> int:
        return sum(int(getattr(quote, name)) * count for quote, count in quotes)

    def sum_usd(name: str) -> Decimal | None:
        amounts = [(getattr(quote, name), count) for quote, count in quotes]
        known = all(amount is not None for amount, _ in amounts)
        return sum((amount * count for amount, count in amounts), Decimal(0)) if known else None

    return ProviderEstimate(
        provider,
        trials,
        warm_ups,
        sum_tokens("input_tokens"),
        sum_tokens("output_tokens"),
        sum_tokens("most_output_tokens"),
        sum_usd("usd"),
        sum_usd("at_most_usd"),
    )


def require_prices(shares: Sequence[ProviderEstimate]) -> None:
    """Raise UsageError if a provider's price is unknown, since a cost ceiling could not be kept."""
    unknown = [share.provider for share in shares if share.at_most_usd is None]
    if unknown:
        raise UsageError(
            f"--max-cost: the price of {', '.join(unknown)} is unknown "
            f"(set it in USD per 1M tokens: --price {unknown[0]}=IN/OUT, 0/0 if it is free)"
        )


def estimate_table(shares: Sequence[ProviderEstimate]) -> Table:
    """Return a table with one row per provider."""
    table = Table(title="Dry run: no requests were sent")
    table.add_column("provider")
    for heading in ("trials", "input tokens, about", "output tokens, at most", "USD, about", "USD, at most"):
        table.add_column(heading, justify="right")
    for share in shares:
        money = [_format_usd(share.usd), _format_usd(share.at_most_usd)]
        table.add_row(
            to_line(display_name(share.provider)),
            str(share.trials),
            str(share.input_tokens),
            str(share.most_output_tokens),
            *money,
        )
    return table


@dataclass(frozen=True, slots=True)
class PlannedPower:
    """What a comparison of providers can show with so many prompts; shares of the value of the first.

    `smallest_effect` is found in 80 % of runs if single answers vary by `NOISE`; None if there are too few prompts.
    `prompts_for_10_percent` is the number of prompts that find a difference of 10 % as often.
    """

    prompts: int
    comparisons: int
    smallest_effect: float | None
    prompts_for_10_percent: int | None

    def describe(self) -> str:
        """Return the power in a sentence."""
        noise = f"if answers vary by {NOISE:.0%} and no provider drifts"
        need = "more prompts than can be asked" if self.prompts_for_10_percent is None else self.prompts_for_10_percent
        if self.smallest_effect is None:
            return f"power: {self.prompts} prompts are too few to tell providers apart (10 % needs {need}, {noise})"
        return (
            f"power: with {self.prompts} prompts a difference of {self.smallest_effect:.0%} between two providers is "
            f"found in 80 % of runs {noise}; 10 % needs {need}"
        )


def estimate_power(scenario: Scenario) -> PlannedPower | None:
    """Return the power of a planned run; None for one provider, which is compared with nothing."""
    from evaluation.analysis import paired

    names = len(scenario.providers) * max(len(scenario.effort), 1)
    if names < 2:
        return None
    # Repeats of one prompt are not independent: the prompts are what a comparison draws its interval from.
    units = len(scenario.prompts) if len(scenario.prompts) > 1 else scenario.repeats
    comparisons, spread = math.comb(names, 2), NOISE * math.sqrt(2)
    return PlannedPower(
        units,
        comparisons,
        paired.detectable_effect(units, spread, comparisons),
        paired.required_pairs(0.1, spread, comparisons),
    )


def _format_usd(value: Decimal | None) -> str:
    return "price unknown" if value is None else formatting.format_usd(float(value))
