"""The models that callers may use: all of them, or those that PUBLIC_MODELS names."""

import ipaddress
from collections.abc import Iterable, Mapping

from providers.models.facts import load_facts
from providers.services import (
    BUILTIN_PROVIDERS,
    SERVICES,
    ServiceSpec,
    example_model_name,
    full_name,
    parse_model_name,
    rows_with,
)
from settings import Settings
from streaming.errors import UsageError

VARIABLE = "PUBLIC_MODELS"
_MAX_NAMES_SHOWN = 12


class NotOfferedError(UsageError):
    """Raised when this service does not offer a model to its callers."""


class Offer:
    """The models that callers may use. When `names` is None, all models are offered.

    A name is `provider:model`, or `provider:*` for all models of a provider. The built-in providers cost nothing and
    are always offered; so is the example model of each service in `rows`.
    """

    def __init__(self, names: Iterable[str] | None = None, rows: Mapping[str, ServiceSpec] = SERVICES) -> None:
        self._names = None if names is None else frozenset(names)
        self._rows = rows

    @classmethod
    def from_settings(cls, settings: Settings, host: str | None, *, shared: bool = False) -> "Offer":
        """Return the offer that PUBLIC_MODELS describes. Raises UsageError naming the variable.

        When it is not set, all models are offered if the service listens on loopback, or if its owner has switched the
        rate limit off for a load test. `host` is the address that the service listens on, None when it is not known;
        `shared`: other machines reach the service although it listens on loopback.
        """
        written, rows = settings.public_models, rows_with(load_facts(settings.provider_facts))
        if written is None:
            is_loaded = (settings.get("RATE_LIMIT") or "").lower() == "off"
            is_alone = host is not None and is_loopback(host) and not shared and not settings.is_behind_proxy
            return cls(None if is_loaded or is_alone else (), rows)
        names = [_parse_entry(entry) for entry in written]
        return cls(None if "*" in names else names, rows)

    @property
    def is_open(self) -> bool:
        """Whether all models are offered."""
        return self._names is None

    @property
    def named(self) -> list[str]:
        """The full names in PUBLIC_MODELS, without patterns, sorted."""
        return sorted(name for name in self._names or () if not name.endswith(":*"))

    def check(self, name: str) -> None:
        """Raise NotOfferedError, with the offered names, when a model is not offered.

        An invalid name passes this check: the registry rejects it later, because it parses names in the same way.
        """
        if self._names is None:
            return
        try:
            provider, model = parse_model_name(name)
        except UsageError:
            return
        if provider in BUILTIN_PROVIDERS:
            return
        full = full_name(provider, model)
        if full in self._names or f"{provider}:*" in self._names or full == example_model_name(self._rows[provider]):
            return
        raise NotOfferedError(f"{full}: this model is not offered here (use {self._describe(provider)})")

    def _describe(self, provider: str) -> str:
        mine = [
            example_model_name(self._rows[provider]),
            *(name for name in self.named if name.startswith(f"{provider}:")),
        ]
        shown = list(dict.fromkeys(mine))[:_MAX_NAMES_SHOWN]
        return f"{' or '.join(shown)}; GET /v1/models lists all; the owner adds others with {VARIABLE}"


def is_loopback(host: str) -> bool:
    """Return whether a service that listens on `host` can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _parse_entry(entry: str) -> str:
    if entry == "*":
        return entry
    try:
        provider, model = parse_model_name(entry)
    except UsageError as error:
        raise UsageError(f"{VARIABLE}: {entry[:40]!r} cannot be used: {error}") from None
    if "*" in model and model != "*":
        raise UsageError(
            f"{VARIABLE}: {entry[:40]!r} cannot be used (write provider:model, provider:* for all its models, or *)"
        )
    return full_name(provider, model)
