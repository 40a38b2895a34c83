"""Several processes as one service: limits, streams and figures are shared; one that dies is replaced."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
import websockets

from streaming import sse
from streaming.events import Event
from streaming.messages import ChatRequest
from tests.integration.started import ROOT, Started, started
from tests.integration.watched import Connection, open_streams, request, scraped
from tests.playing import PlayingAdapter, words
from tests.redis_process import RedisProcess, redis_server
from tests.serving import Played, serving, until

CHAT, COMPLETIONS, SOCKET = "/api/chat", "/v1/chat/completions", "/api/chat/ws"
ASK = {"message": "Name three colours.", "provider": "p", "strategy": "direct", "stream": False}
QUESTION = {"model": "p", "messages": [{"role": "user", "content": "a"}]}
SIM = {"message": "Name three colours.", "provider": "sim:steady", "strategy": "direct"}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with redis_server() as server:
        yield server


@asynccontextmanager
async def replicas(
    redis: RedisProcess, number: int, adapter: PlayingAdapter, variables: Mapping[str, str]
) -> AsyncIterator[list[int]]:
    """Run three services that share the database with that number; give their ports."""
    url = redis.url.removesuffix("/0") + f"/{number}"
    async with AsyncExitStack() as stack:
        variables = {**variables, "REDIS_URL": url}
        yield [await stack.enter_async_context(serving(Played(adapter), variables)) for _ in range(3)]


async def by_http(port: int, path: str) -> int:
    body = QUESTION if path == COMPLETIONS else ASK
    status, headers, _ = await (await request(port, path, body)).response()
    assert status != 429 or 1 <= int(headers["retry-after"]) <= 61
    return status


async def by_socket(port: int) -> int:
    async with websockets.connect(f"ws://127.0.0.1:{port}{SOCKET}") as talk:
        await talk.send(json.dumps({**ASK, "stream": True}))
        while (frame := json.loads(await talk.recv()))["type"] not in ("done", "error"):
            pass
        return 200 if frame["type"] == "done" else 429 if frame["error"]["rule"] == "rate" else 500


def test_fifty_at_once_over_three_replicas_and_all_wires_are_one_callers_ten(redis: RedisProcess) -> None:
    async def one(ports: list[int], number: int) -> int:
        port, path = ports[number % 3], (CHAT, COMPLETIONS, SOCKET)[number // 3 % 3]
        return await (by_socket(port) if path == SOCKET else by_http(port, path))

    async def main() -> list[int]:
        # All under way at once, and with the budgets as they are by default: it is the rate that says no.
        async with replicas(redis, 1, PlayingAdapter(words(2, first_s=2.0)), {"RATE_LIMIT": "10/minute"}) as ports:
            return await asyncio.gather(*(one(ports, number) for number in range(50)))

    statuses = asyncio.run(main())
    assert (statuses.count(200), statuses.count(429)) == (10, 40)


def test_streams_under_way_are_counted_over_all_replicas_and_given_back(redis: RedisProcess) -> None:
    streamed = {**ASK, "stream": True}

    async def main() -> tuple[list[Connection], dict[str, Any], int]:
        adapter = PlayingAdapter(words(9000, first_s=0.0, gap_s=0.02))
        variables = {"RATE_LIMIT": "off", "BUDGET_STREAMS_PER_CALLER": "3"}
        async with replicas(redis, 2, adapter, variables) as ports:
            asked = [await request(port, CHAT, streamed) for port in ports]
            await until(lambda: adapter.open == 3)
            status, _, refused = await (await request(ports[0], CHAT, streamed)).response()
            assert status == 429
            asked[2].leave()
            await until(lambda: adapter.open == 2)
            while True:  # what it took is given back right after
                again = await request(ports[1], CHAT, streamed)
                if (line := await again.reader.readline()).startswith(b"HTTP/1.1 200"):
                    break
                assert line.startswith(b"HTTP/1.1 429")
                again.leave()
            for connection in (*asked, again):
                connection.leave()
            return asked, json.loads(refused), adapter.open

    _, refused, _ = asyncio.run(main())
    assert refused["error"]["rule"] == "budget.streams"


def test_a_socket_at_another_replica_continues_a_stream_and_stops_it(redis: RedisProcess) -> None:
    async def main() -> tuple[list[dict[str, Any]], int]:
        adapter = PlayingAdapter(words(9000, first_s=0.0, gap_s=0.02))
        async with replicas(redis, 3, adapter, {"RATE_LIMIT": "off"}) as ports:
            asked = await request(ports[0], CHAT, {**ASK, "stream": True, "resume": True})
            start = await asked.reader.readuntil(b":1\nevent: start\ndata: {")
            stream_id = start.rpartition(b"id: ")[2].partition(b":")[0].decode()
            async with websockets.connect(f"ws://127.0.0.1:{ports[1]}{SOCKET}") as talk:
                frames: list[dict[str, Any]] = []
                while not frames or frames[-1]["type"] == "error":  # the copy is a little behind at first
                    await talk.send(json.dumps({"type": "resume", "stream_id": stream_id, "last_id": 1}))
                    frames = [json.loads(await talk.recv())]
                await talk.send('{"type": "cancel"}')
                while frames[-1]["type"] != "cancelled":
                    frames.append(json.loads(await talk.recv()))
            told = await asked.rest()
            assert told.count(b"event: cancelled") == 1
            return frames, adapter.open

    frames, still_open = asyncio.run(main())
    assert [int(frame["id"].rpartition(":")[2]) for frame in frames] == list(range(2, len(frames) + 2))
    assert (frames[-1]["outcome"], still_open) == ("cancelled", 0)


class Held(PlayingAdapter):
    """Says nothing before it may."""

    def __init__(self, may: asyncio.Event) -> None:
        super().__init__(words(2, first_s=0.0))
        self._may = may

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        await self._may.wait()
        async with aclosing(super().stream(request)) as events:
            async for event in events:
                yield event


def test_more_readers_of_another_replica_than_a_pool_of_connections_holds(redis: RedisProcess) -> None:
    asked = {**ASK, "stream": True, "resume": True}

    async def begun(port: int) -> str:
        connection = await request(port, CHAT, asked)
        start = await connection.reader.readuntil(b":1\nevent: start\ndata: {")
        connection.leave()
        return start.rpartition(b"id: ")[2].partition(b":")[0].decode()

    async def read(port: int, stream_id: str, go: asyncio.Event) -> bytes:
        while True:  # on a busy machine the copy is behind for longer than the service waits for it
            connection = await request(port, f"/api/chat/stream/{stream_id}", method="GET")
            if (line := await connection.reader.readline()).startswith(b"HTTP/1.1 200"):
                break
            connection.leave()
        head = line + await connection.reader.readuntil(b"event: start\n")
        waiting.append(stream_id)
        if len(waiting) == 120:
            go.set()
        await go.wait()
        return head + await connection.rest()

    waiting: list[str] = []

    async def main() -> list[bytes]:
        go = asyncio.Event()
        async with replicas(redis, 4, Held(go), {"RATE_LIMIT": "off"}) as ports, asyncio.timeout(60):
            ids = [await begun(ports[0]) for _ in range(120)]
            return await asyncio.gather(*(read(ports[1], stream_id, go) for stream_id in ids))

    answers = asyncio.run(main())
    assert all(answer.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in answer for answer in answers)


def test_a_redis_that_hangs_is_not_waited_for(redis: RedisProcess) -> None:
    async def main() -> list[int]:
        async with replicas(redis, 5, PlayingAdapter(words(1)), {"RATE_LIMIT": "off"}) as ports:
            with redis.hanging():
                async with asyncio.timeout(5):
                    asked = [await request(ports[0], f"{CHAT}/stream/x", method=method) for method in ("GET", "DELETE")]
                    return [(await connection.response())[0] for connection in asked]

    assert asyncio.run(main()) == [404, 404]


def two_workers(redis: RedisProcess, number: int, **variables: str) -> Any:
    url = redis.url.removesuffix("/0") + f"/{number}"
    return started("--workers", "2", REDIS_URL=url, **{"RATE_LIMIT": "off", "BUDGETS": "off", **variables})


def test_workers_check_the_host_where_they_listen(redis: RedisProcess) -> None:
    async def main(port: int) -> list[int]:
        hosts = ["localhost", "evil.example", "chat.example"] * 4
        asked = [await request(port, "/healthz", method="GET", headers={"host": host}) for host in hosts]
        return [(await one.response())[0] for one in asked]

    with two_workers(redis, 9, ALLOWED_HOSTS="chat.example") as service:
        assert asyncio.run(main(service.port)) == [200, 421, 200] * 4


async def resumed(service: Started) -> None:
    """Ask, be cut off, and read the rest, from whichever worker takes the connection."""
    asked = await request(service.port, CHAT, {**SIM, "resume": True})
    before = await asked.reader.readuntil(b'data: {"content"')
    asked.leave()
    # The last event was cut: continue after the one before it.
    events = sse.Decoder().feed(before[before.index(b"id: ") : before.rindex(b"id: ")].replace(b"\r\n", b"\n"))
    seen = before.rpartition(b"\nid: ")[0].rpartition(b"id: ")[2].split(b"\n")[0].decode()
    stream_id = seen.rpartition(":")[0]
    assert events
    status, _, rest = await resume(service.port, stream_id, seen)
    while status == 404:  # the other worker's copy is a little behind at first
        status, _, rest = await resume(service.port, stream_id, seen)
    assert status == 200
    numbers = [int(event.id.rpartition(":")[2]) for event in sse.Decoder().feed(rest)]
    first = int(seen.rpartition(":")[2]) + 1
    assert numbers == list(range(first, first + len(numbers)))
    assert rest.endswith(b"data: [DONE]\n\n")


async def resume(port: int, stream_id: str, last_id: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"last-event-id": last_id}
    sent = await request(port, f"/api/chat/stream/{stream_id}", method="GET", headers=headers)
    return await sent.response()


def answered(metrics: Mapping[str, float]) -> float:
    return sum(v for k, v in metrics.items() if k.startswith("streamgauge_answers_total{") and "completed" in k)


def test_two_workers_answer_as_one_and_one_that_is_killed_is_replaced(redis: RedisProcess) -> None:
    async def work(service: Started) -> None:
        await asyncio.gather(*(resumed(service) for _ in range(8)))
        assert answered(await scraped(service.port)) == 8  # of both workers, whichever is asked
        long = {**SIM, "provider": "sim:slow-start", "max_tokens": 2000}  # for as long as another worker takes to start
        held = [await request(service.port, CHAT, long) for _ in range(8)]
        for connection in held:
            await connection.reader.readuntil(b"start")
        assert open_streams(await scraped(service.port)) == 8
        killed, other = service.workers()
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(service.workers()) == 2 and killed not in service.workers(), every_s=0.05)
        assert other in service.workers()
        for connection in held:
            connection.leave()
        async with asyncio.timeout(30):  # the new worker forgets what the dead one had under way
            while open_streams(found := await scraped(service.port)):  # noqa: ASYNC110 - the other party sets no event
                await asyncio.sleep(0.1)
        assert answered(found) == 8
        await asyncio.gather(*(resumed(service) for _ in range(4)))
        assert answered(await scraped(service.port)) == 12

    with two_workers(redis, 7) as service:
        asyncio.run(work(service))
        assert service.end() == 0
        assert "Traceback" not in service.said()


def test_two_workers_share_one_callers_ten(redis: RedisProcess) -> None:
    async def main(port: int) -> list[int]:
        body = {**SIM, "stream": False, "max_tokens": 1}
        asked = [await request(port, CHAT, body) for _ in range(50)]
        return [(await connection.response())[0] for connection in asked]

    with two_workers(redis, 4, RATE_LIMIT="10/minute") as service:
        statuses = asyncio.run(main(service.port))
    assert (statuses.count(200), statuses.count(429)) == (10, 40)


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 429), ("0.0.0.0", 404)])
def test_workers_offer_models_by_the_address_that_they_listen_on(redis: RedisProcess, host: str, status: int) -> None:
    async def main(port: int) -> int:
        body = {"message": "hi", "provider": "openai:o1-pro", "max_tokens": 1000}
        return (await (await request(port, CHAT, body)).response())[0]

    variables = {"RATE_LIMIT": "10/minute", "BUDGET_USD_PER_CALLER": "0.0001", "OPENAI_API_KEY": "sk-0123456789"}
    with started("--workers", "2", "--host", host, REDIS_URL=redis.url, **variables) as service:
        assert asyncio.run(main(service.port)) == status


def test_workers_that_are_told_to_stop_end_their_answers_and_take_no_more(redis: RedisProcess) -> None:
    async def main(service: Started) -> list[bytes]:
        asked = [await request(service.port, CHAT, {**SIM, "provider": "sim:slow-start"}) for _ in range(6)]
        for connection in asked:
            await connection.reader.readuntil(b"start")
        ends = [asyncio.create_task(connection.rest()) for connection in asked]
        service.process.send_signal(signal.SIGTERM)
        await service.refuses()
        assert not any(end.done() for end in ends)
        return await asyncio.gather(*ends)

    with two_workers(redis, 5) as service:
        bodies = asyncio.run(main(service))
        assert service.process.wait(20) == 0
        assert "Traceback" not in service.said()
    assert all(body.count(b"data: [DONE]") == 1 for body in bodies)


def test_a_second_interrupt_ends_the_workers_at_once(redis: RedisProcess) -> None:
    async def main(service: Started) -> None:
        asked = await request(service.port, CHAT, {**SIM, "provider": "sim:slow-start"})
        await asked.reader.readuntil(b"start")
        workers = service.workers()
        service.process.send_signal(signal.SIGINT)
        await service.refuses()
        service.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(service.process.wait, 10)
        assert b"[DONE]" not in await asked.rest()
        for worker in workers:
            with pytest.raises(ProcessLookupError):
                os.kill(worker, 0)

    with two_workers(redis, 6) as service:
        asyncio.run(main(service))
        assert "Traceback" not in service.said()


def test_workers_that_cannot_start_end_the_command_with_a_failure() -> None:
    code = (
        "import socket, sys; from server import draining;"
        "listener = socket.create_server(('127.0.0.1', 0));"
        "workers = draining.Workers(draining.config('server.nowhere:app', grace_s=1, workers=2), [listener]);"
        "workers.run(); sys.exit(7 if workers.failed else 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7
    assert "Streamgauge is at" not in done.stdout
