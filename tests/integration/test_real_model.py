"""The OpenAI and the Anthropic adapter, through the vendors' own SDKs, against a real model on llama.cpp's server."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from providers import ProviderRegistry
from providers.local.model import LocalModel
from settings import Settings
from streaming import strategies
from streaming.clock import monotonic
from streaming.errors import UsageError
from streaming.events import Event, Failed, Grammar, TextDelta
from streaming.messages import ChatRequest, Message
from streaming.pipeline import AnswerStream, Receipt, stream_answer
from streaming.retry import NO_RETRY

NAMES = ("openai:local", "openai-responses:local", "anthropic:local")
QUESTION = (Message("system", "Answer in one short sentence."), Message("user", "What is the capital of France?"))


class CollectedAnswer:
    """One answer: its events and its receipt."""

    def __init__(self, events: list[Event], receipt: Receipt) -> None:
        self.events, self.receipt = events, receipt

    @property
    def texts(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, TextDelta)]


def with_providers(
    model: LocalModel, use: Callable[[ProviderRegistry], Awaitable[CollectedAnswer]], key: str | None = None
) -> CollectedAnswer:
    async def main() -> CollectedAnswer:
        server = await model.wait_server()
        variables = {
            "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": key or server.key,
            "ANTHROPIC_BASE_URL": server.base_url.removesuffix("/v1"), "ANTHROPIC_API_KEY": key or server.key,
        }  # fmt: skip
        providers = ProviderRegistry(Settings(variables))
        try:
            return await use(providers)
        finally:
            await providers.aclose()

    return asyncio.run(main())


def start_answer(
    providers: ProviderRegistry, name: str, *, streamed: bool = True, max_tokens: int = 24
) -> AnswerStream:
    request = ChatRequest(QUESTION, temperature=0.0, max_tokens=max_tokens, streamed=streamed)
    session = providers.new_session([name], clock=monotonic, policy=NO_RETRY)
    return stream_answer(
        request, session, strategies.parse("direct").build(), clock=monotonic, cost_model=providers.cost_model
    )


async def read_answer(stream: AnswerStream, *, stop_after: int | None = None) -> CollectedAnswer:
    grammar = Grammar()
    events: list[Event] = []
    try:
        async for event in stream:
            grammar.feed(event)
            events.append(event)
            if stop_after is not None and sum(isinstance(e, TextDelta) for e in events) == stop_after:
                break
        else:
            grammar.end()
    finally:
        await stream.aclose()
    return CollectedAnswer(events, stream.receipt())


async def ask_streamed(name: str, streamed: bool, providers: ProviderRegistry) -> CollectedAnswer:
    return await read_answer(start_answer(providers, name, streamed=streamed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("streamed", [True, False])
def test_real_model_answer_has_reported_usage(local_model: LocalModel, name: str, streamed: bool) -> None:
    answer = with_providers(local_model, lambda p: read_answer(start_answer(p, name, streamed=streamed)))
    assert answer.receipt.outcome == "completed", answer.events[-1]
    assert answer.receipt.finish_reason in ("stop", "length")
    assert "Paris" in "".join(answer.texts)
    assert len(answer.texts) > 2 if streamed else len(answer.texts) == 1
    usage = answer.receipt.reading.usage
    assert usage.source == "reported"
    assert usage.input_tokens is not None
    assert usage.input_tokens > 10
    assert usage.output_tokens is not None
    assert 0 < usage.output_tokens <= 24


@pytest.mark.parametrize("name", NAMES)
def test_real_model_at_max_tokens_finishes_with_length(local_model: LocalModel, name: str) -> None:
    answer = with_providers(local_model, lambda p: read_answer(start_answer(p, name, max_tokens=3)))
    assert (answer.receipt.finish_reason, answer.receipt.reading.usage.output_tokens) == ("length", 3)


@pytest.mark.parametrize("streamed", [True, False])
def test_same_prompt_at_temperature_0_has_same_text_in_every_dialect(local_model: LocalModel, streamed: bool) -> None:
    texts = {
        "".join(with_providers(local_model, partial(ask_streamed, name, streamed)).texts).strip() for name in NAMES
    }
    assert len(texts) == 1


@pytest.mark.parametrize("name", NAMES)
def test_stopped_real_answer_is_cancelled_and_keeps_text(local_model: LocalModel, name: str) -> None:
    answer = with_providers(local_model, lambda p: read_answer(start_answer(p, name, max_tokens=400), stop_after=2))
    assert answer.receipt.outcome == "cancelled"
    assert answer.receipt.stop_s is not None
    assert answer.receipt.delivered_chars == len("".join(answer.texts)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_wrong_key_gives_auth_failure_without_showing_it(local_model: LocalModel, name: str) -> None:
    answer = with_providers(local_model, lambda p: read_answer(start_answer(p, name)), key="sk-wrong-canary-key")
    (last,) = answer.events
    assert isinstance(last, Failed)
    assert last.kind == "auth"
    assert "_API_KEY" in last.message
    assert "canary" not in last.message


def test_missing_key_raises_before_any_request() -> None:
    with pytest.raises(UsageError, match="ANTHROPIC_API_KEY"):
        ProviderRegistry(Settings()).route("anthropic:claude-haiku-4-5")
