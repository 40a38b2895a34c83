"""Who answers: a table by name, then one module for each dialect; no SDK is imported before it is needed."""

from providers.pricing import parse_price
from providers.table import ProviderInfo, Providers

__all__ = ["ProviderInfo", "Providers", "parse_price"]
