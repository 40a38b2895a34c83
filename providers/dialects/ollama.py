"""Ollama's native API: requests through the SDK's request model and HTTP client, responses through our own decoder."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import ollama

from providers.decoding import ollama as decoding_ollama
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.fitted_request import RequestSender
from providers.http.client import (
    DEFAULT_HEADERS,
    ListedModel,
    ServiceConfig,
    StreamingResponse,
    map_transport_error,
    read_model_list,
)
from providers.http.errors import error_from_response
from providers.http.transport import raw_body
from providers.models.facts import Facts
from providers.models.fitting import Fitted
from providers.services import ServiceEndpoint
from providers.timed.prepared_request import PreparedRequest, serialize_request
from settings import Settings
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts


class OllamaAdapter:
    """The adapter of Ollama's native API. It serves any number of concurrent requests on one event loop."""

    def __init__(self, endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts) -> None:
        self._service = ServiceConfig.from_settings(endpoint, settings, timeouts)
        client = ollama.AsyncClient(endpoint.base_url, headers=DEFAULT_HEADERS, **self._service.client_kwargs(httpx))
        # The SDK's own methods also read the response. Only its HTTP client is needed here, for address and headers.
        self._http: httpx.AsyncClient = client._client
        self._http.headers.pop("Authorization", None)
        if endpoint.key is not None:
            self._http.headers["Authorization"] = f"Bearer {endpoint.key}"
        self._sender = RequestSender(
            self._service, endpoint.fitter(facts), self._open_chat, self.decoder, self.list_model_names
        )

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Return the events of one answer; see `streaming.adapter.Adapter`."""
        return self._sender.stream(request)

    async def prepare_request(self, request: ChatRequest) -> PreparedRequest:
        """Return the request as the SDK's HTTP client would send it, without sending it, for timestamped sockets.

        Raises StreamError or UsageError.
        """
        return await self._sender.prepare(request, self._serialize_request)

    def decoder(self, streamed: bool) -> StreamDecoder:
        """Return a decoder for the bytes of one response of this service."""
        return decoding_ollama.make_decoder(streamed=streamed)

    async def list_model_names(self) -> list[str]:
        """Return the names of the models that the server has. Raises StreamError."""
        return [model.name for model in await self.list_models()]

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the server has. Raises StreamError."""
        request = self._http.build_request("GET", "/api/tags")
        return await read_model_list(self._open_response(request, ""), self._service, "models", "model")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _serialize_request(self, fitted: Fitted) -> PreparedRequest:
        return serialize_request(self._build_request(fitted), self._service, httpx, fitted.request, self.decoder)

    def _open_chat(self, fitted: Fitted) -> AbstractAsyncContextManager[StreamingResponse]:
        return self._open_response(self._build_request(fitted), fitted.request.model)

    def _build_request(self, fitted: Fitted) -> httpx.Request:
        request = fitted.request
        headers = {} if request.request_id is None else {"X-Client-Request-Id": request.request_id}
        return self._http.build_request("POST", "/api/chat", json=_request_body(fitted), headers=headers)

    @asynccontextmanager
    async def _open_response(self, request: httpx.Request, model: str) -> AsyncIterator[StreamingResponse]:
        answered = False
        try:
            response = await self._http.send(request, stream=True)
            answered = True
            try:
                if not response.is_success:
                    await response.aread()
                    raise error_from_response(
                        self._service.names, model, response.status_code, response.headers, response.text
                    )
                yield StreamingResponse(response.headers.get("content-type", ""), raw_body(response))
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise map_transport_error(error, self._service, answered=answered) from None


def _request_body(fitted: Fitted) -> dict[str, Any]:
    request = fitted.request
    options = {"temperature": request.temperature, "num_predict": request.max_tokens}
    return ollama._types.ChatRequest(
        model=request.model,
        messages=[{"role": m.role, "content": join_surrogates(m.content)} for m in request.messages],
        stream=request.streamed,
        options={name: value for name, value in options.items() if value is not None} or None,
        **fitted.effort_fields(),
    ).model_dump(exclude_none=True)
