"""The interface of a set of providers: what an answer needs of a `ProviderRegistry`."""

from collections.abc import Sequence
from typing import Protocol

from streaming.adapter import ListedModel
from streaming.clock import Clock
from streaming.meter import CostModel
from streaming.session import Session


class ProviderRow(Protocol):
    """An entry of a provider menu; `needs` names what is missing when the provider is not `ready`."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def needs(self) -> str | None: ...
    @property
    def simulated(self) -> bool: ...
    @property
    def model(self) -> str:
        """The model that answers unless another is named."""


class ProviderSource(Protocol):
    """The providers of the service, or those that use a caller's own API keys."""

    def list_providers(self) -> Sequence[ProviderRow]: ...

    def new_session(self, names: Sequence[str], *, clock: Clock) -> Session:
        """Return a session that tries these providers in order. Raises UsageError for an unknown name."""

    def cost_model(self, name: str) -> CostModel: ...

    async def load_prices(self, names: Sequence[str]) -> None:
        """Load the price lists of the routers among these names; call it before `cost_model`."""

    async def find_models(self, provider: str) -> list[ListedModel]:
        """Return the models that a provider lists; a list is kept for a while. Raises StreamError or UsageError."""

    def is_vendor_address(self, name: str) -> bool:
        """Return whether requests go to a public vendor's own address, where the key in use is charged."""

    def check_effort(self, name: str, effort: str | None) -> None:
        """Raise UsageError when a model is known to reject this effort."""

    async def aclose(self) -> None: ...
