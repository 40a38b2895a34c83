"""OpenAI's Responses API and compatible servers (for example llama.cpp's), through the OpenAI SDK."""

from typing import Any

import openai

from providers.decoding import openai_responses
from providers.decoding.decoder import StreamDecoder, join_surrogates
from providers.dialects.chat_completions import openai_client
from providers.dialects.sdk_client import SDKAdapter, SDKHTTPClient
from providers.http.client import ServiceConfig
from providers.models.facts import Facts
from providers.models.fitting import Fitted, SettingsFitter
from providers.services import ServiceEndpoint
from settings import Settings
from streaming.messages import ChatRequest
from streaming.session import Timeouts


class ResponsesAdapter(SDKAdapter):
    """The adapter of one Responses service. `client` is the OpenAI SDK's client on the HTTP client `http`.

    `shows_thinking`: the service streams all thinking, so a stream without thinking means 0 thinking tokens.
    """

    chat_path = "/responses"

    def __init__(
        self,
        service: ServiceConfig,
        http: SDKHTTPClient,
        client: openai.AsyncOpenAI,
        fitter: SettingsFitter,
        *,
        shows_thinking: bool = False,
    ) -> None:
        super().__init__(service, fitter, openai, client, http)
        self._shows_thinking = shows_thinking

    def decoder(self, request: ChatRequest) -> StreamDecoder:
        """Return a decoder for the bytes of one response to this request."""
        return openai_responses.make_decoder(
            streamed=request.streamed, shows_thinking=self._shows_thinking, max_output_tokens=request.max_tokens
        )

    def request_body(self, fitted: Fitted) -> dict[str, Any]:
        """Return the JSON body of a request."""
        return build_body(fitted.request)


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
    http = SDKHTTPClient(service)
    client = openai_client(service, http)
    if endpoint.own_address:
        client.organization = settings.get("OPENAI_ORG_ID")
        client.project = settings.get("OPENAI_PROJECT_ID")
    shows_thinking = endpoint.profile.shows_thinking
    return ResponsesAdapter(service, http, client, endpoint.fitter(facts), shows_thinking=shows_thinking)
