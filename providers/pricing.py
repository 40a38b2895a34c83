"""What tokens cost: the asker's own price first, else the public price list of genai-prices, else unknown."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from streaming.errors import UsageError
from streaming.events import Usage
from streaming.meter import Cost, Price

_MILLION = Decimal(1_000_000)

PricePair = tuple[Decimal, Decimal]
"""USD for a million tokens: input, output."""


def parse_price(text: str) -> tuple[str, PricePair]:
    """Read `MODEL=IN/OUT`, USD for a million tokens, for example `openai:gpt-5-mini=0.25/2`. Raises UsageError."""
    name, _, pair = text.rpartition("=")
    try:
        input_usd, output_usd = (Decimal(part.strip()) for part in pair.split("/"))
    except (InvalidOperation, ValueError):
        input_usd = output_usd = Decimal("NaN")
    if not (name.strip() and input_usd.is_finite() and output_usd.is_finite() and min(input_usd, output_usd) >= 0):
        raise UsageError(f"price {text!r}: write MODEL=IN/OUT in USD for 1M tokens, for example gpt-5-mini=0.25/2")
    return name.strip(), (input_usd, output_usd)


def user_price(prices: Mapping[str, PricePair], name: str, model: str) -> Price | None:
    """Give the price that the asker set for the full name, else for the model; None if neither."""
    pair = prices.get(name) or prices.get(model)
    if pair is None:
        return None
    input_usd, output_usd = pair

    def price(usage: Usage) -> Cost | None:
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        return Cost(usage.input_tokens * input_usd / _MILLION, usage.output_tokens * output_usd / _MILLION, "user")

    return price


def listed_price(provider_id: str, model: str, remark: str = "") -> Price | None:
    """Give the public price; None where the list has no such model. `remark` is added to the price's source.

    A list has prices of 0 for what is not paid by the token of text, and finds some models by a part of their name:
    output that costs nothing is unknown, unless the model is named `…:free`.
    Cached input is priced as such; thinking is output. The list carries no day for its prices.
    """
    from genai_prices import Usage as Counts
    from genai_prices import __version__, calc_price

    try:
        sample = calc_price(Counts(input_tokens=1000, output_tokens=1000), model, provider_id=provider_id)
    except LookupError:
        return None
    if not sample.output_price and not model.endswith(":free"):
        return None
    source = f"genai-prices {__version__}{remark}"

    # A meter is read many times between two changes of the usage, and a look-up costs a quarter of a millisecond.
    @lru_cache(maxsize=16)
    def price(usage: Usage) -> Cost | None:
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        cached = min(usage.cached_tokens or 0, usage.input_tokens)
        counts = Counts(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cache_read_tokens=cached)
        found = calc_price(counts, model, provider_id=provider_id)
        return Cost(found.input_price, found.output_price, source)

    return price
