"""Chat completions: OpenAI, Azure OpenAI, the compatible services and the local server, through the OpenAI SDK.

The SDK builds and opens each request; the raw bytes of the response go to our own decoder.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai

from providers.decoding import chat_completions
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.fitted_request import Asking
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
"""The first of Azure's API versions that takes `max_completion_tokens`."""


class ChatCompletionsAdapter:
    """One service that speaks chat completions; serves any number of requests at once, on one event loop.

    `client` None: a plain server at the service's base URL, `/v1` included.
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
        self._asking = Asking(service, fitter, self._open_response, self.decoder, self.list_model_names)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Give the events of one answer; see `streaming.adapter.Adapter`."""
        return self._asking.stream(request)

    async def prepare_request(self, request: ChatRequest) -> PreparedRequest:
        """Give the request as the SDK would send it, unsent, for stamped sockets. Raises StreamError, UsageError."""
        return await self._asking.prepare(
            request,
            lambda fitted: prepare_request(self._client, self._open_response, self._service, fitted, self.decoder),
        )

    def decoder(self, streamed: bool) -> StreamDecoder:
        """Give a decoder for the bytes of one response of this service."""
        profile = self._profile
        return chat_completions.make_decoder(
            streamed=streamed, think_tags=profile.think_tags, shows_thinking=profile.shows_thinking
        )

    async def list_model_names(self) -> list[str]:
        """Give the models that the service lists. Raises StreamError."""
        return [model.name for model in await self.list_models()]

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the service lists, with the day on which each is shut down. Raises StreamError."""
        if isinstance(self._client, openai.AsyncAzureOpenAI):
            # Azure lists the models of a region there, not the deployments that can be asked.
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
    found: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts
) -> ChatCompletionsAdapter:
    """Give the adapter of OpenAI or of a compatible service."""
    service = ServiceConfig.from_settings(found, settings, timeouts)
    client = openai_client(service)
    if found.own_address and found.row.provider == "openai":
        client.organization = settings.get("OPENAI_ORG_ID")
        client.project = settings.get("OPENAI_PROJECT_ID")
    return ChatCompletionsAdapter(service, found.profile, client, found.fitter(facts))


def azure_adapter(
    found: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts
) -> ChatCompletionsAdapter:
    """Give the adapter of an Azure resource; the model of a request is a deployment. Raises MissingKey.

    At Azure's v1 address a plain client asks; at the older one each request carries an API version.
    """
    if found.is_azure_v1:
        service = ServiceConfig.from_settings(found, settings, timeouts)
        return ChatCompletionsAdapter(service, found.profile, openai_client(service), found.fitter(facts))
    version = settings.get("OPENAI_API_VERSION")
    if version is None:
        raise MissingKeyError("Azure OpenAI needs an API version: set OPENAI_API_VERSION, for example 2024-10-21")
    service = ServiceConfig.from_settings(found, settings, timeouts)
    client = openai.AsyncAzureOpenAI(
        azure_endpoint=found.base_url, api_version=version, api_key=found.key, **_client_kwargs(service)
    )
    profile = found.profile if version >= _COMPLETION_TOKENS_SINCE else CompatProfile(think_tags=False)
    if version < _COMPLETION_TOKENS_SINCE:
        facts = Facts()  # today's settings are not those of that version
    return ChatCompletionsAdapter(service, profile, _ignore_sdk_environment(client), found.fitter(facts, profile))


def openai_client(service: ServiceConfig) -> openai.AsyncOpenAI:
    """Return the SDK's client for a service, which reads nothing of the environment."""
    return _ignore_sdk_environment(
        openai.AsyncOpenAI(
            base_url=service.names.base_url, api_key=service.key or PLACEHOLDER_KEY, **_client_kwargs(service)
        )
    )


def _client_kwargs(service: ServiceConfig) -> dict[str, Any]:
    return {"max_retries": 0, "http_client": http_client(service), "webhook_secret": "", "admin_api_key": ""}


def _ignore_sdk_environment(client: openai.AsyncOpenAI) -> openai.AsyncOpenAI:
    """Take back what the SDK read from the environment by itself, for every service alike."""
    client.organization = client.project = None
    client._custom_headers = DEFAULT_HEADERS
    return client
