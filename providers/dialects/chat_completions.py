"""The chat-completions API of OpenAI, Azure OpenAI, compatible services and the local server, through the OpenAI SDK.

The SDK builds and opens each request; the raw bytes of the response go to our own decoder.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai

from providers.decoding import chat_completions
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
from providers.models.fitting import Fitted, SettingsFitter
from providers.services import CompatProfile, ServiceEndpoint
from providers.timed.prepared_request import PreparedRequest
from settings import Settings
from streaming.errors import MissingKeyError
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts

_COMPLETION_TOKENS_SINCE = "2024-09"
"""The first Azure API version that accepts `max_completion_tokens`."""


class ChatCompletionsAdapter:
    """The adapter of one chat-completions service. It serves any number of concurrent requests on one event loop.

    When `client` is None, the adapter connects to a plain server at the service's base URL, which includes `/v1`.
    """

    def __init__(
        self,
        service: ServiceConfig,
        profile: CompatProfile | None = None,
        client: openai.AsyncOpenAI | None = None,
        fitter: SettingsFitter | None = None,
    ) -> None:
        self._service = service
        self._profile = profile or CompatProfile()
        self._client = client or openai_client(service)
        fitter = fitter or SettingsFitter(max_tokens_field=self._profile.max_tokens_field)
        self._sender = RequestSender(service, fitter, self._open_response, self.decoder, self.list_model_names)

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
        profile = self._profile
        return chat_completions.make_decoder(
            streamed=streamed, think_tags=profile.think_tags, shows_thinking=profile.shows_thinking
        )

    async def list_model_names(self) -> list[str]:
        """Return the names of the models that the service lists. Raises StreamError."""
        return [model.name for model in await self.list_models()]

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the service lists, with their shutdown dates. Raises StreamError."""
        if isinstance(self._client, openai.AsyncAzureOpenAI):
            # This endpoint of Azure lists a region's models, not the deployments that accept requests.
            return []
        call = get_call(self._client, "/models")
        return await read_model_list(open_response(call, openai, self._service, ""), self._service, "data", "id")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _open_response(self, fitted: Fitted) -> AbstractAsyncContextManager[StreamingResponse]:
        call = post_call(self._client, "/chat/completions", self._request_body(fitted), fitted.request)
        return open_response(call, openai, self._service, fitted.request.model)

    def _request_body(self, fitted: Fitted) -> dict[str, Any]:
        request = fitted.request
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": m.role, "content": join_surrogates(m.content)} for m in request.messages],
            "stream": request.streamed,
        }
        if request.streamed and self._profile.include_usage and "stream_options" not in fitted.without:
            body["stream_options"] = {"include_usage": True}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:
            body[fitted.max_tokens_field] = request.max_tokens
        return body | fitted.effort_fields()


def openai_adapter(
    endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts
) -> ChatCompletionsAdapter:
    """Return the adapter of OpenAI or of a compatible service."""
    service = ServiceConfig.from_settings(endpoint, settings, timeouts)
    client = openai_client(service)
    if endpoint.own_address and endpoint.row.provider == "openai":
        client.organization = settings.get("OPENAI_ORG_ID")
        client.project = settings.get("OPENAI_PROJECT_ID")
    return ChatCompletionsAdapter(service, endpoint.profile, client, endpoint.fitter(facts))


def azure_adapter(
    endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts
) -> ChatCompletionsAdapter:
    """Return the adapter of an Azure resource, where a request's model is the name of a deployment.

    Azure's v1 address works with the plain client; requests to the older address carry an API version. Raises
    MissingKeyError when that version is not set.
    """
    if endpoint.is_azure_v1:
        service = ServiceConfig.from_settings(endpoint, settings, timeouts)
        return ChatCompletionsAdapter(service, endpoint.profile, openai_client(service), endpoint.fitter(facts))
    version = settings.get("OPENAI_API_VERSION")
    if version is None:
        raise MissingKeyError("Azure OpenAI: no API version is set (set OPENAI_API_VERSION, for example to 2024-10-21)")
    service = ServiceConfig.from_settings(endpoint, settings, timeouts)
    client = openai.AsyncAzureOpenAI(
        azure_endpoint=endpoint.base_url, api_version=version, api_key=endpoint.key, **_client_kwargs(service)
    )
    profile = endpoint.profile if version >= _COMPLETION_TOKENS_SINCE else CompatProfile(think_tags=False)
    if version < _COMPLETION_TOKENS_SINCE:
        facts = Facts()  # the known facts describe current API versions, not this old one
    return ChatCompletionsAdapter(service, profile, _ignore_sdk_environment(client), endpoint.fitter(facts, profile))


def openai_client(service: ServiceConfig) -> openai.AsyncOpenAI:
    """Return an SDK client for a service, with everything removed that the SDK reads from the environment."""
    return _ignore_sdk_environment(
        openai.AsyncOpenAI(
            base_url=service.names.base_url, api_key=service.key or PLACEHOLDER_KEY, **_client_kwargs(service)
        )
    )


def _client_kwargs(service: ServiceConfig) -> dict[str, Any]:
    return {"max_retries": 0, "http_client": http_client(service), "webhook_secret": "", "admin_api_key": ""}


def _ignore_sdk_environment(client: openai.AsyncOpenAI) -> openai.AsyncOpenAI:
    """Return the client after clearing the options that the SDK itself read from the environment."""
    client.organization = client.project = None
    client._custom_headers = DEFAULT_HEADERS
    return client
