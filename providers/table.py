"""The providers by name: opens each adapter at its first use, and knows how a model is counted and priced."""

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING

from providers.catalogue import OWN, Access, access, full_example, full_name, needs, split_name
from providers.facts import ModelFacts, load_facts
from providers.pricing import TokenPrices, listed_price, user_price
from providers.rows import ROWS, rows_with
from providers.tokens import counter_for
from settings import Settings
from streaming.adapter import Adapter
from streaming.clock import Clock, monotonic, utc_now
from streaming.errors import UsageError
from streaming.meter import Price, Rates
from streaming.retry import Policy
from streaming.session import Route, Session, Timeouts

if TYPE_CHECKING:
    from providers.local import LocalModel
    from providers.opening import Own, Vendor
    from providers.upstream import ListedModel


FIRST_CONTENT_UNSEEN_S = 300.0
"""The limit to the first content of a model that thinks unseen, unless FIRST_CONTENT_S says another."""


def default_timeouts(settings: Settings) -> Timeouts:
    """Return the time limits that the settings ask for. Raises UsageError."""
    first_content_s = settings.first_content_s
    if first_content_s is None:
        return Timeouts(first_content_unseen_s=FIRST_CONTENT_UNSEEN_S)
    total_s = max(Timeouts().total_s, first_content_s)
    return Timeouts(first_content_s=first_content_s, total_s=total_s)


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """What a picker shows. `name` can be asked for as it stands (for Azure: with a deployment's name in its place).

    `ready`: all that it needs is set, which does not say that a server answers; `needs` names the variable to set.
    """

    name: str
    label: str
    ready: bool
    needs: str | None
    simulated: bool


class Providers:
    """Who can be asked, by name. Belongs to one event loop, from the first `stream` on; `aclose` ends it.

    `prices`: USD for 1M tokens (input, output) by full name or model, set by the asker; they win over public prices.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeouts: Timeouts | None = None,
        prices: Mapping[str, TokenPrices] = MappingProxyType({}),
        clock: Clock = monotonic,
    ) -> None:
        self._settings = settings
        self._timeouts = timeouts or default_timeouts(settings)
        self.facts = load_facts(settings.provider_facts, (*OWN, *ROWS))
        self.rows = rows_with(self.facts)
        self._prices = dict(prices)
        self._clock = clock
        self._vendors: dict[str, Vendor] = {}
        self._own: dict[str, Own] = {}
        self._local: LocalModel | None = None

    def route(self, name: str) -> Route:
        """Give the way to `provider:model`. Raises UsageError saying what exists, or MissingKey naming the variable."""
        provider, model = split_name(name, self.rows)
        name = full_name(provider, model)
        if provider in self.rows:
            return Route(name, self._vendor(provider), model, self._facts_of(provider, model).thinks_unseen)
        return Route(name, self._own_adapter(provider, model), model)

    def session(self, names: Sequence[str], *, clock: Clock, policy: Policy | None = None) -> Session:
        """Give a session that asks these in order; `clock` has the timebase of the running loop."""
        routes = [self.route(name) for name in names]
        return Session(routes, clock, policy=policy, timeouts=self._timeouts)

    def model_facts(self, name: str) -> ModelFacts:
        """Return what is known of `provider:model`. Raises UsageError."""
        return self._facts_of(*split_name(name, self.rows))

    def check_effort(self, name: str, effort: str | None) -> None:
        """Raise UsageError naming the efforts that `provider:model` takes, where this is known to be none of them."""
        if effort is None:
            return
        facts = self.model_facts(name)
        if not facts.takes_effort(effort):
            raise UsageError(
                f"effort {effort!r}: {name} takes {', '.join(facts.effort_values)} (choose one of them)"
                if facts.effort_values
                else f"effort {effort!r}: {name} takes no effort (leave it out)"
            )

    def warnings(self, name: str) -> list[str]:
        """Return what should be known before `provider:model` is asked: that it is retired, or soon will be."""
        facts, today = self.model_facts(name), date.fromisoformat(utc_now()[:10])
        words = facts.describe_retirement(name, today) if facts.is_retiring(today) else None
        return [] if words is None else [words]

    def rates(self, name: str) -> Rates:
        """Say how a name is counted and priced; None where that is not known. What this project brings has no price."""
        provider, model = split_name(name, self.rows)
        price = user_price(self._prices, full_name(provider, model), model)
        if provider not in self.rows:
            return Rates(price=price)
        row = self.rows[provider]
        found = None if needs(row, self._settings) else access(row, self._settings)
        room = self._facts_of(provider, model).room_for_thinking(None)
        if found is None:
            return Rates(counter_for(model), price, thinking_room=room)
        public = None if price is not None else _find_public_price(found, model)
        return Rates(
            counter_for(model),
            price or (public if found.own_address else None),
            paid=found.is_paid,
            cautious_price=public if found.is_gateway else None,
            thinking_room=room,
        )

    def listing(self) -> list[ProviderInfo]:
        """Give one line for each that can be asked, this project's own first."""
        from simulator.schedules import PROFILES

        own = [ProviderInfo("local", "Local model", True, None, False)]
        own += [ProviderInfo(f"sim:{name}", f"Simulated: {name}", True, None, True) for name in PROFILES]
        rows = []
        for row in self.rows.values():
            missing = needs(row, self._settings)
            rows.append(ProviderInfo(full_example(row), row.label, missing is None, missing, False))
        return own + rows

    async def list_models(self, provider: str) -> "list[ListedModel]":
        """Return a service's models with the day on which each is shut down. Raises StreamError, UsageError."""
        return await self._vendor(provider).list_models()

    async def models(self, provider: str) -> list[str]:
        """Give the names that the service lists, [] where it has no list. Raises StreamError, UsageError."""
        if provider in self.rows:
            return await self._vendor(provider).models()
        return [info.name.partition(":")[2] for info in self.listing() if info.name.startswith(f"{provider}:")]

    @property
    def local(self) -> "LocalModel":
        """The model in this process; made here, started by `warm` or by the first question."""
        if self._local is None:
            from providers.local import LocalModel

            self._local = LocalModel(self._settings)
        return self._local

    def warm(self) -> None:
        """Start loading the local model in the background."""
        self.local.start()

    async def aclose(self) -> None:
        """Close what was opened; the providers are not used afterwards."""
        adapters: list[Adapter] = [*self._vendors.values(), *self._own.values()]
        self._vendors.clear()
        self._own.clear()
        for adapter in adapters:
            await adapter.aclose()
        if self._local is not None:
            await self._local.aclose()

    def _vendor(self, provider: str) -> "Vendor":
        if provider not in self._vendors:
            from providers.opening import open_vendor

            found = access(self.rows[provider], self._settings)
            self._vendors[provider] = open_vendor(found, self._settings, self._timeouts, self.facts)
        return self._vendors[provider]

    def _facts_of(self, provider: str, model: str) -> ModelFacts:
        own_address = False
        if provider in self.rows:
            with suppress(UsageError):  # what is missing is said when it is asked
                own_address = access(self.rows[provider], self._settings).own_address
        return self.facts.model(provider, model, own_address=own_address)

    def _own_adapter(self, provider: str, model: str) -> Adapter:
        name = f"replay:{model}" if provider == "replay" else provider
        if name not in self._own:
            self._own[name] = self._open_own(provider, model)
        adapter = self._own[name]
        adapter.check(model)
        return adapter

    def _open_own(self, provider: str, model: str) -> "Own":
        if provider == "local":
            from providers.local import LocalAdapter

            return LocalAdapter(self.local, self._timeouts)
        if provider == "sim":
            from providers.sim import SimAdapter

            return SimAdapter(self._clock)
        from providers.replayed import ReplayAdapter

        return ReplayAdapter(model, self._clock)


def _find_public_price(found: Access, model: str) -> Price | None:
    """Return the public price where it may hold: at the vendor's own address, or through a gateway to it."""
    row = found.row
    if row.prices is None or not (found.own_address or found.is_gateway):
        return None
    if importlib.util.find_spec("genai_prices") is None:
        return None
    # An Azure deployment is named by its owner: the reader is told what the price rests on.
    return listed_price(row.prices, model, " (by the deployment's name)" if row.dialect == "azure" else "")
