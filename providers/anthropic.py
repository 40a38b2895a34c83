"""Anthropic's Messages API, through its SDK.

The SDK builds and opens each request; the raw bytes of the response go to our own decoder.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

import anthropic

from providers import anthropic_wire
from providers.catalogue import Access
from providers.sdk import NO_KEY, getting, http_client, opened, posting, unsent
from providers.transport import Prepared
from providers.upstream import HEADERS, Opened, Service, listed, relay
from providers.wire import Decoder, whole_characters
from settings import Settings
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts

MAX_TOKENS = 1024
"""The API requires a limit; this one stands where the asker sets none."""


class AnthropicAdapter:
    """Serves any number of requests at once, on one event loop."""

    def __init__(self, found: Access, settings: Settings, timeouts: Timeouts) -> None:
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

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Give the events of one answer; see `streaming.adapter.Adapter`."""
        return relay(self._opened(request), self.decoder(request.streamed), self._service)

    async def prepare(self, request: ChatRequest) -> Prepared:
        """Give the request as the SDK would send it, unsent, for stamped sockets. Raises StreamError, UsageError."""
        return await unsent(self._client, self._opened, self._service, request, self.decoder)

    def decoder(self, streamed: bool) -> Decoder:
        """Give a decoder for the bytes of one response of this service."""
        return anthropic_wire.decoder(streamed=streamed)

    async def models(self) -> list[str]:
        """Give the models that the service lists. Raises StreamError."""
        call = getting(self._client, "/v1/models", limit=1000)
        return await listed(opened(call, anthropic, self._service, ""), self._service, "data", "id")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _opened(self, request: ChatRequest) -> AbstractAsyncContextManager[Opened]:
        call = posting(self._client, "/v1/messages", _body(request), request)
        return opened(call, anthropic, self._service, request.model)


def _body(request: ChatRequest) -> dict[str, Any]:
    """Lift the system messages out of the turns, as the API wants them."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [
            {"role": m.role, "content": whole_characters(m.content)} for m in request.messages if m.role != "system"
        ],
        "max_tokens": MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        "stream": request.streamed,
    }
    if system := "\n\n".join(whole_characters(m.content) for m in request.messages if m.role == "system"):
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body
