"""The simulator in other vendors' formats, read by this project's adapters: usage, cost, rejections, caches."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from datetime import date
from decimal import Decimal

import pytest

from providers import ProviderRegistry
from settings import Settings
from simulator.request_handler import Defaults
from simulator.server import ServerOptions, run_in_thread
from simulator.vendor_rules import VendorRules
from streaming import strategies
from streaming.clock import monotonic
from streaming.messages import ChatRequest, Message
from streaming.pipeline import Receipt, stream_answer
from streaming.retry import NO_RETRY

CHOICES = Defaults(
    ttft_s=0.01,
    gap_s=0.001,
    tokens=12,
    thinking_tokens=20,
    effort_tokens={"low": 0, "high": 40},
    rules=VendorRules.load(date(2026, 12, 1)),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_in_thread(ServerOptions(choices=CHOICES)) as server:
        yield server.url


def ask(url: str, name: str, prompt: str = "What time is it?", **fields: float | int) -> Receipt:
    """Return the receipt of one answer; every service's variable points at its own path of the simulator."""
    variables = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": f"{url}/v1"}
    for service in ("xai", "groq", "openrouter", "mistral", "deepseek"):
        variables |= {f"{service.upper()}_API_KEY": "sk-x", f"{service.upper()}_BASE_URL": f"{url}/{service}/v1"}

    async def main() -> Receipt:
        providers = ProviderRegistry(Settings(variables))
        request = ChatRequest((Message("user", prompt),), **fields)  # type: ignore[arg-type] # fields by their names
        session = providers.new_session([name], clock=monotonic, policy=NO_RETRY)
        try:
            strategy = strategies.parse("direct").build()
            stream = stream_answer(request, session, strategy, clock=monotonic, cost_model=providers.cost_model)
            async with aclosing(stream) as events:
                async for _ in events:
                    pass
            return stream.receipt()
        finally:
            await providers.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "name", ["openai:steady", "openai-responses:steady", "xai:grok-4.3", "groq:m", "openrouter:m", "mistral:m"]
)
@pytest.mark.parametrize("streamed", [True, False])
def test_output_tokens_include_thinking_for_every_vendor(url: str, name: str, streamed: bool) -> None:
    usage = ask(url, name, streamed=streamed).reading.usage
    assert (usage.output_tokens, usage.thinking_tokens, usage.source) == (32, 20, "reported")


@pytest.mark.parametrize("name", ["xai:grok-4.3", "openrouter:m"])
def test_cost_in_answer_is_read(url: str, name: str) -> None:
    usage = ask(url, name).reading.usage
    assert usage.billed_usd is not None
    assert abs(usage.billed_usd - Decimal(str(CHOICES_BILL_USD))) < Decimal("1e-9")


CHOICES_BILL_USD = (4 * 0.3 + 32 * 0.5) / 1e6
"""Four tokens of a prompt and 32 of an answer, at the simulator's own price."""


def test_long_prompt_is_written_to_cache_then_read(url: str) -> None:
    prompt = "word " * 1100
    first = ask(url, "openai:steady", prompt).reading.usage
    again = ask(url, "openai:steady", prompt).reading.usage
    assert (first.cache_write_tokens, first.cached_tokens) == (1280, 0)
    assert (again.cache_write_tokens, again.cached_tokens) == (0, 1280)


def test_rejected_setting_is_error_with_vendor_message(url: str) -> None:
    receipt = ask(url, "xai:grok-4")
    assert receipt.error is not None
    assert receipt.error.kind == "not_found"
    assert "does not exist" in receipt.error.message
