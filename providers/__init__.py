"""Who answers: a table by name, then one module for each dialect; no SDK is imported before it is needed.

What the package gives is imported on use, so that a dialect's decoder alone stays light: load tests read with it where
no asyncio may be.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from providers.pricing import parse_price
    from providers.registry import ProviderInfo, ProviderRegistry

__all__ = ["ProviderInfo", "ProviderRegistry", "parse_price"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from providers import pricing, registry

    return getattr(pricing if name == "parse_price" else registry, name)
