"""The providers: a registry by name and one adapter for each API dialect. No SDK is imported before it is needed.

The package's public names are imported on first use, so that importing one dialect's decoder stays cheap: load tests
use a decoder where asyncio must not be imported.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from providers.models.pricing import parse_price
    from providers.registry import ProviderInfo, ProviderRegistry

__all__ = ["ProviderInfo", "ProviderRegistry", "parse_price"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from providers import registry
    from providers.models import pricing

    return getattr(pricing if name == "parse_price" else registry, name)
