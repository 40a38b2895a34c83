"""Which models callers may ask on the service's own keys: all of them on loopback, elsewhere those that are offered."""

import ipaddress
from collections.abc import Iterable

from providers.catalogue import OWN, full_example, full_name, split_name
from providers.rows import ROWS
from settings import Settings
from streaming.errors import UsageError

VARIABLE = "PUBLIC_MODELS"
_MAX_NAMES_SHOWN = 12


class NotOfferedError(UsageError):
    """The service does not offer this model to its callers."""


class Offer:
    """The models that may be asked; `names` None: all.

    A name is `provider:model`, or `provider:*` for all models of a provider. What runs in this process costs nobody
    anything and is always offered, and so is each service's example model.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._names = None if names is None else frozenset(names)

    @classmethod
    def from_settings(cls, settings: Settings, host: str | None, *, shared: bool = False) -> "Offer":
        """Read PUBLIC_MODELS. Raise UsageError naming it.

        Where it is not set, all models are offered to a service that listens on loopback, and to one whose owner has
        lifted the rate limit to load it. `host` is the address that the service listens on, None where nobody knows;
        `shared`: others reach it all the same.
        """
        written = settings.public_models
        if written is None:
            is_loaded = (settings.get("RATE_LIMIT") or "").lower() == "off"
            is_alone = host is not None and is_loopback(host) and not shared and not settings.is_behind_proxy
            return cls(None if is_loaded or is_alone else ())
        names = [_parse_entry(entry) for entry in written]
        return cls(None if "*" in names else names)

    @property
    def is_open(self) -> bool:
        """Whether all models are offered."""
        return self._names is None

    @property
    def named(self) -> list[str]:
        """The full names that PUBLIC_MODELS adds, sorted."""
        return sorted(name for name in self._names or () if not name.endswith(":*"))

    def check(self, name: str) -> None:
        """Raise NotOfferedError, saying what is offered.

        A name that means nothing passes: whoever opens it says so, by the same reading of names.
        """
        if self._names is None:
            return
        try:
            provider, model = split_name(name)
        except UsageError:
            return
        if provider in OWN:
            return
        full = full_name(provider, model)
        if full in self._names or f"{provider}:*" in self._names or full == full_example(ROWS[provider]):
            return
        raise NotOfferedError(f"{full}: this model is not offered here (ask {self._describe(provider)})")

    def _describe(self, provider: str) -> str:
        mine = [full_example(ROWS[provider]), *(name for name in self.named if name.startswith(f"{provider}:"))]
        shown = list(dict.fromkeys(mine))[:_MAX_NAMES_SHOWN]
        return f"{' or '.join(shown)}; GET /v1/models lists all; the owner adds others with {VARIABLE}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a service that listens on `host`."""
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
        provider, model = split_name(entry)
    except UsageError as error:
        raise UsageError(f"{VARIABLE}: {entry[:40]!r} cannot be used: {error}") from None
    if "*" in model and model != "*":
        raise UsageError(
            f"{VARIABLE}: {entry[:40]!r} cannot be used: write provider:model, provider:* for all its models, or *"
        )
    return full_name(provider, model)
