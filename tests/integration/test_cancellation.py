"""Cancellation in every state, in every wire format: the simulator's log records the disconnect."""

import asyncio
import gc
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from providers import ProviderRegistry
from settings import Settings
from streaming import strategies
from streaming.clock import monotonic
from streaming.messages import ChatRequest, Message
from streaming.pipeline import AnswerStream, stream_answer
from streaming.retry import RetryPolicy
from tests.asgi_server import wait_until
from tests.simulator_process import run_simulator_process

WIRES = ("openai", "azure", "anthropic", "ollama")
ABORTED = 100
"""Aborted streams per wire format, after 25 that fill pools and caches."""


def settings_for_url(url: str) -> Settings:
    return Settings(
        {
            "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "k", "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "k",
            "AZURE_OPENAI_ENDPOINT": url, "AZURE_OPENAI_API_KEY": "k", "OPENAI_API_VERSION": "2024-10-21",
            "OLLAMA_HOST": url,
        }
    )  # fmt: skip


def start_answer(
    providers: ProviderRegistry, name: str, request_id: str, *, streamed: bool = True, policy: RetryPolicy | None = None
) -> AnswerStream:
    request = ChatRequest((Message("user", "Name three colours."),), streamed=streamed, request_id=request_id)
    session = providers.new_session([name], clock=monotonic, policy=policy)
    return stream_answer(
        request, session, strategies.parse("direct").build(), clock=monotonic, cost_model=providers.cost_model
    )


class RequestLog:
    """The simulator's log of one request."""

    def __init__(self, path: Path, request_id: str) -> None:
        self._path, self._id = path, request_id

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self._path.read_text().splitlines()
        return [e for e in map(json.loads, lines) if (e["request_id"], e["event"]) == (self._id, name)]

    def has_events(self, name: str, count: int = 1) -> Callable[[], bool]:
        return lambda: len(self.events(name)) >= count


PHASES: dict[str, tuple[str, bool, str]] = {
    "before the first token": ("slow-start", True, "received"),
    "mid-stream": ("steady", True, "sent"),
    "in a non-streamed call": ("steady", False, "received"),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("wire", WIRES)
def test_cancelled_answer_disconnects_from_server_before_it_ends(wire: str, phase: str, tmp_path: Path) -> None:
    model, streamed, sign = PHASES[phase]
    path = tmp_path / "truth.jsonl"

    async def main(url: str) -> None:
        providers = ProviderRegistry(settings_for_url(url))
        log = RequestLog(path, phase)
        stream = start_answer(providers, f"{wire}:{model}", phase, streamed=streamed)
        async with aclosing(stream):
            reading = asyncio.create_task(_read_to_end(stream))
            await wait_until(log.has_events(sign))
            await stream.aclose()
            await reading
        receipt = stream.receipt()
        assert receipt.outcome == "cancelled"
        assert receipt.stop_s is not None
        await wait_until(log.has_events("closed"))
        (closed,) = log.events("closed")
        assert closed["by"] == "client"
        await providers.aclose()

    with run_simulator_process("--tokens", "2000", "--log", str(path)) as url:
        asyncio.run(main(url))


@pytest.mark.parametrize("wire", WIRES)
def test_cancel_during_retry_wait_sends_no_further_request(wire: str, tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"

    async def main(url: str) -> None:
        providers = ProviderRegistry(settings_for_url(url))
        log = RequestLog(path, "retrying")
        stream = start_answer(providers, f"{wire}:fault-503", "retrying", policy=RetryPolicy(delays_s=(0.7,)))
        async with aclosing(stream):
            reading = asyncio.create_task(_read_to_end(stream))
            await wait_until(lambda: stream.session.state == "retrying")
            await stream.aclose()
            await reading
        assert stream.receipt().outcome == "cancelled"
        # A whole answer later, which takes longer than the wait would have, nothing of the stopped one has come.
        await _read_to_end(start_answer(providers, f"{wire}:steady", "later"))
        await wait_until(RequestLog(path, "later").has_events("closed"))
        assert len(log.events("received")) == 1
        await providers.aclose()

    with run_simulator_process("--ttft-ms", "900", "--tokens", "2", "--log", str(path)) as url:
        asyncio.run(main(url))


async def _read_to_end(stream: AnswerStream) -> None:
    async with aclosing(stream):
        async for _ in stream:
            pass


def test_many_aborted_streams_leak_no_tasks_files_or_memory(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"

    async def abort(providers: ProviderRegistry, wire: str, number: int) -> None:
        stream = start_answer(providers, f"{wire}:steady", f"{wire}-{number}")
        async with aclosing(stream):
            for _ in range(number % 4):  # none: asked and left at once
                await stream.next_batch()

    async def main(url: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        providers = ProviderRegistry(settings_for_url(url))
        for wire in WIRES:
            await asyncio.gather(*(abort(providers, wire, n) for n in range(25)))
        before = _resource_usage()
        for wire in WIRES:
            for start in range(0, ABORTED, 50):
                await asyncio.gather(*(abort(providers, wire, n) for n in range(start, start + 50)))
        await wait_until(lambda: _open_requests(path) == 0, every_s=0.2)
        after = _resource_usage()
        await providers.aclose()
        return before, after

    arguments = ("--ttft-ms", "1", "--gap-ms", "20", "--tokens", "5000", "--log", str(path))
    with run_simulator_process(*arguments) as url:
        (tasks, files, memory_kb), (tasks_after, files_after, memory_after_kb) = asyncio.run(main(url))
    assert tasks_after - tasks <= 5
    assert files_after - files <= 5
    assert memory_after_kb - memory_kb <= 20_000


def _resource_usage() -> tuple[int, int, int]:
    """Return this process's tasks, descriptors and resident memory in KB."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), int(resident.split()[1])


def _open_requests(path: Path) -> int:
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    return events.count("received") - events.count("closed")
