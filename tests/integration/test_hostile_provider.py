"""Providers that send endless or highly compressed data: the service keeps its memory use and its latency."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from providers import ProviderRegistry
from settings import Settings
from streaming.adapter import TimedAnswer, UnpreparableRequest
from streaming.clock import monotonic
from streaming.errors import ResponseTooLargeError
from streaming.events import Failed
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.limits import MAX_STREAM_BYTES
from streaming.messages import ChatRequest, Message
from tests.integration.hostile_provider import AFTER, KINDS, LINES, LISTS, MEGABYTE, Hostile, hostile_provider
from tests.service_process import service_with_pid

MAX_GROWTH_BYTES = 100 * MEGABYTE
MAX_HEALTH_CPU_S = 0.5


@dataclass
class Served:
    """The service as a process, and its provider."""

    url: str
    pid: int
    hostile: Hostile
    watch: "subprocess.Popen[bytes]"

    def rss(self, name: str = "VmRSS") -> int:
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:"))

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")

    def ask(self, provider: str, strategy: str = "direct") -> list[dict[str, object]]:
        """Request a streamed answer and return its events."""
        body = {"message": "Hi", "provider": provider, "strategy": strategy}
        request = urllib.request.Request(
            f"{self.url}/api/chat", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            lines = [line[6:] for line in response.read().decode().splitlines() if line.startswith("data: {")]
        return [json.loads(line) for line in lines]

    def ask_watched(self, provider: str) -> tuple[list[dict[str, object]], float, int]:
        """Do the same; return also the worst latency of /healthz meanwhile, and the growth of the memory in bytes.

        The latency is how long the service's loop computed at most while /healthz waited, in seconds: what else runs
        on the machine does not add to it.
        """
        assert self.watch.stdin is not None and self.watch.stdout is not None  # they are pipes
        self.forget_peak()
        before = self.rss()
        self.watch.stdin.write(b"begin\n")
        self.watch.stdin.flush()
        events = self.ask(provider)
        self.watch.stdin.write(b"end\n")
        self.watch.stdin.flush()
        return events, float(self.watch.stdout.readline()), self.rss("VmHWM") - before


WATCH = """
import select, sys, urllib.request
def cpu_s():
    with open(f"/proc/{sys.argv[2]}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9
commands = open(0, "rb", buffering=0)  # with a buffer, a line that came with another one would be no news to select
while commands.readline():
    worst_s, ended = 0.0, False
    while not ended:
        begun_s = cpu_s()
        with urllib.request.urlopen(sys.argv[1], timeout=60) as response:
            response.read()
        worst_s = max(worst_s, cpu_s() - begun_s)
        ended = select.select([commands], [], [], 0.02)[0]
    commands.readline()
    print(worst_s, flush=True)
"""
"""A process of its own: the threads of this one wait for each other."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with hostile_provider() as hostile:
        address = f"http://127.0.0.1:{hostile.port}"
        variables = {"OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_KEY": "sk-x", "OLLAMA_HOST": address}
        with service_with_pid(**variables) as (url, pid):
            command = [sys.executable, "-c", WATCH, f"{url}/healthz", str(pid)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as watch:
                result = Served(url, pid, hostile, watch)
                result.ask(f"openai:{next(iter(AFTER))}")  # the SDKs are imported, and the tables read
                result.ask(f"ollama:{next(iter(LINES))}")
                yield result


@pytest.mark.parametrize("provider", [*(f"openai:{kind}" for kind in KINDS), *(f"ollama:{kind}" for kind in LINES)])
def test_endless_response_is_abandoned_with_bounded_memory_and_latency(served: Served, provider: str) -> None:
    served.hostile.requests.clear()
    events, worst_s, grown = served.ask_watched(provider)
    (error,) = [event["error"] for event in events if isinstance(event.get("error"), dict)]
    assert isinstance(error, dict) and error["type"] == "protocol", error
    assert grown < MAX_GROWTH_BYTES, f"{grown / MEGABYTE:.0f} MB"
    assert worst_s < MAX_HEALTH_CPU_S
    streamed = [streamed for _, streamed in served.hostile.requests]
    assert streamed.count(True) == 1, "it was asked again"


def test_data_after_answer_end_is_not_read(served: Served) -> None:
    (kind,) = AFTER
    events, worst_s, grown = served.ask_watched(f"openai:{kind}")
    assert worst_s < MAX_HEALTH_CPU_S
    assert grown < MAX_GROWTH_BYTES
    assert any(event.get("finish_reason") == "stop" for event in events)


@pytest.mark.parametrize("kind", LISTS)
def test_endless_model_list_is_abandoned(kind: str) -> None:
    async def main(port: int) -> list[str]:
        settings = Settings({"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "sk-x"})
        providers = ProviderRegistry(settings)
        try:
            async with asyncio.timeout(60):
                return [model.name for model in await providers.list_models("openai")]
        finally:
            await providers.aclose()

    with hostile_provider() as hostile:
        hostile.listing = kind
        with pytest.raises(ResponseTooLargeError, match=r"(larger|longer|more) than"):
            asyncio.run(main(hostile.port))
    assert hostile.sent[kind] < 40 * MEGABYTE  # what the kernel's buffers hold, and no more


_NOT_STREAMED = ("an endless answer in one piece", "a compressed answer in one piece", "a crowd of objects")
MEASURED = [kind for kind in KINDS if kind not in _NOT_STREAMED]


@pytest.mark.parametrize("kind", MEASURED)
def test_timed_answer_has_same_limits(kind: str) -> None:
    async def main(port: int) -> TimedAnswer:
        settings = Settings({"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "sk-x"})
        providers = ProviderRegistry(settings)
        adapter = providers.new_session([f"openai:{kind}"], clock=monotonic).route.adapter
        prepared = await adapter.prepare_request(ChatRequest((Message("user", "Hi"),), model=kind))
        assert not isinstance(prepared, UnpreparableRequest)
        sockets = TimestampingSelector()
        try:
            async with asyncio.timeout(100):
                return await prepared.send(sockets, "t")
        finally:
            sockets.close()
            await providers.aclose()

    with hostile_provider() as hostile:
        answer = asyncio.run(main(hostile.port))
    last = answer.events[-1].event
    assert isinstance(last, Failed) and last.kind == "protocol", last
    assert sum(len(read.data) for read in answer.exchange.reads) <= MAX_STREAM_BYTES + MEGABYTE
