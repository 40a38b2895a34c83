"""Prices of tokens: the caller's own price first, then the public price list of genai-prices, else unknown."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import NamedTuple

from streaming.adapter import UpstreamPrice
from streaming.errors import UsageError
from streaming.events import Usage
from streaming.meter import USER_PRICE, Cost, PriceFunction

_MILLION = Decimal(1_000_000)
_PRICED_TIERS = ("priority", "fast", "flex", "batch")
"""The service tiers whose prices differ from the usual ones, where the list has them."""


class TokenPrices(NamedTuple):
    """Prices in USD per million tokens. When `cached_usd` is None, cached input costs as much as other input."""

    input_usd: Decimal
    output_usd: Decimal
    cached_usd: Decimal | None = None


def parse_price(text: str) -> tuple[str, TokenPrices]:
    """Parse `MODEL=IN/OUT[/CACHED]` in USD per million tokens, for example `openai:gpt-5-mini=0.25/2/0.025`.

    Raises UsageError for any other form and for prices that are negative or not finite.
    """
    name, _, rest = text.rpartition("=")
    try:
        cost_model = [Decimal(part.strip()) for part in rest.split("/")]
    except InvalidOperation:
        cost_model = []
    if (
        not name.strip()
        or len(cost_model) not in (2, 3)
        or not all(rate.is_finite() and rate >= 0 for rate in cost_model)
    ):
        raise UsageError(
            f"price {text!r}: invalid (write MODEL=IN/OUT[/CACHED] in USD per 1M tokens, e.g. gpt-5-mini=0.25/2/0.025)"
        )
    return name.strip(), TokenPrices(*cost_model)


def custom_price(prices: Mapping[str, TokenPrices], name: str, model: str) -> PriceFunction | None:
    """Return the caller's price for the full name, else for the model, else None.

    The price of an answer is None until both its input and its output tokens are known.
    """
    price = prices.get(name) or prices.get(model)
    if price is None:
        return None
    return _price_function(price, USER_PRICE)


def _price_function(rates: TokenPrices, source: str) -> PriceFunction:
    def price_usage(usage: Usage) -> Cost | None:
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        cached = min(usage.cached_tokens or 0, usage.input_tokens) if rates.cached_usd is not None else 0
        input_usd = (usage.input_tokens - cached) * rates.input_usd + cached * (rates.cached_usd or 0)
        return Cost(input_usd / _MILLION, usage.output_tokens * rates.output_usd / _MILLION, source)

    return price_usage


def router_price(price: UpstreamPrice) -> PriceFunction:
    """Return the price that a router's own list of models has."""
    rates = TokenPrices(price.input_usd, price.output_usd)
    where = price.upstream or "its dearest upstream"
    return _price_function(rates, f"the router's list ({where})")


def list_price(provider_id: str, model: str, remark: str = "") -> PriceFunction | None:
    """Return the public price, or None when the list does not have the model. `remark` is appended to the source.

    The list has a price of 0 for models that are not billed per text token, and matches some models by a part of their
    name. An output price of 0 therefore counts as unknown, unless the model is named `…:free`.
    Input tokens read from a cache or written to one have their own prices, as have those written to it for an hour,
    and so has a service tier; thinking is
    priced as output. The list does not say on which day its prices were valid.
    """
    from genai_prices import Usage as Counts
    from genai_prices import __version__, calc_price

    if not _is_listed(provider_id, model):
        return None
    source = f"genai-prices {__version__}{remark}"

    # A meter is read many times between two changes of the usage, and one price lookup takes 0.25 ms.
    @lru_cache(maxsize=16)
    def price_usage(usage: Usage) -> Cost | None:
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        cached = min(usage.cached_tokens or 0, usage.input_tokens)
        written = min(usage.cache_write_tokens or 0, usage.input_tokens - cached)
        counts = Counts(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=cached,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(usage.cache_write_1h_tokens or 0, written),
        )
        context = {"service_tier": usage.service_tier} if usage.service_tier else None
        calculation = calc_price(counts, model, provider_id=provider_id, price_context=context)
        tier = f", tier {usage.service_tier}" if usage.service_tier in _PRICED_TIERS else ""
        return Cost(calculation.input_price, calculation.output_price, source + tier)

    return price_usage


@lru_cache(maxsize=256)
def _is_listed(provider_id: str, model: str) -> bool:
    """Return whether the list has a price of the model's text tokens. The prices themselves change with the date."""
    from genai_prices import Usage as Counts
    from genai_prices import calc_price

    try:
        sample = calc_price(Counts(input_tokens=1000, output_tokens=1000), model, provider_id=provider_id)
    except LookupError:
        return False
    return bool(sample.output_price) or model.endswith(":free")
