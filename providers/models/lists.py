"""The models that services list, kept for ten minutes: names for menus, and prices where a router lists them."""

from collections.abc import Callable, Sequence

from streaming.adapter import ListedModel, UpstreamPrice
from streaming.clock import monotonic

LISTING_AGE_S = 600.0
"""How long a list of models is used before it is requested again."""


class ModelLists:
    """The latest lists of models by provider. May be shared by several registries."""

    def __init__(self, clock: Callable[[], float] = monotonic, age_s: float = LISTING_AGE_S) -> None:
        self._clock = clock
        self._age_s = age_s
        self._lists: dict[str, tuple[float, list[ListedModel]]] = {}

    def find(self, provider: str) -> list[ListedModel] | None:
        """Return a provider's list, None when there is none that is recent enough."""
        at_s, models = self._lists.get(provider, (float("-inf"), []))
        return models if self._clock() - at_s <= self._age_s else None

    def store(self, provider: str, models: list[ListedModel]) -> None:
        """Keep a list that a provider has just sent."""
        self._lists[provider] = (self._clock(), models)

    def find_price(self, provider: str, model: str) -> UpstreamPrice | None:
        """Return the price of a model in a router's list, None when it is unknown.

        `MODEL:UPSTREAM` names the upstream that answers. Otherwise the router chooses one, and the highest price of all
        is returned, input and output apart. An older list is used when there is no recent one.
        """
        _, listed = self._lists.get(provider, (0.0, []))
        name, _, upstream = model.partition(":")
        prices = next((found.prices for found in listed if found.name.lower() == name.lower()), ())
        named = [price for price in prices if price.upstream.lower() == upstream.lower()]
        found = named[0] if named else _dearest(prices)
        return found if found is not None and found.is_known else None


def _dearest(prices: Sequence[UpstreamPrice]) -> UpstreamPrice | None:
    if not prices:
        return None
    if any(not price.is_known for price in prices):
        return None
    highest = [max(getattr(price, name) for price in prices) for name in ("input_usd", "output_usd")]
    upstream = prices[0].upstream if len(prices) == 1 else ""
    return UpstreamPrice(upstream, highest[0], highest[1])
