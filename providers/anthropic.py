"""Anthropic's Messages API, through its SDK.

The SDK builds and opens each request; the raw bytes of the response go to our own decoder.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

import anthropic

from providers import anthropic_wire
from providers.asking import Asking
from providers.catalogue import Access
from providers.facts import Facts
from providers.fitting import Fitted
from providers.sdk import NO_KEY, getting, http_client, opened, posting, unsent
from providers.transport import Prepared
from providers.upstream import HEADERS, ListedModel, Opened, Service, listed
from providers.wire import Decoder, whole_characters
from settings import Settings
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts

MAX_TOKENS = 1024
"""The API requires a limit; this one stands where the asker sets none."""


class AnthropicAdapter:
    """Serves any number of requests at once, on one event loop."""

    def __init__(self, found: Access, settings: Settings, timeouts: Timeouts, facts: Facts) -> None:
        self._service = Service.of(found, settings, timeouts)
        self._client = anthropic.AsyncAnthropic(
            api_key=found.key or NO_KEY,
            base_url=found.base_url,
            max_retries=0,
            http_client=http_client(self._service),
            webhook_key="",
            open_telemetry=False,
        )
        # The SDK reads headers from the environment by itself.
        self._client._custom_headers = HEADERS
        self._asking = Asking(self._service, found.fitter(facts), self._opened, self.decoder, self.models)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Give the events of one answer; see `streaming.adapter.Adapter`."""
        return self._asking.stream(request)

    async def prepare(self, request: ChatRequest) -> Prepared:
        """Give the request as the SDK would send it, unsent, for stamped sockets. Raises StreamError, UsageError."""
        return await self._asking.prepare(
            request, lambda fitted: unsent(self._client, self._opened, self._service, fitted, self.decoder)
        )

    def decoder(self, streamed: bool) -> Decoder:
        """Give a decoder for the bytes of one response of this service."""
        return anthropic_wire.decoder(streamed=streamed)

    async def models(self) -> list[str]:
        """Give the models that the service lists. Raises StreamError."""
        return [model.name for model in await self.list_models()]

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the service lists. Raises StreamError."""
        call = getting(self._client, "/v1/models", limit=1000)
        return await listed(opened(call, anthropic, self._service, ""), self._service, "data", "id")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _opened(self, fitted: Fitted) -> AbstractAsyncContextManager[Opened]:
        call = posting(self._client, "/v1/messages", _body(fitted), fitted.request)
        return opened(call, anthropic, self._service, fitted.request.model)


def _body(fitted: Fitted) -> dict[str, Any]:
    """Lift the system messages out of the turns, as the API wants them."""
    request = fitted.request
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [
            {"role": m.role, "content": whole_characters(m.content)} for m in request.messages if m.role != "system"
        ],
        "max_tokens": _default_limit(fitted) if request.max_tokens is None else request.max_tokens,
        "stream": request.streamed,
    }
    if system := "\n\n".join(whole_characters(m.content) for m in request.messages if m.role == "system"):
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body | _effort_fields(request.effort)


def _default_limit(fitted: Fitted) -> int:
    return MAX_TOKENS + fitted.facts.room_for_thinking(fitted.request.effort)


def _effort_fields(effort: str | None) -> dict[str, Any]:
    """Return the fields of adaptive thinking; the model decides how long it thinks, by the effort."""
    if effort is None:
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
