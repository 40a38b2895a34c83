"""Opens the adapter of a service: the only place that knows which dialect has which class."""

from typing import Protocol

from providers.catalogue import Access
from providers.facts import Facts
from providers.upstream import ListedModel
from settings import Settings
from streaming.adapter import Adapter
from streaming.session import Timeouts


class Vendor(Adapter, Protocol):
    """An adapter of a service, which may list its models."""

    async def models(self) -> list[str]:
        """Give the names, sorted as the service sorts them; [] where there is no list. Raises StreamError."""

    async def list_models(self) -> list[ListedModel]:
        """Return the same with the day on which each model is shut down. Raises StreamError."""


class Own(Adapter, Protocol):
    """An adapter of something that this project brings itself."""

    def check(self, model: str) -> None:
        """Raise UsageError when there is no such model."""


def open_vendor(found: Access, settings: Settings, timeouts: Timeouts, facts: Facts) -> Vendor:
    """Import the service's SDK and give its adapter; nothing is sent yet. Raises UsageError."""
    match found.row.dialect:
        case "anthropic":
            from providers.anthropic import AnthropicAdapter

            return AnthropicAdapter(found, settings, timeouts, facts)
        case "ollama":
            from providers.ollama import OllamaAdapter

            return OllamaAdapter(found, settings, timeouts, facts)
        case "openai_responses":
            from providers.openai_responses import responses_adapter

            return responses_adapter(found, settings, timeouts, facts)
        case "azure":
            from providers.chat_completions import azure_adapter

            return azure_adapter(found, settings, timeouts, facts)
        case _:
            from providers.chat_completions import openai_adapter

            return openai_adapter(found, settings, timeouts, facts)
