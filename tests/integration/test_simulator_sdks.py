"""The vendors' own clients, used as their documentation uses them, stream from the simulator."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import anthropic
import ollama
import openai
import pytest

from simulator.request_handler import Defaults
from simulator.schedules import PROFILES, Schedule, make_schedule, seed_for
from simulator.server import ServerOptions, run_in_thread

QUICK_DEFAULTS = Defaults(ttft_s=0.01, gap_s=0.001, tokens=12)
PROMPT = "What time is it?"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server:
        yield server.url


def expected_schedule(profile: str = "steady", tokens: int | None = None) -> Schedule:
    return make_schedule(QUICK_DEFAULTS.apply_to(PROFILES[profile]), seed_for(0, PROMPT), tokens=tokens)


@asynccontextmanager
async def openai_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@asynccontextmanager
async def azure_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=url, api_key="none", api_version="2024-10-21", max_retries=0
    ) as client:
        yield client


@asynccontextmanager
async def azure_v1_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/openai/v1/", api_key="none", max_retries=0) as client:
        yield client


@asynccontextmanager
async def anthropic_client(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@asynccontextmanager
async def ollama_client(url: str) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(url) as client:
        yield client


OPENAI_CLIENTS = pytest.mark.parametrize("client_of", [openai_client, azure_client, azure_v1_client])


@OPENAI_CLIENTS
def test_openai_clients_stream_answer(url: str, client_of: Callable[..., object]) -> None:
    async def main() -> None:
        async with client_of(url) as client:  # type: ignore[attr-defined]  # any of the three clients
            stream = await client.chat.completions.create(
                model="steady",
                messages=[{"role": "user", "content": PROMPT}],
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert "".join(choice.delta.content or "" for choice in choices) == expected_schedule().text
        assert choices[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
        assert chunks[-1].usage.completion_tokens == 12
        assert chunks[-1].usage.prompt_tokens == 4
        assert chunks[-1].model == "steady"

    asyncio.run(main())


@OPENAI_CLIENTS
def test_openai_clients_read_whole_answer(url: str, client_of: Callable[..., object]) -> None:
    async def main() -> None:
        async with client_of(url) as client:  # type: ignore[attr-defined]  # any of the three clients
            answer = await client.chat.completions.create(
                model="steady", messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=5
            )
        assert answer.choices[0].message.content == expected_schedule(tokens=5).text
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 5)

    asyncio.run(main())


def test_openai_stream_helper_collects_answer(url: str) -> None:
    async def main() -> None:
        async with (
            openai_client(url) as client,
            client.chat.completions.stream(model="thinking", messages=[{"role": "user", "content": PROMPT}]) as stream,
        ):
            deltas = [event.delta async for event in stream if event.type == "content.delta"]
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == "".join(deltas) == expected_schedule("thinking").text

    asyncio.run(main())


def test_anthropic_client_streams_raw_events(url: str) -> None:
    async def main() -> None:
        async with anthropic_client(url) as client:
            stream = await client.messages.create(
                model="thinking", max_tokens=1000, messages=[{"role": "user", "content": PROMPT}], stream=True
            )
            events = [event async for event in stream]
        text = [e.delta.text for e in events if e.type == "content_block_delta" and e.delta.type == "text_delta"]
        assert "".join(text) == expected_schedule("thinking").text
        assert events[-1].type == "message_stop"

    asyncio.run(main())


def test_anthropic_stream_helper_collects_answer(url: str) -> None:
    async def main() -> None:
        async with (
            anthropic_client(url) as client,
            client.messages.stream(
                model="thinking", max_tokens=1000, messages=[{"role": "user", "content": PROMPT}]
            ) as stream,
        ):
            text = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        assert "".join(text) == expected_schedule("thinking").text
        assert [block.type for block in final.content] == ["thinking", "text"]
        assert (
            final.content[0].type == "thinking" and final.content[0].thinking == expected_schedule("thinking").thinking
        )
        assert (final.stop_reason, final.usage.input_tokens) == ("end_turn", 4)
        assert final.usage.output_tokens == expected_schedule("thinking").output_tokens

    asyncio.run(main())


def test_anthropic_client_reads_whole_answer(url: str) -> None:
    async def main() -> None:
        async with anthropic_client(url) as client:
            answer = await client.messages.create(
                model="steady", max_tokens=5, messages=[{"role": "user", "content": PROMPT}]
            )
        assert answer.content[0].type == "text" and answer.content[0].text == expected_schedule(tokens=5).text
        assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 5)

    asyncio.run(main())


def test_ollama_client_streams_answer(url: str) -> None:
    async def main() -> None:
        async with ollama_client(url) as client:
            parts = await client.chat("thinking", [{"role": "user", "content": PROMPT}], stream=True)
            result = [part async for part in parts]
        assert "".join(part.message.content or "" for part in result) == expected_schedule("thinking").text
        assert "".join(part.message.thinking or "" for part in result) == expected_schedule("thinking").thinking
        assert (result[-1].done, result[-1].done_reason, result[-1].prompt_eval_count) == (True, "stop", 4)

    asyncio.run(main())


def test_ollama_client_reads_whole_answer(url: str) -> None:
    async def main() -> None:
        async with ollama_client(url) as client:
            answer = await client.chat(
                "steady", [{"role": "user", "content": PROMPT}], stream=False, options={"num_predict": 5}
            )
        assert answer.message.content == expected_schedule(tokens=5).text
        assert (answer.done_reason, answer.eval_count) == ("length", 5)

    asyncio.run(main())


def test_every_client_lists_models(url: str) -> None:
    async def main() -> set[str]:
        async with openai_client(url) as one, azure_client(url) as two, anthropic_client(url) as three:
            names = [{model.id async for model in one.models.list()}, {model.id async for model in two.models.list()}]
            names.append({model.id async for model in three.models.list()})
        async with ollama_client(url) as four:
            names.append({str(model.model) for model in (await four.list()).models})
            assert (await four.show("steady")).capabilities == ["completion"]
        assert names[0] == names[1] == names[2] == names[3]
        return names[0]

    assert {*PROFILES, "fault-429"} <= asyncio.run(main())


def test_every_client_raises_its_own_errors(url: str) -> None:
    async def raised_error(asking: Awaitable[object]) -> Exception:
        try:
            await asking
        except Exception as error:
            return error
        raise AssertionError("no error came")

    async def main() -> None:
        question = {"role": "user", "content": PROMPT}
        async with openai_client(url) as one, anthropic_client(url) as two, ollama_client(url) as three:
            error = await raised_error(one.chat.completions.create(model="fault-429", messages=[question]))  # type: ignore[list-item]  # a plain dict is what the documentation shows
            assert isinstance(error, openai.RateLimitError) and error.code == "rate_limit_exceeded"
            error = await raised_error(two.messages.create(model="fault-529", max_tokens=9, messages=[question]))  # type: ignore[list-item]  # as above
            assert isinstance(error, anthropic.APIStatusError) and "overloaded_error" in str(error)
            assert error.request_id and error.request_id.startswith("req_")
            error = await raised_error(three.chat("fault-404", [question]))
            assert isinstance(error, ollama.ResponseError) and error.status_code == 404
            assert "simulated fault 404" in error.error

    asyncio.run(main())
