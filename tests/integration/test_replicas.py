"""Several processes as one service: shared limits, streams and metrics, and replacement of a dead worker."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from redis.asyncio import Redis

from streaming import sse
from streaming.events import Event
from streaming.messages import ChatRequest
from tests.asgi_server import SingleAdapterProviders, serve_providers, wait_until
from tests.integration.captured_service import ROOT, RunningService, run_service
from tests.integration.service_over_simulator import SentRequest, count_open_streams, scrape_metrics, send_request
from tests.redis_process import PATIENT_S, RedisProcess, run_redis
from tests.scripted_adapter import ScriptedAdapter, words_script
from tests.simulator_process import run_simulator_process

CHAT, COMPLETIONS, SOCKET = "/api/chat", "/v1/chat/completions", "/api/chat/ws"
CHAT_BODY = {"message": "Name three colours.", "provider": "p", "strategy": "direct", "stream": False}
COMPLETION_BODY = {"model": "p", "messages": [{"role": "user", "content": "a"}]}
SIM_BODY = {"message": "Name three colours.", "provider": "sim:steady", "strategy": "direct"}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with run_redis() as server:
        yield server


@asynccontextmanager
async def run_replicas(
    redis: RedisProcess, number: int, adapter: ScriptedAdapter, variables: Mapping[str, str]
) -> AsyncIterator[list[int]]:
    """Run three services that share the Redis database with that number, and yield their ports."""
    url = redis.url.removesuffix("/0") + f"/{number}"
    async with AsyncExitStack() as stack:
        variables = {**variables, "REDIS_URL": url, "REDIS_TIMEOUT_S": PATIENT_S}
        yield [
            await stack.enter_async_context(serve_providers(SingleAdapterProviders(adapter), variables))
            for _ in range(3)
        ]


async def ask_over_http(port: int, path: str) -> int:
    body = COMPLETION_BODY if path == COMPLETIONS else CHAT_BODY
    status, headers, _ = await (await send_request(port, path, body)).read_response()
    assert status != 429 or 1 <= int(headers["retry-after"]) <= 61
    return status


async def ask_over_websocket(port: int) -> int:
    async with websockets.connect(f"ws://127.0.0.1:{port}{SOCKET}") as socket:
        await socket.send(json.dumps({**CHAT_BODY, "stream": True}))
        while (frame := json.loads(await socket.recv()))["type"] not in ("done", "error"):
            pass
        return 200 if frame["type"] == "done" else 429 if frame["error"]["rule"] == "rate" else 500


def test_rate_limit_is_shared_by_replicas_and_transports(redis: RedisProcess) -> None:
    async def ask_once(ports: list[int], number: int) -> int:
        port, path = ports[number % 3], (CHAT, COMPLETIONS, SOCKET)[number // 3 % 3]
        return await (ask_over_websocket(port) if path == SOCKET else ask_over_http(port, path))

    async def main() -> list[int]:
        # All under way at once, and with the budgets as they are by default: it is the rate that says no.
        async with run_replicas(
            redis, 1, ScriptedAdapter(words_script(2, first_s=2.0)), {"RATE_LIMIT": "10/minute"}
        ) as ports:
            return await asyncio.gather(*(ask_once(ports, number) for number in range(50)))

    statuses = asyncio.run(main())
    assert (statuses.count(200), statuses.count(429)) == (10, 40)


def test_stream_limit_is_shared_by_replicas_and_released(redis: RedisProcess) -> None:
    streamed = {**CHAT_BODY, "stream": True}

    async def main() -> tuple[list[SentRequest], dict[str, Any], int]:
        adapter = ScriptedAdapter(words_script(9000, first_s=0.0, gap_s=0.02))
        variables = {"RATE_LIMIT": "off", "BUDGET_STREAMS_PER_CALLER": "3"}
        async with run_replicas(redis, 2, adapter, variables) as ports:
            responses = [await send_request(port, CHAT, streamed) for port in ports]
            await wait_until(lambda: adapter.open == 3)
            status, _, refused = await (await send_request(ports[0], CHAT, streamed)).read_response()
            assert status == 429
            responses[2].drop()
            await wait_until(lambda: adapter.open == 2)
            while True:  # what it took is given back right after
                again = await send_request(ports[1], CHAT, streamed)
                if (line := await again.reader.readline()).startswith(b"HTTP/1.1 200"):
                    break
                assert line.startswith(b"HTTP/1.1 429")
                again.drop()
            for connection in (*responses, again):
                connection.drop()
            return responses, json.loads(refused), adapter.open

    _, refused, _ = asyncio.run(main())
    assert refused["error"]["rule"] == "budget.streams"


@pytest.mark.parametrize("unsubscribed", [False, True], ids=["connected", "while replicas connect to Redis again"])
def test_websocket_at_another_replica_resumes_and_cancels_stream(redis: RedisProcess, unsubscribed: bool) -> None:
    async def main() -> tuple[list[dict[str, Any]], int]:
        adapter = ScriptedAdapter(words_script(9000, first_s=0.0, gap_s=0.02))
        async with run_replicas(redis, 3, adapter, {"RATE_LIMIT": "off"}) as ports:
            response = await send_request(ports[0], CHAT, {**CHAT_BODY, "stream": True, "resume": True})
            start = await response.reader.readuntil(b":1\nevent: start\ndata: {")
            stream_id = start.rpartition(b"id: ")[2].partition(b":")[0].decode()
            async with websockets.connect(f"ws://127.0.0.1:{ports[1]}{SOCKET}") as socket:
                frames: list[dict[str, Any]] = []
                while not frames or frames[-1]["type"] == "error":  # the copy is a little behind at first
                    await socket.send(json.dumps({"type": "resume", "stream_id": stream_id, "last_id": 1}))
                    frames = [json.loads(await socket.recv())]
                if unsubscribed:
                    async with Redis.from_url(redis.url) as client:
                        await client.client_kill_filter(_type="pubsub")
                await socket.send('{"type": "cancel"}')
                while frames[-1]["type"] != "cancelled":
                    frames.append(json.loads(await socket.recv()))
            result = await response.read_rest()
            assert result.count(b"event: cancelled") == 1
            return frames, adapter.open

    frames, still_open = asyncio.run(main())
    assert [int(frame["id"].rpartition(":")[2]) for frame in frames] == list(range(2, len(frames) + 2))
    assert (frames[-1]["outcome"], still_open) == ("cancelled", 0)


class HeldAdapter(ScriptedAdapter):
    """An adapter that sends nothing until it is released."""

    def __init__(self, may: asyncio.Event) -> None:
        super().__init__(words_script(2, first_s=0.0))
        self._may = may

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        await self._may.wait()
        async with aclosing(super().stream(request)) as events:
            async for event in events:
                yield event


def test_remote_readers_beyond_redis_pool_size_read_whole_stream(redis: RedisProcess) -> None:
    requests = {**CHAT_BODY, "stream": True, "resume": True}

    async def start_stream(port: int) -> str:
        connection = await send_request(port, CHAT, requests)
        start = await connection.reader.readuntil(b":1\nevent: start\ndata: {")
        connection.drop()
        return start.rpartition(b"id: ")[2].partition(b":")[0].decode()

    async def read_stream(port: int, stream_id: str, go: asyncio.Event) -> bytes:
        while True:  # on a busy machine the copy is behind for longer than the service waits for it
            connection = await send_request(port, f"/api/chat/stream/{stream_id}", method="GET")
            if (line := await connection.reader.readline()).startswith(b"HTTP/1.1 200"):
                break
            connection.drop()
        head = line + await connection.reader.readuntil(b"event: start\n")
        waiting.append(stream_id)
        if len(waiting) == 120:
            go.set()
        await go.wait()
        return head + await connection.read_rest()

    waiting: list[str] = []

    async def main() -> list[bytes]:
        go = asyncio.Event()
        async with run_replicas(redis, 4, HeldAdapter(go), {"RATE_LIMIT": "off"}) as ports, asyncio.timeout(60):
            ids = [await start_stream(ports[0]) for _ in range(120)]
            return await asyncio.gather(*(read_stream(ports[1], stream_id, go) for stream_id in ids))

    answers = asyncio.run(main())
    assert all(answer.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in answer for answer in answers)


def test_hanging_redis_does_not_block_resume_requests(redis: RedisProcess) -> None:
    async def main() -> list[int]:
        async with run_replicas(redis, 5, ScriptedAdapter(words_script(1)), {"RATE_LIMIT": "off"}) as ports:
            with redis.suspend():
                async with asyncio.timeout(25):
                    responses = [
                        await send_request(ports[0], f"{CHAT}/stream/x", method=method) for method in ("GET", "DELETE")
                    ]
                    return [(await connection.read_response())[0] for connection in responses]

    assert asyncio.run(main()) == [503, 503]


def run_two_workers(redis: RedisProcess, number: int, **variables: str) -> Any:
    shared = {"REDIS_URL": redis.url.removesuffix("/0") + f"/{number}", "REDIS_TIMEOUT_S": PATIENT_S}
    return run_service("--workers", "2", **shared, **{"RATE_LIMIT": "off", "BUDGETS": "off", **variables})


@pytest.fixture(scope="module")
def limited_workers(redis: RedisProcess) -> Iterator[RunningService]:
    """Run two workers for one more host name and ten requests a minute."""
    with run_two_workers(redis, 9, ALLOWED_HOSTS="chat.example", RATE_LIMIT="10/minute") as service:
        yield service


def test_workers_check_host_of_listening_address(limited_workers: RunningService) -> None:
    async def main(port: int) -> list[int]:
        hosts = ["localhost", "evil.example", "chat.example"] * 4
        responses = [await send_request(port, "/healthz", method="GET", headers={"host": host}) for host in hosts]
        return [(await one.read_response())[0] for one in responses]

    assert asyncio.run(main(limited_workers.port)) == [200, 421, 200] * 4


def test_rate_limit_is_shared_by_two_workers(limited_workers: RunningService) -> None:
    async def main(port: int) -> list[int]:
        body = {**SIM_BODY, "stream": False, "max_tokens": 1}
        responses = [await send_request(port, CHAT, body) for _ in range(50)]
        return [(await connection.read_response())[0] for connection in responses]

    statuses = asyncio.run(main(limited_workers.port))
    assert (statuses.count(200), statuses.count(429)) == (10, 40)


async def ask_cut_and_resume(service: RunningService) -> None:
    """Start an answer, drop the connection, and read the rest from whichever worker accepts the connection."""
    response = await send_request(service.port, CHAT, {**SIM_BODY, "resume": True})
    before = await response.reader.readuntil(b'data: {"content"')
    response.drop()
    # The last event was cut: continue after the one before it.
    events = sse.Decoder().feed(before[before.index(b"id: ") : before.rindex(b"id: ")].replace(b"\r\n", b"\n"))
    seen = before.rpartition(b"\nid: ")[0].rpartition(b"id: ")[2].split(b"\n")[0].decode()
    stream_id = seen.rpartition(":")[0]
    assert events
    status, _, rest = await resume_stream(service.port, stream_id, seen)
    while status == 404:  # the other worker's copy is a little behind at first
        status, _, rest = await resume_stream(service.port, stream_id, seen)
    assert status == 200
    numbers = [int(event.id.rpartition(":")[2]) for event in sse.Decoder().feed(rest)]
    first = int(seen.rpartition(":")[2]) + 1
    assert numbers == list(range(first, first + len(numbers)))
    assert rest.endswith(b"data: [DONE]\n\n")


async def resume_stream(port: int, stream_id: str, last_id: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"last-event-id": last_id}
    sent = await send_request(port, f"/api/chat/stream/{stream_id}", method="GET", headers=headers)
    return await sent.read_response()


def count_completed(metrics: Mapping[str, float]) -> float:
    return sum(v for k, v in metrics.items() if k.startswith("streamgauge_answers_total{") and "completed" in k)


def test_killed_worker_is_replaced_and_streams_resume_across_workers(redis: RedisProcess) -> None:
    async def work(service: RunningService) -> None:
        await asyncio.gather(*(ask_cut_and_resume(service) for _ in range(8)))
        assert count_completed(await scrape_metrics(service.port)) == 8  # of both workers, whichever is asked
        long = {
            **SIM_BODY,
            "provider": "sim:slow-start",
            "max_tokens": 2000,
        }  # for as long as another worker takes to start
        held = [await send_request(service.port, CHAT, long) for _ in range(8)]
        for connection in held:
            await connection.reader.readuntil(b"start")
        assert count_open_streams(await scrape_metrics(service.port)) == 8
        killed, other = service.workers()
        os.kill(killed, signal.SIGKILL)
        await wait_until(lambda: len(service.workers()) == 2 and killed not in service.workers(), every_s=0.05)
        assert other in service.workers()
        for connection in held:
            connection.drop()
        async with asyncio.timeout(120):  # the new worker forgets what the dead one had under way
            while count_open_streams(result := await scrape_metrics(service.port)):  # noqa: ASYNC110 - the other party sets no event
                await asyncio.sleep(0.1)
        assert count_completed(result) == 8
        await asyncio.gather(*(ask_cut_and_resume(service) for _ in range(4)))
        assert count_completed(await scrape_metrics(service.port)) == 12

    with run_two_workers(redis, 7) as service:
        asyncio.run(work(service))
        assert service.stop_and_wait() == 0
        assert "Traceback" not in service.stderr_text()


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 429), ("0.0.0.0", 404)])
def test_workers_offer_models_by_listening_address(redis: RedisProcess, host: str, status: int) -> None:
    async def main(port: int) -> int:
        body = {"message": "hi", "provider": "openai:o1-pro", "max_tokens": 1000}
        return (await (await send_request(port, CHAT, body)).read_response())[0]

    variables = {
        "RATE_LIMIT": "10/minute",
        "REDIS_TIMEOUT_S": PATIENT_S,
        "BUDGET_USD_PER_CALLER": "0.0001",
        "OPENAI_API_KEY": "sk-0123456789",
    }
    with run_service("--workers", "2", "--host", host, REDIS_URL=redis.url, **variables) as service:
        assert asyncio.run(main(service.port)) == status


def test_signalled_workers_finish_answers_and_reject_new_ones(redis: RedisProcess) -> None:
    async def main(service: RunningService) -> list[bytes]:
        responses = [
            await send_request(service.port, CHAT, {**SIM_BODY, "provider": "sim:slow-start", "max_tokens": 200})
            for _ in range(6)
        ]
        for connection in responses:
            await connection.reader.readuntil(b"start")
        ends = [asyncio.create_task(connection.read_rest()) for connection in responses]
        service.process.send_signal(signal.SIGTERM)
        await service.wait_port_closed()
        assert not any(end.done() for end in ends)
        return await asyncio.gather(*ends)

    with run_two_workers(redis, 5) as service:
        bodies = asyncio.run(main(service))
        assert service.process.wait(120) == 0
        assert "Traceback" not in service.stderr_text()
    assert all(body.count(b"data: [DONE]") == 1 for body in bodies)


def test_second_interrupt_ends_workers_at_once(redis: RedisProcess) -> None:
    async def main(service: RunningService) -> None:
        response = await send_request(service.port, CHAT, {**SIM_BODY, "provider": "openai:m", "max_tokens": 5000})
        await response.reader.readuntil(b"start")
        workers = service.workers()
        service.process.send_signal(signal.SIGINT)
        await service.wait_port_closed()
        service.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(service.process.wait, 20)  # before the grace period is over
        assert b"[DONE]" not in await response.read_rest()
        for worker in workers:
            with pytest.raises(ProcessLookupError):
                os.kill(worker, 0)

    with (
        run_simulator_process("--tokens", "5000", "--gap-ms", "20") as upstream,
        run_two_workers(redis, 6, OPENAI_BASE_URL=f"{upstream}/v1", OPENAI_API_KEY="k") as service,
    ):
        asyncio.run(main(service))
        assert "Traceback" not in service.stderr_text()


def test_failing_workers_end_command_with_failure() -> None:
    code = (
        "import socket, sys; from server import uvicorn_server;"
        "listener = socket.create_server(('127.0.0.1', 0));"
        "config = uvicorn_server.uvicorn_config('server.nowhere:app', grace_s=1, workers=2);"
        "workers = uvicorn_server.WorkerSupervisor(config, [listener]);"
        "workers.run(); sys.exit(7 if workers.failed else 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 7
    assert "Streamgauge listens at" not in done.stdout


def test_worker_that_does_not_end_is_aborted(tmp_path: Path) -> None:
    (tmp_path / "stuck_worker.py").write_text(
        "import threading\n"
        "async def app(scope, receive, send):\n"
        "    while True:\n"
        "        kind = (await receive())['type']\n"
        "        if kind == 'lifespan.shutdown':\n"
        "            threading.Event().wait()\n"
        "        await send({'type': kind + '.complete'})\n"
    )
    code = (
        "import socket; from server import uvicorn_server;"
        "listener = socket.create_server(('127.0.0.1', 0));"
        "config = uvicorn_server.uvicorn_config('stuck_worker:app', grace_s=0, workers=2); config.factory = False;"
        "workers = uvicorn_server.WorkerSupervisor(config, [listener]);"
        "workers.cleanup_timeout_s = 0.5; workers.run()"
    )
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=ROOT, env=paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Streamgauge listens at")
        process.terminate()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert errors.count("did not end in time, so it is aborted") == 2
