"""Ollama's native API: requests through the SDK's HTTP client, responses through our own decoder."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import ollama

from providers.decoding import ollama as decoding_ollama
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.service_adapter import ServiceAdapter
from providers.http.client import DEFAULT_HEADERS, ServiceConfig, StreamingResponse
from providers.http.errors import error_from_response
from providers.http.transport import REQUEST_ID_HEADER, raw_body
from providers.http.transport_errors import close_reason_of, transport_error
from providers.models.facts import Facts
from providers.models.fitting import Fitted
from providers.services import ServiceEndpoint
from settings import Settings
from streaming.session import Timeouts


class OllamaAdapter(ServiceAdapter):
    """The adapter of Ollama's native API."""

    models_field = "models"
    model_name_field = "model"

    def __init__(self, endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts) -> None:
        service = ServiceConfig.from_settings(endpoint, settings, timeouts)
        super().__init__(service, endpoint.fitter(facts), httpx)
        client = ollama.AsyncClient(endpoint.base_url, headers=DEFAULT_HEADERS, **service.client_kwargs(httpx))
        # The SDK's own methods also read the response. Only its HTTP client is needed here, for address and headers.
        self._http: httpx.AsyncClient = client._client  # noqa: SLF001 - the SDK has no other way to send a request
        self._http.headers.pop("Authorization", None)
        if endpoint.key is not None:
            self._http.headers["Authorization"] = f"Bearer {endpoint.key}"

    def decoder(self, streamed: bool) -> StreamDecoder:
        """Return a decoder for the bytes of one response of this service."""
        return decoding_ollama.make_decoder(streamed=streamed)

    def open_response(self, fitted: Fitted) -> AbstractAsyncContextManager[StreamingResponse]:
        """Send a request and return its open response as a context. Entering it raises StreamError."""
        return self._open(self._new_request(fitted), fitted.request.model)

    def open_model_list(self) -> AbstractAsyncContextManager[StreamingResponse]:
        """Request the list of the server's models and return its open response as a context."""
        return self._open(self._http.build_request("GET", "/api/tags"), "")

    async def build_request(self, fitted: Fitted) -> httpx.Request:
        """Return the request that the SDK's HTTP client would send."""
        return self._new_request(fitted)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _new_request(self, fitted: Fitted) -> httpx.Request:
        request = fitted.request
        headers = {} if request.request_id is None else {REQUEST_ID_HEADER: request.request_id}
        return self._http.build_request("POST", "/api/chat", json=_request_body(fitted), headers=headers)

    @asynccontextmanager
    async def _open(self, request: httpx.Request, model: str) -> AsyncIterator[StreamingResponse]:
        service, answered = self.service, False
        try:
            response = await self._http.send(request, stream=True)
            answered = True
            try:
                if not response.is_success:
                    await response.aread()
                    raise error_from_response(
                        service.names, model, response.status_code, response.headers, response.text
                    )
                yield StreamingResponse(response.headers.get("content-type", ""), raw_body(response))
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(close_reason_of(error, httpx), error, service, answered=answered) from None


def _request_body(fitted: Fitted) -> dict[str, Any]:
    request = fitted.request
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": m.role, "content": join_surrogates(m.content)} for m in request.messages],
        "stream": request.streamed,
    }
    settings = {"temperature": request.temperature, "num_predict": request.max_tokens}
    if options := {name: value for name, value in settings.items() if value is not None}:
        body["options"] = options
    return body | fitted.effort_fields()
