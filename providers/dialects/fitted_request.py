"""Sending of requests fitted to their model: retries without rejected settings, suggestions for unknown models."""

import asyncio
import difflib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace

from providers.decoding.decoder import StreamDecoder
from providers.http.client import ServiceConfig, StreamingResponse, stream_events
from providers.models.fitting import MAX_ROUNDS, Fitted, SettingsFitter
from providers.models.setting_rejections import SettingRejectedError
from providers.timed.prepared_request import PreparedRequest
from streaming.clock import monotonic
from streaming.errors import NotFoundError, StreamError
from streaming.events import Event, Notice
from streaming.messages import ChatRequest

LISTING_TIMEOUT_S = 1.0
"""How long the error for an unknown model may wait for the service's list of models."""
LISTING_AGE_S = 600.0
NEAREST = 3
MAX_COMPARED = 2000


@dataclass(slots=True)
class RequestSender:
    """The sender of one adapter's requests.

    `open` sends a fitted request and opens its response; `list_models` returns the names that the service lists.
    """

    service: ServiceConfig
    fitter: SettingsFitter
    open: Callable[[Fitted], AbstractAsyncContextManager[StreamingResponse]]
    decoder: Callable[[bool], StreamDecoder]
    list_models: Callable[[], Awaitable[list[str]]]
    _listed: list[str] = field(default_factory=list)
    _listed_at_s: float = float("-inf")

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of one answer. Raises StreamError."""
        for _ in range(MAX_ROUNDS):
            fitted = self.fitter.fit(request)
            # A decoder cannot be reused after an error page, so each attempt has a new one.
            events = self._insert_notices(
                stream_events(self.open(fitted), self.decoder(request.streamed), self.service), fitted
            )
            try:
                async with aclosing(events):
                    async for event in events:
                        yield event
                return
            except StreamError as error:
                failure = error
            if not self.learn(fitted, failure):
                break
        raise await self.explain(request.model, failure)

    async def _insert_notices(self, events: AsyncGenerator[Event, None], fitted: Fitted) -> AsyncGenerator[Event, None]:
        """Yield the events, and after `connected` the notices on how the request was changed to fit its model."""
        async with aclosing(events):
            async for event in events:
                yield event
                if isinstance(event, Notice) and event.kind == "connected":
                    for notice in fitted.notices:
                        yield replace(notice, message=self.service.mask(notice.message))

    async def prepare(
        self, request: ChatRequest, build: Callable[[Fitted], Awaitable[PreparedRequest]]
    ) -> PreparedRequest:
        """Return the request as bytes, fitted to what is known of its model so far. Raises StreamError."""
        fitted = self.fitter.fit(request)
        prepared = await build(fitted)
        timeouts = self.service.timeouts.for_thinking(unseen=fitted.facts.thinks_unseen)
        return replace(
            prepared,
            service=replace(prepared.service, timeouts=timeouts),
            notices=fitted.notices,
            learn=lambda error: self.learn(fitted, error),
            explain=lambda error: self.explain(request.model, error),
        )

    def learn(self, fitted: Fitted, error: StreamError) -> bool:
        """Record the settings that an error names, and return whether a retry without them may succeed."""
        return isinstance(error, SettingRejectedError) and self.fitter.learn(fitted, error.rejections)

    async def explain(self, model: str, error: StreamError) -> StreamError:
        """Return the error of an unknown model with the most similar listed names added; return others unchanged."""
        if not isinstance(error, NotFoundError) or not model or not (names := await self._names()):
            return error
        near = await asyncio.to_thread(find_nearest, model, names)  # takes up to 0.1 s
        if model in names or not near:
            return error
        return error.with_message(self.service.mask(f"{error.message} (the nearest names are {', '.join(near)})"))

    async def _names(self) -> list[str]:
        now_s = monotonic()
        if now_s - self._listed_at_s > LISTING_AGE_S:
            try:
                async with asyncio.timeout(LISTING_TIMEOUT_S):
                    self._listed = await self.list_models()
            except (StreamError, TimeoutError):
                self._listed = []
            self._listed_at_s = now_s
        return self._listed


def find_nearest(model: str, names: list[str]) -> list[str]:
    """Return the names most similar to `model`, the most similar first.

    >>> find_nearest("gpt-6.1-tera", ["gpt-6.1-terra", "o3", "gpt-6-sol", "gpt-6.1-sol"])
    ['gpt-6.1-terra', 'gpt-6.1-sol', 'gpt-6-sol']
    """
    return difflib.get_close_matches(model, list(dict.fromkeys(names))[:MAX_COMPARED], n=NEAREST, cutoff=0.0)
