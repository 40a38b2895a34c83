"""OpenAI's Responses API and compatible servers (for example llama.cpp's), through the OpenAI SDK.

The SDK builds and opens each request; the raw bytes of the response go to our own decoder.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

import openai

from providers.decoding import openai_responses
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.chat_completions import openai_client
from providers.dialects.fitted_request import RequestSender
from providers.dialects.sdk_client import get_call, open_response, post_call, prepare_request
from providers.http.client import ListedModel, ServiceConfig, StreamingResponse, read_model_list
from providers.models.facts import Facts
from providers.models.fitting import Fitted, SettingsFitter
from providers.services import ServiceEndpoint
from providers.timed.prepared_request import PreparedRequest
from settings import Settings
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts


class ResponsesAdapter:
    """The adapter of one Responses service. It serves any number of concurrent requests on one event loop.

    `shows_thinking`: the service streams all thinking, so a stream without thinking means 0 thinking tokens.
    """

    def __init__(
        self,
        service: ServiceConfig,
        client: openai.AsyncOpenAI,
        *,
        shows_thinking: bool = False,
        fitter: SettingsFitter | None = None,
    ) -> None:
        self._service = service
        self._client = client
        self._shows_thinking = shows_thinking
        self._sender = RequestSender(
            service, fitter or SettingsFitter(), self._open_response, self.decoder, self.list_model_names
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
        return openai_responses.make_decoder(streamed=streamed, shows_thinking=self._shows_thinking)

    async def list_model_names(self) -> list[str]:
        """Return the names of the models that the service lists. Raises StreamError."""
        return [model.name for model in await self.list_models()]

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the service lists, with their shutdown dates. Raises StreamError."""
        call = get_call(self._client, "/models")
        return await read_model_list(open_response(call, openai, self._service, ""), self._service, "data", "id")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _open_response(self, fitted: Fitted) -> AbstractAsyncContextManager[StreamingResponse]:
        call = post_call(self._client, "/responses", build_body(fitted.request), fitted.request)
        return open_response(call, openai, self._service, fitted.request.model)


def build_body(request: ChatRequest) -> dict[str, Any]:
    """Return the JSON body. System messages become `instructions`, and `store` is false so that nothing is retained."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": [
            {"role": m.role, "content": join_surrogates(m.content)} for m in request.messages if m.role != "system"
        ],
        "stream": request.streamed,
        "store": False,
    }
    if system := "\n\n".join(join_surrogates(m.content) for m in request.messages if m.role == "system"):
        body["instructions"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.max_tokens is not None:
        body["max_output_tokens"] = request.max_tokens
    if request.effort is not None:
        body["reasoning"] = {"effort": request.effort}
    return body


def responses_adapter(
    endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts
) -> ResponsesAdapter:
    """Return the adapter of OpenAI's Responses API, or of a compatible server at `OPENAI_BASE_URL`."""
    service = ServiceConfig.from_settings(endpoint, settings, timeouts)
    client = openai_client(service)
    if endpoint.own_address:
        client.organization = settings.get("OPENAI_ORG_ID")
        client.project = settings.get("OPENAI_PROJECT_ID")
    shows_thinking = endpoint.profile.shows_thinking
    return ResponsesAdapter(service, client, shows_thinking=shows_thinking, fitter=endpoint.fitter(facts))
