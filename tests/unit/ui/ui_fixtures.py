"""Fixtures for the page without a browser: fake providers, and events called as Gradio calls them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import gradio as gr

from guard import Guard, GuardConfig
from guard.config import UNLIMITED_BUDGET
from providers.models.source import ProviderSource
from server.chat_service import ChatService
from server.feedback import FeedbackStore
from server.metrics import Metrics
from server.offer import Offer
from server.recordings import AnswerRecorder
from streaming.adapter import ListedModel
from streaming.clock import Clock
from streaming.errors import MissingKeyError, StreamgaugeError, TruncatedStreamError
from streaming.events import Event, Finish, TextDelta
from streaming.messages import ChatRequest
from streaming.meter import CostModel, PriceFunction
from streaming.retry import NO_RETRY
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter
from tests.virtual_time import loop_clock
from ui.answers import AnswerService


@dataclass(frozen=True)
class FakeProviderInfo:
    """A fake row of the provider picker."""

    name: str
    label: str = "Label"
    ready: bool = True
    needs: str | None = None
    simulated: bool = False
    model: str = "a-model"


class SlowAdapter(InProcessAdapter):
    """An adapter that waits, then sends its words, one per second; `cut` ends it there. Records requests."""

    def __init__(
        self, first_s: float = 1.0, *, cut: bool = False, words: Sequence[str] = ("one ", "two ", "three")
    ) -> None:
        self.first_s, self.cut, self.words = first_s, cut, words
        self.requests: list[ChatRequest] = []
        self.closed_s: list[float] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        try:
            await asyncio.sleep(self.first_s)
            for word in self.words:
                yield TextDelta(word)
                await asyncio.sleep(1.0)
            if self.cut:
                raise TruncatedStreamError("the stream ended without a finish reason")
            yield Finish("stop")
        finally:
            self.closed_s.append(loop_clock()())

    async def aclose(self) -> None:
        """Release nothing: there are no resources."""


class FastAdapter(SlowAdapter):
    """An adapter that sends 45 chunks a second for four seconds."""

    CHUNKS = 180

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        for _ in range(self.CHUNKS):
            await asyncio.sleep(1 / 45)
            yield TextDelta("x")
        yield Finish("stop")


class FakeProviders:
    """Fake providers: one adapter for every name except `openai:…`, which has no key.

    Each service lists `models` after `listing_s`, or raises `listing_error`; `listings` are the requested lists.
    """

    def __init__(self, adapter: SlowAdapter, *, has_key: bool = False) -> None:
        self.adapter = adapter
        self.names: list[str] = []
        self.price: PriceFunction | None = None
        self.paid = False
        self.closed = False
        self.models: list[str] = []
        self.listing_s = 0.0
        self.listing_error: StreamgaugeError | None = None
        self.listings: list[str] = []
        self._has_key = has_key

    def list_providers(self) -> Sequence[FakeProviderInfo]:
        openai = FakeProviderInfo("openai:a", ready=self._has_key, needs=None if self._has_key else "OPENAI_API_KEY")
        return [
            FakeProviderInfo("local"),
            FakeProviderInfo("sim:steady", simulated=True),
            openai,
            FakeProviderInfo("ollama:a"),
        ]

    def new_session(self, names: Sequence[str], *, clock: Clock) -> Session:
        if names[0].startswith("openai") and not self._has_key:
            raise MissingKeyError("OpenAI: no API key is set (set OPENAI_API_KEY)")
        self.names.append(names[0])
        return Session([Route(names[0], self.adapter, "")], clock, policy=NO_RETRY)

    def cost_model(self, name: str) -> CostModel:
        return CostModel(price=self.price, paid=self.paid)

    def is_vendor_address(self, name: str) -> bool:
        return True

    async def load_prices(self, names: Sequence[str]) -> None:
        """Load nothing: no fake is a router."""

    async def find_models(self, provider: str) -> list[ListedModel]:
        self.listings.append(provider)
        await asyncio.sleep(self.listing_s)
        if self.listing_error is not None:
            raise self.listing_error
        return [ListedModel(name) for name in self.models]

    def check_effort(self, name: str, effort: str | None) -> None:
        """Accept every effort."""

    async def aclose(self) -> None:
        self.closed = True


OPEN_CONFIG = GuardConfig(rate=None, blocklist=None, output_filter=False, budget=UNLIMITED_BUDGET)
"""A guard's configuration that rejects nothing."""


def make_chat_service(
    providers: ProviderSource,
    configuration: GuardConfig = OPEN_CONFIG,
    *,
    guard: Guard | None = None,
    offer: Offer | None = None,
    metrics: Metrics | None = None,
    recorder: AnswerRecorder | None = None,
    feedback: FeedbackStore | None = None,
) -> ChatService:
    """Return a chat service over these providers, on the loop's clock."""
    guard = guard or Guard(configuration, clock=loop_clock())
    made = ChatService(providers, offer or Offer(), guard, metrics or Metrics(), loop_clock(), recorder=recorder)
    made.feedback = feedback
    return made


def make_answer_service(
    providers: ProviderSource,
    configuration: GuardConfig = OPEN_CONFIG,
    with_keys: Callable[[Mapping[str, str]], ProviderSource] | None = None,
    *,
    guard: Guard | None = None,
    offer: Offer | None = None,
    metrics: Metrics | None = None,
) -> AnswerService:
    """Return the page's answers from a chat service over these providers."""
    chat_service = make_chat_service(providers, configuration, guard=guard, offer=offer, metrics=metrics)
    return AnswerService(chat_service, with_keys)


def make_request(session_hash: str = "a", address: str = "203.0.113.7") -> gr.Request:
    """Return a request as Gradio passes it to an event."""
    client = SimpleNamespace(host=address)
    return cast(gr.Request, SimpleNamespace(session_hash=session_hash, client=client, headers={}))
