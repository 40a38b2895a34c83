"""Anthropic's Messages API, through its SDK."""

from typing import Any, ClassVar

import anthropic

from providers.decoding import anthropic as decoding_anthropic
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.sdk_client import PLACEHOLDER_KEY, SDKAdapter, SDKHTTPClient
from providers.http.client import DEFAULT_HEADERS, ServiceConfig
from providers.models.facts import Facts
from providers.models.fitting import Fitted
from providers.services import ServiceEndpoint
from settings import Settings, hidden_variables
from streaming.messages import ChatRequest
from streaming.session import Timeouts

HEADERS_VARIABLE = "ANTHROPIC_CUSTOM_HEADERS"
"""From this variable the SDK adds headers to every request."""
MAX_TOKENS = 1024
"""The default `max_tokens` of a request without a limit, because the API requires one."""


class AnthropicAdapter(SDKAdapter):
    """The adapter of Anthropic's Messages API."""

    chat_path = "/v1/messages"
    models_path = "/v1/models"
    models_params: ClassVar[dict[str, Any]] = {"limit": 1000}

    def __init__(self, endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts, facts: Facts) -> None:
        service = ServiceConfig.from_settings(endpoint, settings, timeouts)
        http = SDKHTTPClient(service)
        with hidden_variables(HEADERS_VARIABLE):
            client = anthropic.AsyncAnthropic(
                api_key=endpoint.key or PLACEHOLDER_KEY,
                base_url=endpoint.base_url,
                max_retries=0,
                default_headers=DEFAULT_HEADERS,
                http_client=http,
                webhook_key="",
                open_telemetry=False,
            )
        super().__init__(service, endpoint.fitter(facts), anthropic, client, http)

    def decoder(self, request: ChatRequest) -> StreamDecoder:
        """Return a decoder for the bytes of one response to this request."""
        return decoding_anthropic.make_decoder(streamed=request.streamed)

    def request_body(self, fitted: Fitted) -> dict[str, Any]:
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
