"""What all dialects share: answers, prepared requests and model lists, from requests fitted to their model.

A dialect derives from `http_adapter.HTTPAdapter` or, with an SDK that opens requests, from `sdk_client.SDKAdapter`.
"""

import asyncio
import difflib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

from providers.decoding.decoder import StreamDecoder
from providers.http.client import ServiceConfig, StreamingResponse, read_model_list, stream_events
from providers.models.fitting import MAX_ROUNDS, Fitted, SettingsFitter
from providers.models.setting_rejections import SettingRejectedError
from providers.timed.send import send_timed
from providers.timed.serialized_request import SerializedRequest, UnsupportedProxyError, serialize_request
from streaming.adapter import ListedModel, TimedAnswer, UnpreparableRequest
from streaming.clock import monotonic
from streaming.errors import NotFoundError, StreamError
from streaming.events import Event, Failed, TimedEvent
from streaming.http.timed_exchange import Gate
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.messages import ChatRequest

LISTING_TIMEOUT_S = 1.0
"""How long the error for an unknown model may wait for the service's list of models."""
LISTING_AGE_S = 600.0
NEAREST = 3
MAX_COMPARED = 2000


class ServiceAdapter(ABC):
    """The adapter of one service. It serves any number of concurrent requests on one event loop.

    `httpx` is the HTTP library of the dialect's SDK: httpx or httpx2.
    """

    models_field: ClassVar[str] = "data"
    """The field of a model list that holds its models."""
    model_name_field: ClassVar[str] = "id"

    def __init__(self, service: ServiceConfig, fitter: SettingsFitter, httpx: ModuleType) -> None:
        self.service = service
        self._fitter = fitter
        self.httpx = httpx
        self._listed: list[str] = []
        self._listed_at_s = float("-inf")

    @abstractmethod
    def open_response(self, fitted: Fitted) -> AbstractAsyncContextManager[StreamingResponse]:
        """Send a request and return its open response as a context. Entering it raises StreamError."""

    @abstractmethod
    def open_model_list(self) -> AbstractAsyncContextManager[StreamingResponse] | None:
        """Request the list of models and return its open response as a context; None when the service has no list."""

    @abstractmethod
    async def build_request(self, fitted: Fitted) -> Any:
        """Return the HTTP library's request that `open_response` would send, without a request id."""

    @abstractmethod
    def decoder(self, request: ChatRequest) -> StreamDecoder:
        """Return a decoder for the bytes of one response to this request."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of one answer; see `streaming.adapter.Adapter`."""
        for _ in range(MAX_ROUNDS):
            fitted = self._fitter.fit(request)
            # A decoder cannot be reused after an error page, so each attempt has a new one.
            decoder = self.decoder(fitted.request)
            notices = [replace(notice, message=self.service.mask(notice.message)) for notice in fitted.notices]
            response = stream_events(self.open_response(fitted), decoder, self.service, notices)
            try:
                async with aclosing(response) as events:
                    async for event in events:
                        yield event
                return
            except StreamError as error:
                failure = self.service.mask_error(error)
            if not self.learn(fitted, failure):
                break
        # Raised outside the except block so that it has no context: the SDK's own exception may quote an API key.
        raise await self.explain(request.model, failure)

    async def prepare_request(self, request: ChatRequest) -> "FittedRequest | UnpreparableRequest":
        """Return the request as `stream` would send it, without sending it. Raises StreamError or UsageError."""
        fitted = self._fitter.fit(request)
        try:
            return FittedRequest(self, request, fitted, await self.serialize(fitted))
        except UnsupportedProxyError as error:
            return UnpreparableRequest(str(error))

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the service lists, with their shutdown dates. Raises StreamError."""
        opened = self.open_model_list()
        if opened is None:
            return []
        return await read_model_list(opened, self.service, self.models_field, self.model_name_field)

    def fit(self, request: ChatRequest) -> Fitted:
        """Return a request without the settings that its model is known to reject."""
        return self._fitter.fit(request)

    async def serialize(self, fitted: Fitted) -> SerializedRequest:
        """Return a fitted request as bytes. Raises StreamError or UsageError."""
        timeouts = self.service.timeouts.for_thinking(unseen=fitted.facts.thinks_unseen)
        result = await self.build_request(fitted)
        service = replace(self.service, timeouts=timeouts)
        serialized = serialize_request(result, service, self.httpx, fitted.request, self.decoder)
        return replace(serialized, notices=fitted.notices)

    def learn(self, fitted: Fitted, error: StreamError) -> bool:
        """Record the settings that an error names, and return whether a retry without them may succeed."""
        return isinstance(error, SettingRejectedError) and self._fitter.learn(fitted, error.rejections)

    async def explain(self, model: str, error: StreamError) -> StreamError:
        """Return the error of an unknown model with the most similar listed names added; return others unchanged."""
        if not isinstance(error, NotFoundError) or not model or not (names := await self._model_names()):
            return error
        near = await asyncio.to_thread(find_nearest, model, names)  # takes up to 0.1 s
        if model in names or not near:
            return error
        return error.with_message(self.service.mask(f"{error.message} (the nearest names are {', '.join(near)})"))

    async def _model_names(self) -> list[str]:
        now_s = monotonic()
        if now_s - self._listed_at_s > LISTING_AGE_S:
            try:
                async with asyncio.timeout(LISTING_TIMEOUT_S):
                    self._listed = [model.name for model in await self.list_models()]
            except (StreamError, TimeoutError):
                self._listed = []
            self._listed_at_s = now_s
        return self._listed


class FittedRequest:
    """The prepared request of a service's adapter. It follows what the adapter learns of its model between requests."""

    def __init__(
        self, adapter: ServiceAdapter, request: ChatRequest, fitted: Fitted, serialized: SerializedRequest
    ) -> None:
        self.serialized = serialized
        self._adapter = adapter
        self._request = request
        self._fitted = fitted

    async def send(self, sockets: TimestampingSelector, request_id: str, gate: Gate | None = None) -> TimedAnswer:
        """Send the request, and send it again without the settings that the service rejects; return the last answer."""
        for _ in range(MAX_ROUNDS):
            await self._refit()
            fitted = self._fitted
            answer = await send_timed(sockets, self.serialized, request_id, gate)
            gate = None
            if answer.error is None or not self._adapter.learn(fitted, answer.error):
                break
        if answer.error is None:
            return answer
        error = await self._adapter.explain(self._request.model, answer.error)
        failed = TimedEvent(answer.events[-1].at_s, Failed(error.kind, error.message, error.http_status))
        return replace(answer, events=[*answer.events[:-1], failed], error=error)

    async def _refit(self) -> None:
        """Build the bytes again if the service has meanwhile rejected a setting that they contain."""
        fitted = self._adapter.fit(self._request)
        if fitted != self._fitted:
            serialized = await self._adapter.serialize(fitted)
            self._fitted, self.serialized = fitted, serialized


def find_nearest(model: str, names: list[str]) -> list[str]:
    """Return the names most similar to `model`, the most similar first.

    >>> find_nearest("gpt-6.1-tera", ["gpt-6.1-terra", "o3", "gpt-6-sol", "gpt-6.1-sol"])
    ['gpt-6.1-terra', 'gpt-6.1-sol', 'gpt-6-sol']
    """
    return difflib.get_close_matches(model, list(dict.fromkeys(names))[:MAX_COMPARED], n=NEAREST, cutoff=0.0)
