"""Ollama's native API: requests through the SDK's HTTP client, responses through our own decoder."""

from typing import Any

import httpx

from providers.decoding import ollama as decoding_ollama
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.http_adapter import HTTPAdapter
from providers.http.client import DEFAULT_HEADERS, ServiceConfig
from providers.models.facts import Facts
from providers.models.fitting import Fitted
from providers.services import ServiceEndpoint
from settings import CONNECTION_VARIABLES, Settings, hidden_variables
from streaming.messages import ChatRequest
from streaming.session import Timeouts

# The SDK creates a client of its own when it is imported, and fails on values that it cannot use.
with hidden_variables("OLLAMA_HOST", *CONNECTION_VARIABLES):
    import ollama


class OllamaAdapter(HTTPAdapter):
    """The adapter of Ollama's native API."""

    chat_path = "/api/chat"
    models_path = "/api/tags"
    models_field = "models"
    model_name_field = "model"

    def __init__(self, endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts) -> None:
        service = ServiceConfig.from_settings(endpoint, settings, timeouts)
        client = ollama.AsyncClient(endpoint.base_url, headers=DEFAULT_HEADERS, **service.client_kwargs(httpx))
        # The SDK's own methods also read the response. Only its HTTP client is needed here, for address and headers.
        http: httpx.AsyncClient = client._client  # noqa: SLF001 - the SDK has no other way to send a request
        http.headers.pop("Authorization", None)
        if endpoint.key is not None:
            http.headers["Authorization"] = f"Bearer {endpoint.key}"
        super().__init__(service, endpoint.fitter(facts), httpx, http)

    def decoder(self, request: ChatRequest) -> StreamDecoder:
        """Return a decoder for the bytes of one response to this request."""
        return decoding_ollama.make_decoder(streamed=request.streamed)

    def request_body(self, fitted: Fitted) -> dict[str, Any]:
        """Return the JSON body, with the settings in the field `options`."""
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
