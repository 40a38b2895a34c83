"""The registry of providers by name: their adapters, created on first use, and their models' tokens and prices."""

import asyncio
import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from providers.models.facts import Facts, ModelFacts, load_facts
from providers.models.lists import ModelLists
from providers.models.pricing import TokenPrices, custom_price, list_price, router_price
from providers.models.tokens import token_counter_for_model
from providers.services import (
    BUILTIN_PROVIDERS,
    SERVICES,
    ServiceEndpoint,
    ServiceSpec,
    example_model_name,
    full_name,
    is_public_vendor,
    missing_variable,
    missing_version,
    parse_model_name,
    resolve_endpoint,
    rows_with,
)
from settings import Settings
from streaming.adapter import Adapter, ListedModel
from streaming.clock import Clock, monotonic, utc_now
from streaming.errors import StreamError, UsageError
from streaming.meter import CostModel, PriceFunction
from streaming.retry import RetryPolicy
from streaming.session import Route, Session, Timeouts

if TYPE_CHECKING:
    from providers.http.client import ServiceConfig
    from providers.local.model import LocalModel
    from providers.tokenizers import ServerTokenizer, Tokenizer

MAX_KNOWN_MODELS = 256
"""How many models' facts are kept, because each request asks for those of its model."""
PRICE_LIST_TIMEOUT_S = 3.0
"""How long a request may wait for a router's price list, which is loaded at most once in ten minutes."""
FIRST_CONTENT_UNSEEN_S = 300.0
"""The first-content timeout of a model that thinks without streaming its thinking, unless FIRST_CONTENT_S is set."""


def default_timeouts(settings: Settings) -> Timeouts:
    """Return the timeouts of the settings. Raises UsageError when FIRST_CONTENT_S is not valid."""
    first_content_s = settings.first_content_s
    if first_content_s is None:
        return Timeouts(first_content_unseen_s=FIRST_CONTENT_UNSEEN_S)
    total_s = max(Timeouts().total_s, first_content_s)
    return Timeouts(first_content_s=first_content_s, total_s=total_s)


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """One entry of a provider menu. `name` is a usable full name (for Azure, put in the name of a deployment).

    `ready`: all required variables are set, which does not mean that a server responds. `needs` is the variable to set.
    `model` is the model that answers unless another is named.
    """

    name: str
    label: str
    ready: bool
    needs: str | None
    simulated: bool
    model: str


class ProviderRegistry:
    """All providers by name. A registry belongs to one event loop from the first `stream` on and ends with `aclose`.

    `prices`: the caller's prices by full name or by model; they take precedence over public prices. `lists`: lists of
    models that another registry with the same settings has loaded.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeouts: Timeouts | None = None,
        prices: Mapping[str, TokenPrices] = MappingProxyType({}),
        clock: Clock = monotonic,
        lists: ModelLists | None = None,
    ) -> None:
        self._settings = settings
        self.lists = lists or ModelLists()
        self._timeouts = timeouts or default_timeouts(settings)
        self.facts = load_facts(settings.provider_facts, (*BUILTIN_PROVIDERS, *SERVICES))
        self.rows = rows_with(self.facts)
        self._prices = dict(prices)
        self._clock = clock
        self._endpoints: dict[str, ServiceEndpoint] = {}
        self._find_facts = lru_cache(maxsize=MAX_KNOWN_MODELS)(self.facts.model)
        self._vendors: dict[str, Adapter] = {}
        self._own: dict[str, BuiltinAdapter] = {}
        self._local: LocalModel | None = None
        self._tokenizers: list[ServerTokenizer] = []

    def route(self, name: str) -> Route:
        """Return the route to `provider:model`.

        Raises UsageError listing the providers, or MissingKeyError naming the variable to set.
        """
        provider, model = parse_model_name(name, self.rows)
        name = full_name(provider, model)
        if provider in self.rows:
            return Route(name, self._service_adapter(provider), model, self._facts_of(provider, model).thinks_unseen)
        return Route(name, self._builtin_adapter(provider, model), model)

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        """Return a session that tries these providers in order. `clock` must have the timebase of the running loop."""
        routes = [self.route(name) for name in names]
        return Session(routes, clock, policy=policy, timeouts=self._timeouts)

    def model_facts(self, name: str) -> ModelFacts:
        """Return the known facts about `provider:model`. Raises UsageError for an invalid name."""
        return self._facts_of(*parse_model_name(name, self.rows))

    def is_vendor_address(self, name: str) -> bool:
        """Return whether requests go to a public vendor's own address, where the key in use is charged."""
        provider, _ = parse_model_name(name, self.rows)
        row = self.rows.get(provider)
        endpoint = None if row is None else self._ready_endpoint(provider)
        return endpoint is not None and endpoint.own_address and is_public_vendor(endpoint.row)

    def check_effort(self, name: str, effort: str | None) -> None:
        """Raise UsageError, with the accepted values, when `provider:model` is known to reject this effort."""
        if effort is None:
            return
        facts = self.model_facts(name)
        if not facts.takes_effort(effort):
            raise UsageError(
                f"effort {effort!r}: {name} accepts {', '.join(facts.effort_values)} (choose one of them)"
                if facts.effort_values
                else f"effort {effort!r}: {name} accepts no effort (leave it out)"
            )

    def warnings(self, name: str) -> list[str]:
        """Return warnings for users of `provider:model`: that it is retired or will be soon."""
        facts, today = self.model_facts(name), date.fromisoformat(utc_now()[:10])
        words = facts.describe_retirement(name, today) if facts.is_retiring(today) else None
        return [] if words is None else [words]

    def cost_model(self, name: str) -> CostModel:
        """Return how the tokens of a name are counted and priced, with None for what is unknown.

        The built-in providers have no price unless the caller has set one.
        """
        provider, model = parse_model_name(name, self.rows)
        price = custom_price(self._prices, full_name(provider, model), model)
        if provider not in self.rows:
            return CostModel(price=price)
        row = self.rows[provider]
        endpoint = self._ready_endpoint(provider)
        room = self._facts_of(provider, model).room_for_thinking(None)
        if endpoint is None:
            return CostModel(token_counter_for_model(model), price, thinking_room=room)
        if row.lists_prices and price is None and (listed := self.lists.find_price(provider, model)) is not None:
            price = router_price(listed)
        if price is None and endpoint.own_address:
            price = _find_public_price(row, model)
        return CostModel(
            token_counter_for_model(model),
            price,
            paid=endpoint.is_paid,
            find_cautious_price=partial(_find_public_price, row, model) if endpoint.is_gateway else None,
            thinking_room=room,
        )

    async def find_tokenizer(self, name: str) -> "Tokenizer":
        """Return what counts the tokens of `provider:model`: its encoding, its server, or an estimate.

        It is closed with the registry. The local model is loaded. Raises UsageError for an invalid name.
        """
        from providers.tokenizers import TOKENIZE_DIALECTS, ServerTokenizer, checked_tokenizer, offline_tokenizer

        provider, model = parse_model_name(name, self.rows)
        counter = token_counter_for_model(model) if provider in self.rows else None
        config = await self._tokenizing_service(provider) if provider in TOKENIZE_DIALECTS else None
        if counter is not None or config is None:
            return offline_tokenizer(counter)
        server = ServerTokenizer(config, TOKENIZE_DIALECTS[provider], model)
        self._tokenizers.append(server)
        return await checked_tokenizer(server)

    async def _tokenizing_service(self, provider: str) -> "ServiceConfig | None":
        """Return the server that counts tokens for a provider, None if it is not set up or does not start."""
        from providers.http.client import ServiceConfig
        from providers.http.errors import ServiceLabels

        if provider != "local":
            if (endpoint := self._ready_endpoint(provider)) is None:
                return None
            return ServiceConfig.from_settings(endpoint, self._settings, self._timeouts)
        try:
            server = await self.local_model.wait_server()
        except UsageError:  # the answers say why there is no model
            return None
        return ServiceConfig(ServiceLabels("The local model", server.base_url), self._timeouts, server.key)

    def list_providers(self) -> list[ProviderInfo]:
        """Return one entry for each provider, the built-in ones first."""
        from providers.local.model_file import local_model_name
        from simulator.schedules import PROFILES

        own = [ProviderInfo("local", "Local model", True, None, False, local_model_name(self._settings))]
        own += [ProviderInfo(f"sim:{name}", f"Simulated: {name}", True, None, True, name) for name in PROFILES]
        rows = []
        for row in self.rows.values():
            missing = missing_variable(row, self._settings)
            rows.append(ProviderInfo(example_model_name(row), row.label, missing is None, missing, False, row.example))
        return own + rows

    async def load_prices(self, names: Sequence[str]) -> None:
        """Load the price lists of the routers among `provider:model` names, unless they are recent enough.

        Without a list, the prices are unknown. Call it before `cost_model`.
        """
        for provider in dict.fromkeys(name.partition(":")[0] for name in names):
            row = self.rows.get(provider)
            if row is None or not row.lists_prices or missing_variable(row, self._settings):
                continue
            with suppress(StreamError, TimeoutError):
                async with asyncio.timeout(PRICE_LIST_TIMEOUT_S):
                    await self.find_models(provider)

    async def find_models(self, provider: str) -> list[ListedModel]:
        """Return the models that a provider lists; a list is kept for ten minutes. Raises StreamError or UsageError."""
        found = self.lists.find(provider)
        if found is None:
            found = await self.list_models(provider)
            self.lists.store(provider, found)
        return found

    async def list_models(self, provider: str) -> list[ListedModel]:
        """Return the models that a provider lists, [] when it has no list. Raises StreamError or UsageError."""
        if provider in self.rows:
            return await self._service_adapter(provider).list_models()
        if provider == "replay":
            return []  # an adapter replays one trace, and there is none without a path
        return await self._builtin_adapter(provider, "").list_models()

    @property
    def local_model(self) -> "LocalModel":
        """The model in this process, created here; `preload_local_model` or the first request starts loading it."""
        if self._local is None:
            from providers.local.model import LocalModel

            self._local = LocalModel(self._settings)
        return self._local

    def preload_local_model(self) -> None:
        """Start loading the local model in the background, unless the settings leave that to its first request."""
        if self._settings.preloads_model:
            self.local_model.start()

    async def aclose(self) -> None:
        """Close all adapters and the local model. The registry must not be used afterwards."""
        adapters: list[Adapter] = [*self._vendors.values(), *self._own.values()]
        self._vendors.clear()
        self._own.clear()
        for adapter in adapters:
            await adapter.aclose()
        for tokenizer in self._tokenizers:
            await tokenizer.aclose()
        if self._local is not None:
            await self._local.aclose()

    def _service_adapter(self, provider: str) -> Adapter:
        if provider not in self._vendors:
            endpoint = self._endpoint_of(provider)
            self._vendors[provider] = create_adapter(endpoint, self._settings, self._timeouts, self.facts)
        return self._vendors[provider]

    def _endpoint_of(self, provider: str) -> ServiceEndpoint:
        """Return the address and key of a service, which the settings determine once. Raises UsageError."""
        if provider not in self._endpoints:
            self._endpoints[provider] = resolve_endpoint(self.rows[provider], self._settings)
        return self._endpoints[provider]

    def _ready_endpoint(self, provider: str) -> ServiceEndpoint | None:
        """Return the address and key of a service, None when a variable that it needs is missing or invalid."""
        with suppress(UsageError):
            endpoint = self._endpoint_of(provider)
            return endpoint if missing_version(endpoint, self._settings) is None else None
        return None

    def _facts_of(self, provider: str, model: str) -> ModelFacts:
        own_address = False
        if provider in self.rows:
            with suppress(UsageError):  # a missing variable is reported when the provider is used
                own_address = self._endpoint_of(provider).own_address
        return self._find_facts(provider, model, own_address=own_address)

    def _builtin_adapter(self, provider: str, model: str) -> Adapter:
        name = f"replay:{model}" if provider == "replay" else provider
        if name not in self._own:
            self._own[name] = self._create_builtin(provider, model)
        adapter = self._own[name]
        adapter.validate_model(model)
        return adapter

    def _create_builtin(self, provider: str, model: str) -> "BuiltinAdapter":
        if provider == "local":
            from providers.local.model import LocalAdapter

            return LocalAdapter(self.local_model, self._timeouts)
        if provider == "sim":
            from providers.offline.simulated import SimAdapter

            return SimAdapter(self._clock)
        from providers.offline.replay import ReplayAdapter

        return ReplayAdapter(model, self._clock)


def _find_public_price(row: ServiceSpec, model: str) -> PriceFunction | None:
    """Return the public price of a service's model, None where the list has none or is not installed."""
    if row.prices is None or importlib.util.find_spec("genai_prices") is None:
        return None
    # Owners choose the names of their Azure deployments, so the price's source says that it rests on the name.
    return list_price(row.prices, model, " (by the deployment's name)" if row.dialect == "azure" else "")


class BuiltinAdapter(Adapter, Protocol):
    """An adapter of a built-in provider."""

    def validate_model(self, model: str) -> None:
        """Raise UsageError when the provider has no such model."""


def create_adapter(endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts) -> Adapter:
    """Import the service's SDK and return its adapter, without sending anything. Raises UsageError."""
    match endpoint.row.dialect:
        case "anthropic":
            from providers.dialects.anthropic import AnthropicAdapter

            return AnthropicAdapter(endpoint, settings, timeouts, facts)
        case "ollama":
            from providers.dialects.ollama import OllamaAdapter

            return OllamaAdapter(endpoint, settings, timeouts, facts)
        case "openai_responses":
            from providers.dialects.openai_responses import responses_adapter

            return responses_adapter(endpoint, settings, timeouts, facts)
        case "azure":
            from providers.dialects.chat_completions import azure_adapter

            return azure_adapter(endpoint, settings, timeouts, facts)
        case _:
            from providers.dialects.chat_completions import openai_adapter

            return openai_adapter(endpoint, settings, timeouts, facts)
