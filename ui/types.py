"""Interfaces that the page requires of other packages."""

from collections.abc import Sequence
from typing import Protocol

from streaming.clock import Clock
from streaming.meter import CostModel
from streaming.session import Session
from ui.form import ProviderRow


class ProviderSource(Protocol):
    """The part of `providers.ProviderRegistry` that the page uses."""

    def list_providers(self) -> Sequence[ProviderRow]: ...
    def new_session(self, names: Sequence[str], *, clock: Clock) -> Session: ...
    def cost_model(self, name: str) -> CostModel: ...
    async def aclose(self) -> None: ...
