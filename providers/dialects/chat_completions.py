"""The chat-completions API of OpenAI, Azure OpenAI, compatible services and the local server, by the OpenAI SDK."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai

from providers.decoding import chat_completions
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.sdk_client import PLACEHOLDER_KEY, SDKAdapter, SDKHTTPClient
from providers.http.client import DEFAULT_HEADERS, ServiceConfig, StreamingResponse
from providers.models.facts import Facts
from providers.models.fitting import Fitted, SettingsFitter
from providers.services import CompatProfile, ServiceEndpoint
from settings import Settings, hidden_variables
from streaming.errors import MissingKeyError
from streaming.messages import ChatRequest
from streaming.session import Timeouts

HEADERS_VARIABLE = "OPENAI_CUSTOM_HEADERS"
"""From this variable the SDK adds headers to every request."""
_COMPLETION_TOKENS_SINCE = "2024-09"
"""The first Azure API version that accepts `max_completion_tokens`."""


class ChatCompletionsAdapter(SDKAdapter):
    """The adapter of one chat-completions service. `client` is the OpenAI SDK's client on the HTTP client `http`."""

    chat_path = "/chat/completions"

    def __init__(
        self,
        service: ServiceConfig,
        http: SDKHTTPClient,
        client: openai.AsyncOpenAI,
        profile: CompatProfile,
        fitter: SettingsFitter,
    ) -> None:
        super().__init__(service, fitter, openai, client, http)
        self._profile = profile

    def decoder(self, request: ChatRequest) -> StreamDecoder:
        """Return a decoder for the bytes of one response to this request."""
        profile = self._profile
        return chat_completions.make_decoder(
            streamed=request.streamed, think_tags=profile.think_tags, shows_thinking=profile.shows_thinking
        )

    def open_model_list(self) -> AbstractAsyncContextManager[StreamingResponse] | None:
        """Request the list of models and return its open response as a context; None for Azure.

        This endpoint of Azure lists a region's models, not the deployments that accept requests.
        """
        return None if isinstance(self._client, openai.AsyncAzureOpenAI) else super().open_model_list()

    def request_body(self, fitted: Fitted) -> dict[str, Any]:
        """Return the JSON body, with the names of fields that the service's profile and the model's facts state."""
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
        return body | fitted.effort_fields() | self._end_fields(request)

    def _end_fields(self, request: ChatRequest) -> dict[str, Any]:
        """Return the fields with which the server writes as many tokens as the limit, if the request asks for it."""
        values = {"ignore_eos": True, "min_tokens": request.max_tokens}
        if not request.ignores_end or request.max_tokens is None:
            return {}
        return {name: values[name] for name in self._profile.ignores_end_by}


def openai_adapter(
    endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts
) -> ChatCompletionsAdapter:
    """Return the adapter of OpenAI or of a compatible service."""
    service = ServiceConfig.from_settings(endpoint, settings, timeouts)
    http = SDKHTTPClient(service)
    client = openai_client(service, http)
    if endpoint.own_address and endpoint.row.provider == "openai":
        client.organization = settings.get("OPENAI_ORG_ID")
        client.project = settings.get("OPENAI_PROJECT_ID")
    return ChatCompletionsAdapter(service, http, client, endpoint.profile, endpoint.fitter(facts))


def azure_adapter(
    endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts
) -> ChatCompletionsAdapter:
    """Return the adapter of an Azure resource, where a request's model is the name of a deployment.

    Azure's v1 address works with the plain client; requests to the older address carry an API version. Raises
    MissingKeyError when that version is not set.
    """
    service = ServiceConfig.from_settings(endpoint, settings, timeouts)
    http = SDKHTTPClient(service)
    if endpoint.is_azure_v1:
        client = openai_client(service, http)
        return ChatCompletionsAdapter(service, http, client, endpoint.profile, endpoint.fitter(facts))
    version = settings.get("OPENAI_API_VERSION")
    if version is None:
        raise MissingKeyError("Azure OpenAI: no API version is set (set OPENAI_API_VERSION, for example to 2024-10-21)")
    with hidden_variables(HEADERS_VARIABLE):
        client = openai.AsyncAzureOpenAI(
            azure_endpoint=endpoint.base_url, api_version=version, api_key=endpoint.key, **_client_kwargs(http)
        )
    client.organization = client.project = None
    profile = endpoint.profile if version >= _COMPLETION_TOKENS_SINCE else CompatProfile(think_tags=False)
    if version < _COMPLETION_TOKENS_SINCE:
        facts = Facts()  # the known facts describe current API versions, not this old one
    fitter = endpoint.fitter(facts, profile)
    return ChatCompletionsAdapter(service, http, client, profile, fitter)


def openai_client(
    service: ServiceConfig, http: SDKHTTPClient, headers: Mapping[str, str] = DEFAULT_HEADERS
) -> openai.AsyncOpenAI:
    """Return an SDK client for a service, without anything that the SDK reads from the environment."""
    with hidden_variables(HEADERS_VARIABLE):
        client = openai.AsyncOpenAI(
            base_url=service.names.base_url, api_key=service.key or PLACEHOLDER_KEY, **_client_kwargs(http, headers)
        )
    client.organization = client.project = None
    return client


def _client_kwargs(http: SDKHTTPClient, headers: Mapping[str, str] = DEFAULT_HEADERS) -> dict[str, Any]:
    more = {"webhook_secret": "", "admin_api_key": ""}
    return {"max_retries": 0, "http_client": http, "default_headers": headers, **more}
