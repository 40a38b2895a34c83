"""Ollama's native API: the SDK's own request model and HTTP client, and our own decoder for the response's bytes."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import ollama

from providers import ollama_wire
from providers.asking import Asking
from providers.catalogue import Access
from providers.faces import body_of
from providers.facts import Facts
from providers.fitting import Fitted
from providers.refusals import refusal
from providers.transport import Prepared, prepared
from providers.upstream import HEADERS, ListedModel, Opened, Service, listed, transport_error
from providers.wire import Decoder, whole_characters
from settings import Settings
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.session import Timeouts


class OllamaAdapter:
    """Serves any number of requests at once, on one event loop."""

    def __init__(self, found: Access, settings: Settings, timeouts: Timeouts, facts: Facts) -> None:
        self._service = Service.of(found, settings, timeouts)
        client = ollama.AsyncClient(found.base_url, headers=HEADERS, **self._service.http_options(httpx))
        # The SDK reads the response itself; its HTTP client, with its address and headers, is what is needed here.
        self._http: httpx.AsyncClient = client._client
        self._http.headers.pop("Authorization", None)
        if found.key is not None:
            self._http.headers["Authorization"] = f"Bearer {found.key}"
        self._asking = Asking(self._service, found.fitter(facts), self._open_chat, self.decoder, self.models)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Give the events of one answer; see `streaming.adapter.Adapter`."""
        return self._asking.stream(request)

    async def prepare(self, request: ChatRequest) -> Prepared:
        """Give the request as the SDK's HTTP client would send it, unsent, for stamped sockets. Raises StreamError."""
        return await self._asking.prepare(request, self._unsent)

    def decoder(self, streamed: bool) -> Decoder:
        """Give a decoder for the bytes of one response of this service."""
        return ollama_wire.decoder(streamed=streamed)

    async def models(self) -> list[str]:
        """Give the models that the server has. Raises StreamError."""
        return [model.name for model in await self.list_models()]

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the server has. Raises StreamError."""
        asked = self._http.build_request("GET", "/api/tags")
        return await listed(self._opened(asked, ""), self._service, "models", "model")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _unsent(self, fitted: Fitted) -> Prepared:
        return prepared(self._asked(fitted), self._service, httpx, fitted.request, self.decoder)

    def _open_chat(self, fitted: Fitted) -> AbstractAsyncContextManager[Opened]:
        return self._opened(self._asked(fitted), fitted.request.model)

    def _asked(self, fitted: Fitted) -> httpx.Request:
        request = fitted.request
        headers = {} if request.request_id is None else {"X-Client-Request-Id": request.request_id}
        return self._http.build_request("POST", "/api/chat", json=_body(fitted), headers=headers)

    @asynccontextmanager
    async def _opened(self, asked: httpx.Request, model: str) -> AsyncIterator[Opened]:
        answered = False
        try:
            response = await self._http.send(asked, stream=True)
            answered = True
            try:
                if not response.is_success:
                    await response.aread()
                    raise refusal(self._service.names, model, response.status_code, response.headers, response.text)
                yield Opened(response.headers.get("content-type", ""), body_of(response))
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(error, self._service, answered=answered) from None


def _body(fitted: Fitted) -> dict[str, Any]:
    request = fitted.request
    options = {"temperature": request.temperature, "num_predict": request.max_tokens}
    return ollama._types.ChatRequest(
        model=request.model,
        messages=[{"role": m.role, "content": whole_characters(m.content)} for m in request.messages],
        stream=request.streamed,
        options={name: value for name, value in options.items() if value is not None} or None,
        **fitted.effort_fields(),
    ).model_dump(exclude_none=True)
