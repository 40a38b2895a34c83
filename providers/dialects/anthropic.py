"""Anthropic's Messages API, through its SDK.

The SDK builds and opens each request; the raw bytes of the response go to our own decoder.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

import anthropic

from providers.decoding import anthropic as decoding_anthropic
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.fitted_request import RequestSender
from providers.dialects.sdk_client import (
    PLACEHOLDER_KEY,
    get_call,
    http_client,
    open_response,
    post_call,
    prepare_request,
)
from providers.http.client import DEFAULT_HEADERS, ListedModel, ServiceConfig, StreamingResponse, read_model_list
from providers.models.facts import Facts
from providers.models.fitting import Fitted
from providers.services import ServiceEndpoint
from providers.timed.prepared_request import PreparedRequest
from settings import Settings
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts

MAX_TOKENS = 1024
"""The default `max_tokens` of a request without a limit, because the API requires one."""


class AnthropicAdapter:
    """The adapter of Anthropic's Messages API. It serves any number of concurrent requests on one event loop."""

    def __init__(self, endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts) -> None:
        self._service = ServiceConfig.from_settings(endpoint, settings, timeouts)
        self._client = anthropic.AsyncAnthropic(
            api_key=endpoint.key or PLACEHOLDER_KEY,
            base_url=endpoint.base_url,
            max_retries=0,
            http_client=http_client(self._service),
            webhook_key="",
            open_telemetry=False,
        )
        # The SDK reads headers from the environment by itself.
        self._client._custom_headers = DEFAULT_HEADERS
        self._sender = RequestSender(
            self._service, endpoint.fitter(facts), self._open_response, self.decoder, self.list_model_names
        )

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Return the events of one answer; see `streaming.adapter.Adapter`."""
        return self._sender.stream(request)

    async def prepare_request(self, request: ChatRequest) -> PreparedRequest:
        """Return the request as the SDK would send it, without sending it, for a measurement on timestamped sockets.

        Raises StreamError or UsageError.
        """
        return await self._sender.prepare(
            request,
            lambda fitted: prepare_request(self._client, self._open_response, self._service, fitted, self.decoder),
        )

    def decoder(self, streamed: bool) -> StreamDecoder:
        """Return a decoder for the bytes of one response of this service."""
        return decoding_anthropic.make_decoder(streamed=streamed)

    async def list_model_names(self) -> list[str]:
        """Return the names of the models that the service lists. Raises StreamError."""
        return [model.name for model in await self.list_models()]

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the service lists. Raises StreamError."""
        call = get_call(self._client, "/v1/models", limit=1000)
        return await read_model_list(open_response(call, anthropic, self._service, ""), self._service, "data", "id")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _open_response(self, fitted: Fitted) -> AbstractAsyncContextManager[StreamingResponse]:
        call = post_call(self._client, "/v1/messages", _request_body(fitted), fitted.request)
        return open_response(call, anthropic, self._service, fitted.request.model)


def _request_body(fitted: Fitted) -> dict[str, Any]:
    """Return the JSON body; system messages move to the field `system`, as the API requires."""
    request = fitted.request
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [
            {"role": m.role, "content": join_surrogates(m.content)} for m in request.messages if m.role != "system"
        ],
        "max_tokens": _default_limit(fitted) if request.max_tokens is None else request.max_tokens,
        "stream": request.streamed,
    }
    if system := "\n\n".join(join_surrogates(m.content) for m in request.messages if m.role == "system"):
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body | _effort_fields(request.effort)


def _default_limit(fitted: Fitted) -> int:
    return MAX_TOKENS + fitted.facts.room_for_thinking(fitted.request.effort)


def _effort_fields(effort: str | None) -> dict[str, Any]:
    """Return the fields for adaptive thinking, where the model decides from the effort how long it thinks."""
    if effort is None:
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
