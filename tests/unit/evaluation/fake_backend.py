"""A fake adapter that answers under any name and records its requests, for tests of whole runs."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal

from streaming.clock import Clock
from streaming.errors import ServerError
from streaming.events import Event, Finish, TextDelta, Usage
from streaming.messages import ChatRequest
from streaming.meter import Cost, CostModel
from streaming.retry import RetryPolicy
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter

MILLION = Decimal(1_000_000)


def price_usage(usage: Usage) -> Cost | None:
    """Return a cost of 1 USD per million input tokens and 2 USD per million output tokens."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    return Cost(usage.input_tokens / MILLION, usage.output_tokens * 2 / MILLION, "test")


class PricedAdapter(InProcessAdapter):
    """An adapter that answers after `takes_s` with a usage of 10 input and 20 output tokens.

    Models whose names start with `broken` fail; unpriced models have an unknown cost.
    """

    def __init__(self, takes_s: float = 0.0) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.running = self.most = 0
        self._takes_s = takes_s

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.requests.append((request.model, request.request_id))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._takes_s)
            if request.model.startswith("broken"):
                raise ServerError("down", http_status=503)
            yield TextDelta("Yes, indeed.")
            yield Usage(10, 20, 0, 0)
            yield Finish("stop")
        finally:
            self.running -= 1

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        return Session([Route(name, self, name) for name in names], clock, policy=policy)

    def cost_model(self, name: str) -> CostModel:
        return CostModel() if name.startswith("unpriced") else CostModel(price=price_usage)
