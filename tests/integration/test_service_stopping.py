"""Stopping over every wire of the service: the simulator's own log says when the provider's client was gone."""

import asyncio
import gc
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import websockets

from streaming.clock import monotonic
from tests.integration.watched import (
    Connection,
    Simulated,
    open_streams,
    request,
    scraped,
    serving_simulated,
    simulated,
)
from tests.serving import until

Leave = Callable[[], Awaitable[None]]

ASK = {"message": "Name three colours.", "strategy": "direct"}
CHAT, OPENAI, SOCKET = "/api/chat", "/v1/chat/completions", "/api/chat/ws"
ABORTED = int(os.environ.get("ABORTED_STREAMS", "200"))
"""Streams left on each wire, after some that let pools and caches fill; ABORTED_STREAMS=2000 makes it a longer look."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with simulated("--tokens", "3000") as running:
        yield running


async def over_http(port: int, path: str, model: str, request_id: str, streamed: bool) -> Connection:
    name = f"openai:{model}"
    body = (
        {"model": name, "messages": [{"role": "user", "content": "Hello?"}], "stream": streamed, "strategy": "direct"}
        if path == OPENAI
        else {**ASK, "provider": name, "stream": streamed}
    )
    return await request(port, path, body, headers={"x-client-request-id": request_id})


async def left(connection: Connection) -> None:
    connection.leave()


async def by_leaving(path: str, streamed: bool, port: int, model: str, request_id: str) -> Leave:
    connection = await over_http(port, path, model, request_id, streamed)
    return lambda: left(connection)


async def by_delete(port: int, model: str, request_id: str) -> Leave:
    connection = await over_http(port, CHAT, model, request_id, True)
    start = await connection.reader.readuntil(b'event: start\ndata: {"stream_id":"')
    stream_id = (await connection.reader.readuntil(b'"'))[:-1].decode()
    assert start.startswith(b"HTTP/1.1 200")

    async def delete() -> None:
        status, _, body = await (await request(port, f"/api/chat/stream/{stream_id}", method="DELETE")).response()
        assert (status, json.loads(body)["outcome"]) == (200, "cancelled")
        assert json.loads(body)["stop_s"] < 1
        told = await connection.reader.read()
        assert told.count(b"event: cancelled") == 1 and b"[DONE]" not in told
        connection.leave()

    return delete


async def by_socket(cancels: bool, port: int, model: str, request_id: str) -> Leave:
    url = f"ws://127.0.0.1:{port}{SOCKET}"
    socket = await websockets.connect(url, additional_headers={"X-Client-Request-Id": request_id})
    await socket.send(json.dumps({**ASK, "provider": f"openai:{model}"}))

    async def stop() -> None:
        if cancels:
            await socket.send('{"type": "cancel"}')
            while json.loads(await socket.recv())["type"] != "cancelled":
                pass
        socket.transport.abort()

    return stop


Edge = Callable[[int, str, str], Awaitable[Leave]]


def leaving(path: str, streamed: bool) -> Edge:
    return lambda port, model, request_id: by_leaving(path, streamed, port, model, request_id)


def socket(cancels: bool) -> Edge:
    return lambda port, model, request_id: by_socket(cancels, port, model, request_id)


STREAMED: dict[str, Edge] = {
    "sse left": leaving(CHAT, True),
    "openai left": leaving(OPENAI, True),
    "websocket left": socket(False),
    "websocket cancelled": socket(True),
    "sse deleted": by_delete,
}
WHOLE: dict[str, Edge] = {"json left": leaving(CHAT, False), "openai json left": leaving(OPENAI, False)}
PHASES: dict[str, tuple[str, str, int, dict[str, Edge]]] = {
    "before the first token": ("slow-start", "received", 1, STREAMED),
    "mid-stream": ("steady", "sent", 10, STREAMED),
    "in a call that is not streamed": ("steady", "received", 1, WHOLE),
}


@pytest.mark.parametrize("phase", PHASES)
def test_the_provider_is_left_within_a_second_over_every_wire(
    simulator: Simulated, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, sign, count, edges = PHASES[phase]
    ids = {name: f"{phase}-{name}".replace(" ", "-") for name in edges}

    async def stop(port: int, name: str) -> float:
        request_id = ids[name]
        act = await edges[name](port, model, request_id)
        await until(lambda: len(simulator.events(request_id, sign)) >= count, every_s=0.05)
        asked_s = monotonic()
        await act()
        await until(lambda: bool(simulator.events(request_id, "closed")), every_s=0.05)
        (closed,) = simulator.events(request_id, "closed")
        assert closed["by"] == "client", name
        return float(closed["at_s"]) - asked_s

    async def main() -> tuple[dict[str, float], dict[str, float]]:
        async with serving_simulated(simulator) as port:
            took_s = {name: await stop(port, name) for name in edges}
            await until(lambda: len(_answers(caplog)) == len(edges))
            return took_s, await scraped(port)

    with caplog.at_level(logging.INFO, "streamgauge"):
        took_s, metrics = asyncio.run(main())
    assert max(took_s.values()) < 1.0, took_s
    lines = _answers(caplog)
    assert set(lines) == set(ids.values())
    for line in lines.values():
        assert (line["outcome"], line["finish_reason"], line["error"]) == ("cancelled", None, None)
        assert line["stop_s"] < 1  # type: ignore[operator]  # a number, or the test fails
        if phase == "mid-stream":
            assert line["delivered_chars"] > 0 and line["output_tokens"] > 0  # type: ignore[operator]  # the same
            assert line["cost_usd"] == line["output_tokens"]
    assert open_streams(metrics) == 0
    cancelled = [v for k, v in metrics.items() if k.startswith("streamgauge_answers_total{") and "cancelled" in k]
    assert sum(cancelled) == len(edges)
    if phase == "mid-stream":
        billed = sum(line["output_tokens"] for line in lines.values())  # type: ignore[misc]  # numbers, as above
        assert metrics['streamgauge_cost_usd_total{provider="openai"}'] == billed


def test_while_waiting_to_retry_nothing_more_is_asked(simulator: Simulated, caplog: pytest.LogCaptureFixture) -> None:
    edges = {**STREAMED, **WHOLE}
    ids = {name: f"retrying-{name}".replace(" ", "-") for name in edges}

    async def main() -> None:
        async with serving_simulated(simulator) as port:
            acts = [await edge(port, "fault-503", ids[name]) for name, edge in edges.items()]
            await until(lambda: all(simulator.events(i, "closed") for i in ids.values()), every_s=0.05)
            await asyncio.gather(*(act() for act in acts))
            await until(lambda: len(_answers(caplog)) == len(edges))
            # Twice the wait before a retry later, by the simulator's schedule, nothing of them has come.
            later = await over_http(port, CHAT, "slow-start", "later", True)
            await until(lambda: bool(simulator.events("later", "sent")), every_s=0.05)
            later.leave()

    with caplog.at_level(logging.INFO, "streamgauge"):
        asyncio.run(main())
    assert {len(simulator.events(i, "received")) for i in ids.values()} == {1}
    assert {_answers(caplog)[i]["outcome"] for i in ids.values()} == {"cancelled"}


def _answers(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, object]]:
    found = [record.fields for record in caplog.records if hasattr(record, "fields")]
    return {fields["request_id"]: fields for fields in found}


async def aborted_http(port: int, path: str, number: int) -> None:
    connection = await over_http(port, path, "steady", f"{path}-{number}", True)
    if number % 4:  # else asked and left at once
        await connection.reader.readuntil(b"\r\n\r\n")
    for _ in range(number % 4 - 1):
        await connection.reader.readuntil(b"data: ")
    connection.leave()


async def aborted_socket(port: int, path: str, number: int) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{port}{path}") as socket:
        await socket.send(json.dumps({**ASK, "provider": "openai:steady"}))
        for _ in range(number % 4):
            await socket.recv()
        socket.transport.abort()


def test_hundreds_of_aborted_streams_leave_nothing_behind() -> None:
    async def abort(port: int, path: str, first: int, count: int) -> None:
        one = aborted_socket if path == SOCKET else aborted_http
        for start in range(first, first + count, 50):
            await asyncio.gather(*(one(port, path, n) for n in range(start, min(start + 50, first + count))))

    async def main(simulator: Simulated) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        async with serving_simulated(simulator) as port:
            for path in (CHAT, OPENAI, SOCKET):
                await abort(port, path, 0, 50)
            await _settled(simulator, port)
            before = _held()
            for path in (CHAT, OPENAI, SOCKET):
                await abort(port, path, 50, ABORTED)
            await _settled(simulator, port)
            return before, _held()

    with simulated("--ttft-ms", "1", "--gap-ms", "20", "--tokens", "5000") as simulator:
        (tasks, files, memory_kb), (tasks_after, files_after, memory_after_kb) = asyncio.run(main(simulator))
    assert tasks_after - tasks <= 5
    assert files_after - files <= 5
    assert memory_after_kb - memory_kb <= 20_000


async def _settled(simulator: Simulated, port: int) -> None:
    async with asyncio.timeout(10):
        while simulator.open() or open_streams(await scraped(port)):  # noqa: ASYNC110 - the other party sets no event
            await asyncio.sleep(0.2)


def _held() -> tuple[int, int, int]:
    """Give this process's tasks, descriptors and resident memory in KB."""
    gc.collect()
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), int(resident.split()[1])
