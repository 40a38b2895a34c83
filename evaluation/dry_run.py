"""A dry run: what would be asked of whom, and what it would cost, without asking anybody."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.table import Table

from evaluation import wording
from evaluation.escaping import to_line
from evaluation.scenario import Planned, Scenario, label
from evaluation.spending import Quote, quote_trial, quote_warm_up
from evaluation.trial import Access
from streaming.errors import UsageError


@dataclass(frozen=True, slots=True)
class Share:
    """What one provider would be asked, warm-up included in tokens and cost; None is an unknown price."""

    provider: str
    trials: int
    warm_ups: int
    input_tokens: int
    output_tokens: int
    most_output_tokens: int
    usd: Decimal | None
    at_most_usd: Decimal | None

    def as_dict(self) -> dict[str, Any]:
        """Give it for a program; amounts as texts, exactly."""
        money = {"usd": self.usd, "at_most_usd": self.at_most_usd}
        counts = {name: getattr(self, name) for name in ("provider", "trials", "warm_ups", "input_tokens")}
        counts |= {"output_tokens": self.output_tokens, "at_most_output_tokens": self.most_output_tokens}
        return counts | {name: None if value is None else str(value) for name, value in money.items()}


def shares(scenario: Scenario, access: Access, planned: Sequence[Planned]) -> list[Share]:
    """Estimate what is planned, by provider."""
    found = []
    for provider in scenario.providers:
        rates = access.rates(provider)
        # Strategies ask alike: each prompt is estimated once a transport.
        some = {(trial.prompt, trial.transport): trial for trial in planned if trial.provider == provider}
        prompts = Counter((trial.prompt, trial.transport) for trial in planned if trial.provider == provider)
        if not prompts:
            continue
        quotes = [(quote_trial(rates, scenario, some[prompt]), count) for prompt, count in prompts.items()]
        transports = dict.fromkeys(transport for _, transport in prompts)
        warm_ups = [(quote_warm_up(rates, scenario, transport), scenario.warm_up) for transport in transports]
        found.append(_share(provider, prompts.total(), scenario.warm_up * len(transports), quotes + warm_ups))
    return found


def _share(provider: str, trials: int, warm_ups: int, quotes: Sequence[tuple[Quote, int]]) -> Share:
    def tokens(name: str) -> int:
        return sum(int(getattr(quote, name)) * count for quote, count in quotes)

    def money(name: str) -> Decimal | None:
        amounts = [(getattr(quote, name), count) for quote, count in quotes]
        known = all(amount is not None for amount, _ in amounts)
        return sum((amount * count for amount, count in amounts), Decimal(0)) if known else None

    return Share(
        provider,
        trials,
        warm_ups,
        tokens("input_tokens"),
        tokens("output_tokens"),
        tokens("most_output_tokens"),
        money("usd"),
        money("at_most_usd"),
    )


def require_prices(shares: Sequence[Share]) -> None:
    """Raise UsageError unless the price of everything is known: a ceiling cannot be kept over the unknown."""
    unknown = [share.provider for share in shares if share.at_most_usd is None]
    if unknown:
        raise UsageError(
            f"--max-cost needs a price for every provider; unknown: {', '.join(unknown)}. "
            f"Say it, in USD for 1M tokens: --price {unknown[0]}=IN/OUT (0/0 for what costs nothing)"
        )


def table(shares: Sequence[Share]) -> Table:
    """Give a line for each provider."""
    found = Table(title="Dry run: nobody was asked")
    found.add_column("provider")
    for heading in ("trials", "input tokens, about", "output tokens, at most", "USD, about", "USD, at most"):
        found.add_column(heading, justify="right")
    for share in shares:
        money = [_usd(share.usd), _usd(share.at_most_usd)]
        found.add_row(
            to_line(label(share.provider)),
            str(share.trials),
            str(share.input_tokens),
            str(share.most_output_tokens),
            *money,
        )
    return found


def _usd(value: Decimal | None) -> str:
    return "price unknown" if value is None else wording.usd(float(value))
