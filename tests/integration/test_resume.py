"""Streams that outlive a connection: nothing lost, nothing twice, one end; in this process and at another replica."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import websockets

from server.limits import ServiceLimits
from server.streams import replication
from server.streams.buffer import BufferLimits
from server.streams.replication_intervals import ReplicationIntervals
from streaming import sse
from tests.asgi_server import (
    UNLIMITED_VARIABLES,
    HttpReply,
    SingleAdapterProviders,
    open_request,
    post_and_read,
    serve_providers,
    wait_until,
)
from tests.integration.service_over_simulator import send_request
from tests.redis_process import PATIENT_S, run_redis
from tests.scripted_adapter import ScriptedAdapter, ScriptStep, words_script

Cut = Callable[[int, int, int], Awaitable[list[sse.ServerSentEvent]]]

WORDS = 40
TEXT = "".join(f"w{i} " for i in range(WORDS))
CHAT_BODY = {"message": "Name three colours.", "provider": "p", "strategy": "direct", "resume": True}


PATIENT = ServiceLimits(replication=ReplicationIntervals(max_copy_lag_s=30.0, reply_timeout_s=30.0))
"""No result depends on how soon a busy machine copies an event or lets another replica reply."""


def make_script() -> Sequence[ScriptStep]:
    return words_script(WORDS, first_s=0.01, gap_s=0.002)


async def request(port: int, method: str, path: str, last_id: str | None = None, key: str | None = None) -> HttpReply:
    """Send a request without a body and read its response to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = f"last-event-id: {last_id}\r\n" if last_id else ""
    headers += f"authorization: Bearer {key}\r\n" if key else ""
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    lines = head.decode().split("\r\n")
    fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    if fields.get("transfer-encoding") == "chunked":
        body = b"".join(body.split(b"\r\n")[1::2])
    return HttpReply(int(lines[0].split()[1]), fields, body)


async def read_and_cut(port: int, body: dict[str, Any], events: int) -> list[sse.ServerSentEvent]:
    """Start an answer, read this number of events, and drop the connection."""
    reader, writer = await open_request(port, body)
    await reader.readuntil(b"\r\n\r\n")
    decoder, result = sse.Decoder(), list[sse.ServerSentEvent]()
    while len(result) < events:
        size = int(await reader.readline(), 16)
        result += decoder.feed(await reader.readexactly(size))
        await reader.readline()
    writer.transport.abort()
    return result[:events]


def join_text(events: Sequence[sse.ServerSentEvent]) -> str:
    texts = (json.loads(e.data)["content"] for e in events if e.event == "message" and e.data != "[DONE]")
    return "".join(texts)


def assert_one_story(events: Sequence[sse.ServerSentEvent]) -> None:
    """Assert that the events of all connections form one stream: no gap, no duplicate id, the whole text, one end."""
    numbers = [int(event.id.rpartition(":")[2]) for event in events]
    assert numbers == list(range(1, len(events) + 1))
    assert join_text(events) == TEXT
    assert [event.data for event in events].count("[DONE]") == 1
    assert [event.event for event in events].count("finish") == 1


@asynccontextmanager
async def run_services(
    count: int, adapter: ScriptedAdapter, url: str, limits: ServiceLimits = PATIENT
) -> AsyncIterator[list[int]]:
    async with AsyncExitStack() as stack:
        variables = {**UNLIMITED_VARIABLES, "REDIS_URL": url, "REDIS_TIMEOUT_S": PATIENT_S}
        yield [
            await stack.enter_async_context(
                serve_providers(SingleAdapterProviders(adapter), variables, service_limits=limits)
            )
            for _ in range(count)
        ]


async def read_over_sse(first: int, second: int, at: int) -> list[sse.ServerSentEvent]:
    """Read so many events at one service, and the rest at another."""
    before = await read_and_cut(first, CHAT_BODY, at)
    path = f"/api/chat/stream/{before[0].id.rpartition(':')[0]}"
    reply = await request(second, "GET", path, before[-1].id)
    assert reply.status == 200, reply.body
    return before + reply.sse_events()


async def read_over_websocket(first: int, second: int, at: int) -> list[sse.ServerSentEvent]:
    """Do the same over sockets; the frames are given as events."""
    async with websockets.connect(f"ws://127.0.0.1:{first}/api/chat/ws") as socket:
        await socket.send(json.dumps(CHAT_BODY))
        frames = [json.loads(await socket.recv()) for _ in range(at)]
        socket.transport.abort()
    async with websockets.connect(f"ws://127.0.0.1:{second}/api/chat/ws") as socket:
        resume = {"type": "resume", "stream_id": frames[0]["stream_id"], "last_id": frames[-1]["id"]}
        await socket.send(json.dumps(resume))
        while frames[-1]["type"] != "done":
            frames.append(json.loads(await socket.recv()))
    names = {"chunk": "message", "done": "message"}
    return [
        sse.ServerSentEvent(
            "[DONE]" if frame["type"] == "done" else json.dumps(frame),
            names.get(frame["type"], frame["type"]),
            frame["id"],
        )
        for frame in frames
    ]


@pytest.mark.parametrize("cut", [read_over_sse, read_over_websocket])
@pytest.mark.parametrize("replica", [False, True], ids=["memory", "redis"])
def test_cut_stream_resumes_anywhere_without_loss(replica: bool, cut: Cut) -> None:
    async def main(url: str | None) -> list[list[sse.ServerSentEvent]]:
        adapter = ScriptedAdapter(make_script())
        points = random.Random(7).choices(range(1, WORDS + 2), k=100)
        async with AsyncExitStack() as stack:
            if url is None:
                ports = [await stack.enter_async_context(serve_providers(SingleAdapterProviders(adapter)))] * 2
            else:
                ports = await stack.enter_async_context(run_services(2, adapter, url))
            result = []
            for start in range(0, 100, 20):
                result += await asyncio.gather(*(cut(ports[0], ports[1], at) for at in points[start : start + 20]))
            return result

    if replica:
        with run_redis() as redis:
            stories = asyncio.run(main(redis.url))
    else:
        stories = asyncio.run(main(None))
    assert len(stories) == 100
    for events in stories:
        assert_one_story(events)


def test_websocket_resume_after_end_sends_ended_frame() -> None:
    async def main() -> tuple[str, dict[str, Any]]:
        async with (
            serve_providers(SingleAdapterProviders(ScriptedAdapter(make_script()))) as port,
            websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as socket,
        ):
            await socket.send(json.dumps(CHAT_BODY))
            frame = start = json.loads(await socket.recv())
            while frame["type"] != "done":
                frame = json.loads(await socket.recv())
            resume = {"type": "resume", "stream_id": start["stream_id"], "last_id": frame["id"]}
            await socket.send(json.dumps(resume))
            return start["stream_id"], json.loads(await socket.recv())

    stream_id, frame = asyncio.run(main())
    assert frame == {"type": "ended", "stream_id": stream_id}


def test_resume_after_end_returns_204_and_unknown_stream_404() -> None:
    async def main() -> list[tuple[int, str]]:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(make_script()))) as port:
            whole = (await post_and_read(port, CHAT_BODY)).sse_events()
            lost = (await post_and_read(port, {**CHAT_BODY, "resume": False})).sse_events()
            stream_id, last = whole[0].id.rpartition(":")[0], whole[-1].id
            request_count = [
                (f"/api/chat/stream/{stream_id}", last),
                (f"/api/chat/stream/{stream_id}", f"{stream_id}:{len(whole) + 1}"),
                (f"/api/chat/stream/{stream_id}", "nonsense"),
                (f"/api/chat/stream/{lost[0].id.rpartition(':')[0]}", None),
                ("/api/chat/stream/unknown", None),
                (f"/api/chat/stream/{stream_id}", None),
            ]
            replies = [await request(port, "GET", path, last_id) for path, last_id in request_count]
            assert replies[-1].sse_events() == whole
            return [
                (reply.status, json.loads(reply.body or b"{}").get("error", {}).get("type")) for reply in replies[:-1]
            ]

    assert asyncio.run(main()) == [
        (204, None),
        (404, "not_found"),
        (400, "bad_request"),
        (404, "not_found"),
        (404, "not_found"),
    ]


def test_stream_of_another_key_cannot_be_read_or_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    from hashlib import sha256

    keys = {name: f"sg-{name}-0123456789abcdef0123456789abcdef" for name in ("ann", "bob")}
    lines = ",".join(f"{name}=sha256:{sha256(key.encode()).hexdigest()}" for name, key in keys.items())

    async def main() -> list[int]:
        async with serve_providers(
            SingleAdapterProviders(ScriptedAdapter(words_script(500, gap_s=0.01))),
            {**UNLIMITED_VARIABLES, "API_KEYS": lines},
        ) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps(CHAT_BODY)
            head = f"POST /api/chat HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {keys['ann']}\r\n"
            writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
            line = b""
            while not line.startswith(b"id: "):
                line = await reader.readline()
            path = f"/api/chat/stream/{line[4:].decode().rpartition(':')[0]}"
            result = [
                await request(port, "GET", path, key=keys["bob"]),
                await request(port, "DELETE", path, key=keys["bob"]),
                await request(port, "DELETE", path),
                await request(port, "DELETE", path, key=keys["ann"]),
            ]
            writer.transport.abort()
            return [reply.status for reply in result]

    assert asyncio.run(main()) == [404, 404, 401, 200]


def test_orphaned_stream_is_stopped_after_timeout() -> None:
    limits = ServiceLimits(buffer=BufferLimits(orphan_timeout_s=1.0))

    async def main() -> tuple[int, list[sse.ServerSentEvent]]:
        adapter = ScriptedAdapter(words_script(2000, gap_s=0.01))
        async with serve_providers(SingleAdapterProviders(adapter), service_limits=limits) as port:
            before = await read_and_cut(port, CHAT_BODY, 5)
            await wait_until(lambda: adapter.given > 12)
            stream_id = before[0].id.rpartition(":")[0]
            await wait_until(lambda: adapter.open == 0)
            after = await request(port, "GET", f"/api/chat/stream/{stream_id}", before[-1].id)
            return adapter.given, before + after.sse_events()

    given, events = asyncio.run(main())
    assert given < 2000
    assert json.loads(events[-1].data)["error"]["type"] == "abandoned"
    assert [event.event for event in events].count("error") == 1
    assert all(event.data != "[DONE]" for event in events)


def test_resumed_stream_is_removed_after_retention() -> None:
    limits = ServiceLimits(buffer=BufferLimits(retention_s=2.0))

    async def main() -> list[int]:
        providers = SingleAdapterProviders(ScriptedAdapter(make_script()))
        async with serve_providers(providers, service_limits=limits) as port:
            whole = (await post_and_read(port, CHAT_BODY)).sse_events()
            path = f"/api/chat/stream/{whole[0].id.rpartition(':')[0]}"
            result = [(await request(port, "GET", path)).status]
            async with asyncio.timeout(60):
                while result[-1] != 404:
                    await asyncio.sleep(0.05)
                    result.append((await request(port, "GET", path)).status)
            return result

    assert set(asyncio.run(main())[:-1]) == {200}


def test_late_reader_of_oversized_stream_gets_not_found() -> None:
    limits = ServiceLimits(buffer=BufferLimits(max_stream_bytes=2000))

    async def main() -> tuple[HttpReply, list[sse.ServerSentEvent]]:
        providers = SingleAdapterProviders(ScriptedAdapter(make_script()))
        async with serve_providers(providers, service_limits=limits) as port:
            whole = (await post_and_read(port, CHAT_BODY)).sse_events()
            path = f"/api/chat/stream/{whole[0].id.rpartition(':')[0]}"
            early = await request(port, "GET", path, whole[0].id)
            late = await request(port, "GET", path, whole[-4].id)
            assert late.sse_events() == whole[-3:]
            return early, whole

    early, whole = asyncio.run(main())
    assert join_text(whole) == TEXT
    assert early.status == 404 and "no longer buffered" in early.json()["error"]["message"]


def test_full_stream_store_returns_503_before_asking_provider() -> None:
    limits = ServiceLimits(buffer=BufferLimits(max_streams=3))

    async def main() -> tuple[list[int], int]:
        adapter = ScriptedAdapter(words_script(3000, gap_s=0.01))
        async with serve_providers(SingleAdapterProviders(adapter), service_limits=limits) as port:
            writers = []
            for _ in range(3):
                reader, writer = await open_request(port, CHAT_BODY)
                await reader.readuntil(b"start")
                writers.append(writer)
            refused, plain = (
                await post_and_read(port, CHAT_BODY),
                await open_request(port, {**CHAT_BODY, "resume": False}),
            )
            await plain[0].readuntil(b"start")
            for writer in [*writers, plain[1]]:
                writer.transport.abort()
            return [refused.status, len(adapter.requests)], adapter.open

    (status, requests), _ = asyncio.run(main())
    assert status == 503
    assert requests <= 4  # what was refused was never asked


def test_cancel_at_another_replica_stops_stream() -> None:
    async def main(url: str) -> tuple[HttpReply, list[sse.ServerSentEvent], HttpReply]:
        adapter = ScriptedAdapter(words_script(3000, gap_s=0.01))
        brief = ServiceLimits(replication=ReplicationIntervals(reply_timeout_s=0.1))
        async with run_services(2, adapter, url) as ports, run_services(1, adapter, url, brief) as (other,):
            reader, writer = await open_request(ports[0], {**CHAT_BODY, "resume": False})
            stream_id = (await reader.readuntil(b":1\n")).rpartition(b"id: ")[2].decode().partition(":")[0]
            await wait_until(lambda: adapter.given > 3)
            stopped = await request(ports[1], "DELETE", f"/api/chat/stream/{stream_id}")
            assert adapter.open == 0
            events = sse.Decoder().feed(await reader.readuntil(b"event: cancelled\ndata: {"))
            writer.close()
            return stopped, events, await request(other, "DELETE", f"/api/chat/stream/{stream_id}")

    with run_redis() as redis:
        stopped, _, again = asyncio.run(main(redis.url))
    assert stopped.status == 200 and stopped.json()["outcome"] == "cancelled"
    assert stopped.json()["delivered_chars"] > 0 and stopped.json()["stop_s"] >= 0
    assert again.status == 404


def test_restarted_empty_redis_loses_no_event() -> None:
    intervals = replace(PATIENT.replication, heartbeat_s=0.2, retry_s=0.1, poll_s=0.2)
    limits = ServiceLimits(replication=intervals)

    async def main() -> list[sse.ServerSentEvent]:
        adapter = ScriptedAdapter(words_script(WORDS, gap_s=0.05))
        with run_redis() as redis:
            async with run_services(2, adapter, redis.url, limits) as ports:
                before = await read_and_cut(ports[0], CHAT_BODY, 6)
                path = f"/api/chat/stream/{before[0].id.rpartition(':')[0]}"
                reading = await send_request(ports[1], path, method="GET", headers={"last-event-id": before[-1].id})
                assert (await reading.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                await wait_until(lambda: adapter.given > 15)
                await asyncio.to_thread(redis.kill)
                await wait_until(lambda: adapter.given > 25)
                await asyncio.to_thread(redis.start)
                async with asyncio.timeout(60):
                    chunks = await reading.read_rest()
                return before + sse.Decoder().feed(b"".join(chunks.split(b"\r\n")[1::2]))

    assert_one_story(asyncio.run(main()))


def test_stream_of_other_replica_during_outage_of_redis_is_unavailable_not_gone() -> None:
    async def main() -> tuple[HttpReply, HttpReply, HttpReply]:
        adapter = ScriptedAdapter(words_script(WORDS, gap_s=0.05))
        with run_redis() as redis:
            async with run_services(2, adapter, redis.url, PATIENT) as ports:
                before = await read_and_cut(ports[0], CHAT_BODY, 6)
                path = f"/api/chat/stream/{before[0].id.rpartition(':')[0]}"
                await asyncio.to_thread(redis.kill)
                resumed = await request(ports[1], "GET", path, before[-1].id)
                stopped = await request(ports[1], "DELETE", path)
                return resumed, stopped, await request(ports[0], "DELETE", path)

    resumed, stopped, stopped_where_it_runs = asyncio.run(main())
    for refusal in (resumed, stopped):
        assert (refusal.status, refusal.json()["error"]["type"], refusal.headers["retry-after"]) == (
            503,
            "unavailable",
            "1",
        )
        assert "Redis does not respond" in refusal.json()["error"]["message"]
    assert stopped_where_it_runs.status == 200


def test_reader_of_dead_replica_gets_lost_error() -> None:
    limits = ServiceLimits(replication=ReplicationIntervals(poll_s=0.1))

    async def main(url: str) -> list[sse.ServerSentEvent]:
        providers = SingleAdapterProviders(ScriptedAdapter(words_script(3)))
        variables = {**UNLIMITED_VARIABLES, "REDIS_URL": url, "REDIS_TIMEOUT_S": PATIENT_S}
        async with serve_providers(providers, variables, service_limits=limits) as port:
            from redis import asyncio as client

            store = client.Redis.from_url(url, protocol=2)
            await store.set(replication.metadata_key("s"), json.dumps({"owner": None, "replica": "gone"}))
            await store.xadd(replication.entries_key("s"), {"n": "start", "d": '{"stream_id":"s"}'}, id="1-0")
            await store.aclose()
            return (await request(port, "GET", "/api/chat/stream/s")).sse_events()

    with run_redis() as redis:
        start, end = asyncio.run(main(redis.url))
    assert (start.id, end.id) == ("s:1", "s:2")
    assert end.event == "error" and json.loads(end.data)["error"]["type"] == "lost"
