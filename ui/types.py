"""Interfaces that the page needs from the rest of the project."""

from collections.abc import Sequence
from typing import Protocol

from streaming.clock import Clock
from streaming.meter import CostModel
from streaming.session import Session
from ui.form import ProviderRow


class ProviderSource(Protocol):
    """What the page needs of `providers.ProviderRegistry`."""

    def list_providers(self) -> Sequence[ProviderRow]: ...
    def new_session(self, names: Sequence[str], *, clock: Clock) -> Session: ...
    def cost_model(self, name: str) -> CostModel: ...
    async def aclose(self) -> None: ...
