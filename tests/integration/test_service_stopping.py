"""Cancellation over every transport of the service: the simulator's log records the disconnect."""

import asyncio
import gc
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import websockets

from tests.asgi_server import wait_until
from tests.integration.service_over_simulator import (
    SentRequest,
    SimulatorWithLog,
    count_open_streams,
    run_simulator,
    scrape_metrics,
    send_request,
    serve_simulator,
)

Leave = Callable[[], Awaitable[None]]

CHAT_BODY = {"message": "Name three colours.", "strategy": "direct"}
CHAT, OPENAI, SOCKET = "/api/chat", "/v1/chat/completions", "/api/chat/ws"
ABORTED_STREAMS = int(os.environ.get("ABORTED_STREAMS", "200"))
"""Aborted streams per transport, after some that fill pools and caches; ABORTED_STREAMS=2000 runs a longer test."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorWithLog]:
    with run_simulator("--tokens", "3000") as running:
        yield running


async def ask_over_http(port: int, path: str, model: str, request_id: str, streamed: bool) -> SentRequest:
    name = f"openai:{model}"
    body = (
        {"model": name, "messages": [{"role": "user", "content": "Hello?"}], "stream": streamed, "strategy": "direct"}
        if path == OPENAI
        else {**CHAT_BODY, "provider": name, "stream": streamed}
    )
    return await send_request(port, path, body, headers={"x-client-request-id": request_id})


async def leave(connection: SentRequest) -> None:
    connection.drop()


async def stop_by_leaving(path: str, streamed: bool, port: int, model: str, request_id: str) -> Leave:
    connection = await ask_over_http(port, path, model, request_id, streamed)
    return lambda: leave(connection)


async def stop_by_delete(port: int, model: str, request_id: str) -> Leave:
    connection = await ask_over_http(port, CHAT, model, request_id, True)
    start = await connection.reader.readuntil(b'event: start\ndata: {"stream_id":"')
    stream_id = (await connection.reader.readuntil(b'"'))[:-1].decode()
    assert start.startswith(b"HTTP/1.1 200")

    async def delete_stream() -> None:
        status, _, body = await (
            await send_request(port, f"/api/chat/stream/{stream_id}", method="DELETE")
        ).read_response()
        assert (status, json.loads(body)["outcome"]) == (200, "cancelled")
        assert json.loads(body)["stop_s"] >= 0
        result = await connection.reader.read()
        assert result.count(b"event: cancelled") == 1 and b"[DONE]" not in result
        connection.drop()

    return delete_stream


async def stop_over_websocket(cancels: bool, port: int, model: str, request_id: str) -> Leave:
    url = f"ws://127.0.0.1:{port}{SOCKET}"
    socket = await websockets.connect(url, additional_headers={"X-Client-Request-Id": request_id})
    await socket.send(json.dumps({**CHAT_BODY, "provider": f"openai:{model}"}))

    async def cancel_or_close() -> None:
        if cancels:
            await socket.send('{"type": "cancel"}')
            while json.loads(await socket.recv())["type"] != "cancelled":
                pass
        socket.transport.abort()

    return cancel_or_close


Edge = Callable[[int, str, str], Awaitable[Leave]]


def leaving_edge(path: str, streamed: bool) -> Edge:
    return lambda port, model, request_id: stop_by_leaving(path, streamed, port, model, request_id)


def websocket_edge(cancels: bool) -> Edge:
    return lambda port, model, request_id: stop_over_websocket(cancels, port, model, request_id)


STREAMED_EDGES: dict[str, Edge] = {
    "sse left": leaving_edge(CHAT, True),
    "openai left": leaving_edge(OPENAI, True),
    "websocket left": websocket_edge(False),
    "websocket cancelled": websocket_edge(True),
    "sse deleted": stop_by_delete,
}
WHOLE_EDGES: dict[str, Edge] = {"json left": leaving_edge(CHAT, False), "openai json left": leaving_edge(OPENAI, False)}
PHASES: dict[str, tuple[str, str, int, dict[str, Edge]]] = {
    "before the first token": ("slow-start", "received", 1, STREAMED_EDGES),
    "mid-stream": ("steady", "sent", 10, STREAMED_EDGES),
    "in a call that is not streamed": ("steady", "received", 1, WHOLE_EDGES),
}


@pytest.mark.parametrize("phase", PHASES)
def test_stop_over_every_transport_disconnects_from_provider(
    simulator: SimulatorWithLog, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, sign, count, edges = PHASES[phase]
    ids = {name: f"{phase}-{name}".replace(" ", "-") for name in edges}

    async def stop(port: int, name: str) -> None:
        request_id = ids[name]
        act = await edges[name](port, model, request_id)
        await wait_until(lambda: len(simulator.events_of_request(request_id, sign)) >= count, every_s=0.05)
        await act()
        await wait_until(lambda: bool(simulator.events_of_request(request_id, "closed")), every_s=0.05)
        (closed,) = simulator.events_of_request(request_id, "closed")
        assert closed["by"] == "client", name

    async def main() -> dict[str, float]:
        async with serve_simulator(simulator) as port:
            for name in edges:
                await stop(port, name)
            await wait_until(lambda: len(_logged_answers(caplog)) == len(edges))
            return await scrape_metrics(port)

    with caplog.at_level(logging.INFO, "streamgauge"):
        metrics = asyncio.run(main())
    lines = _logged_answers(caplog)
    assert set(lines) == set(ids.values())
    for line in lines.values():
        assert (line["outcome"], line["finish_reason"], line["error"]) == ("cancelled", None, None)
        assert line["stop_s"] >= 0  # type: ignore[operator]  # a number, or the test fails
        if phase == "mid-stream":
            assert line["delivered_chars"] > 0 and line["output_tokens"] > 0  # type: ignore[operator]  # the same
            assert line["cost_usd"] == line["output_tokens"]
    assert count_open_streams(metrics) == 0
    cancelled = [v for k, v in metrics.items() if k.startswith("streamgauge_answers_total{") and "cancelled" in k]
    assert sum(cancelled) == len(edges)
    if phase == "mid-stream":
        billed = sum(line["output_tokens"] for line in lines.values())  # type: ignore[misc]  # numbers, as above
        assert metrics['streamgauge_cost_usd_total{provider="openai"}'] == billed


def test_stop_during_retry_wait_sends_no_further_request(
    simulator: SimulatorWithLog, caplog: pytest.LogCaptureFixture
) -> None:
    edges = {**STREAMED_EDGES, **WHOLE_EDGES}
    ids = {name: f"retrying-{name}".replace(" ", "-") for name in edges}

    async def main() -> None:
        async with serve_simulator(simulator) as port:
            acts = [await edge(port, "fault-503", ids[name]) for name, edge in edges.items()]
            await wait_until(lambda: all(simulator.events_of_request(i, "closed") for i in ids.values()), every_s=0.05)
            await asyncio.gather(*(act() for act in acts))
            await wait_until(lambda: len(_logged_answers(caplog)) == len(edges))
            # Twice the wait before a retry later, by the simulator's schedule, nothing of them has come.
            later = await ask_over_http(port, CHAT, "slow-start", "later", True)
            await wait_until(lambda: bool(simulator.events_of_request("later", "sent")), every_s=0.05)
            later.drop()

    with caplog.at_level(logging.INFO, "streamgauge"):
        asyncio.run(main())
    assert {len(simulator.events_of_request(i, "received")) for i in ids.values()} == {1}
    assert {_logged_answers(caplog)[i]["outcome"] for i in ids.values()} == {"cancelled"}


def _logged_answers(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, object]]:
    result = [record.fields for record in caplog.records if hasattr(record, "fields")]
    return {fields["request_id"]: fields for fields in result}


async def abort_http(port: int, path: str, number: int) -> None:
    connection = await ask_over_http(port, path, "steady", f"{path}-{number}", True)
    if number % 4:  # else asked and left at once
        await connection.reader.readuntil(b"\r\n\r\n")
    for _ in range(number % 4 - 1):
        await connection.reader.readuntil(b"data: ")
    connection.drop()


async def abort_websocket(port: int, path: str, number: int) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{port}{path}") as socket:
        await socket.send(json.dumps({**CHAT_BODY, "provider": "openai:steady"}))
        for _ in range(number % 4):
            await socket.recv()
        socket.transport.abort()


def test_many_aborted_requests_leak_no_tasks_files_or_memory() -> None:
    async def abort(simulator: SimulatorWithLog, port: int, path: str, first: int, count: int) -> None:
        one = abort_websocket if path == SOCKET else abort_http
        for start in range(first, first + count, 50):
            await asyncio.gather(*(one(port, path, n) for n in range(start, min(start + 50, first + count))))
            # At most so many at once, however slowly they end: else it is the machine that decides on the memory.
            await _wait_settled(simulator, port)

    async def main(simulator: SimulatorWithLog) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        async with serve_simulator(simulator) as port:
            for path in (CHAT, OPENAI, SOCKET):
                await abort(simulator, port, path, 0, 50)
            before = _resource_usage()
            for path in (CHAT, OPENAI, SOCKET):
                await abort(simulator, port, path, 50, ABORTED_STREAMS)
            return before, _resource_usage()

    with run_simulator("--ttft-ms", "1", "--gap-ms", "20", "--tokens", "5000") as simulator:
        (tasks, files, memory_kb), (tasks_after, files_after, memory_after_kb) = asyncio.run(main(simulator))
    assert tasks_after - tasks <= 5
    assert files_after - files <= 5
    assert memory_after_kb - memory_kb <= 20_000


async def _wait_settled(simulator: SimulatorWithLog, port: int) -> None:
    async with asyncio.timeout(60):
        while simulator.count_open() or count_open_streams(await scrape_metrics(port)):  # noqa: ASYNC110 - the other party sets no event
            await asyncio.sleep(0.2)


def _resource_usage() -> tuple[int, int, int]:
    """Return this process's tasks, descriptors and resident memory in KB."""
    gc.collect()
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), int(resident.split()[1])
