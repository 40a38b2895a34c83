"""Streams that outlive a connection: nothing lost, nothing twice, one end; in this process and at another replica."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import websockets

from server import kept, remote, replicas
from streaming import sse
from tests.playing import PlayingAdapter, Step, words
from tests.redis_process import redis_server
from tests.serving import OPEN, Played, Reply, opened, post, serving, until

Cut = Callable[[int, int, int], Awaitable[list[sse.ServerSentEvent]]]

WORDS = 40
TEXT = "".join(f"w{i} " for i in range(WORDS))
ASK = {"message": "Name three colours.", "provider": "p", "strategy": "direct", "resume": True}


def script() -> Sequence[Step]:
    return words(WORDS, first_s=0.01, gap_s=0.002)


async def request(port: int, method: str, path: str, last_id: str | None = None, key: str | None = None) -> Reply:
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
    return Reply(int(lines[0].split()[1]), fields, body)


async def read_some(port: int, body: dict[str, Any], events: int) -> list[sse.ServerSentEvent]:
    """Ask, read so many events, and cut the connection."""
    reader, writer = await opened(port, body)
    await reader.readuntil(b"\r\n\r\n")
    decoder, found = sse.Decoder(), list[sse.ServerSentEvent]()
    while len(found) < events:
        size = int(await reader.readline(), 16)
        found += decoder.feed(await reader.readexactly(size))
        await reader.readline()
    writer.transport.abort()
    return found[:events]


def text_of(events: Sequence[sse.ServerSentEvent]) -> str:
    texts = (json.loads(e.data)["content"] for e in events if e.event == "message" and e.data != "[DONE]")
    return "".join(texts)


def one_story(events: Sequence[sse.ServerSentEvent]) -> None:
    """The events of all connections together: numbered without a gap, no id twice, the whole text, one end."""
    numbers = [int(event.id.rpartition(":")[2]) for event in events]
    assert numbers == list(range(1, len(events) + 1))
    assert text_of(events) == TEXT
    assert [event.data for event in events].count("[DONE]") == 1
    assert [event.event for event in events].count("finish") == 1


@asynccontextmanager
async def several(count: int, adapter: PlayingAdapter, url: str) -> AsyncIterator[list[int]]:
    async with AsyncExitStack() as stack:
        variables = {**OPEN, "REDIS_URL": url}
        yield [await stack.enter_async_context(serving(Played(adapter), variables)) for _ in range(count)]


async def by_sse(first: int, second: int, at: int) -> list[sse.ServerSentEvent]:
    """Read so many events at one service, and the rest at another."""
    before = await read_some(first, ASK, at)
    path = f"/api/chat/stream/{before[0].id.rpartition(':')[0]}"
    reply = await request(second, "GET", path, before[-1].id)
    assert reply.status == 200, reply.body
    return before + reply.events()


async def by_websocket(first: int, second: int, at: int) -> list[sse.ServerSentEvent]:
    """The same over sockets; the frames are given as events."""
    async with websockets.connect(f"ws://127.0.0.1:{first}/api/chat/ws") as socket:
        await socket.send(json.dumps(ASK))
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


@pytest.mark.parametrize("cut", [by_sse, by_websocket])
@pytest.mark.parametrize("replica", [False, True], ids=["memory", "redis"])
def test_whoever_is_cut_off_anywhere_continues_there(replica: bool, cut: Cut) -> None:
    async def main(url: str | None) -> list[list[sse.ServerSentEvent]]:
        adapter = PlayingAdapter(script())
        points = random.Random(7).choices(range(1, WORDS + 2), k=100)
        async with AsyncExitStack() as stack:
            if url is None:
                ports = [await stack.enter_async_context(serving(Played(adapter)))] * 2
            else:
                ports = await stack.enter_async_context(several(2, adapter, url))
            found = []
            for start in range(0, 100, 20):
                found += await asyncio.gather(*(cut(ports[0], ports[1], at) for at in points[start : start + 20]))
            return found

    if replica:
        with redis_server() as redis:
            stories = asyncio.run(main(redis.url))
    else:
        stories = asyncio.run(main(None))
    assert len(stories) == 100
    for events in stories:
        one_story(events)


def test_a_socket_that_has_seen_the_end_is_told_that_nothing_comes() -> None:
    async def main() -> tuple[str, dict[str, Any]]:
        async with (
            serving(Played(PlayingAdapter(script()))) as port,
            websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as socket,
        ):
            await socket.send(json.dumps(ASK))
            frame = start = json.loads(await socket.recv())
            while frame["type"] != "done":
                frame = json.loads(await socket.recv())
            resume = {"type": "resume", "stream_id": start["stream_id"], "last_id": frame["id"]}
            await socket.send(json.dumps(resume))
            return start["stream_id"], json.loads(await socket.recv())

    stream_id, frame = asyncio.run(main())
    assert frame == {"type": "ended", "stream_id": stream_id}


def test_a_stream_that_was_read_to_its_end_has_nothing_more_and_others_do_not_exist() -> None:
    async def main() -> list[tuple[int, str]]:
        async with serving(Played(PlayingAdapter(script()))) as port:
            whole = (await post(port, ASK)).events()
            lost = (await post(port, {**ASK, "resume": False})).events()
            stream_id, last = whole[0].id.rpartition(":")[0], whole[-1].id
            asked = [
                (f"/api/chat/stream/{stream_id}", last),
                (f"/api/chat/stream/{stream_id}", f"{stream_id}:{len(whole) + 1}"),
                (f"/api/chat/stream/{stream_id}", "nonsense"),
                (f"/api/chat/stream/{lost[0].id.rpartition(':')[0]}", None),
                ("/api/chat/stream/unknown", None),
                (f"/api/chat/stream/{stream_id}", None),
            ]
            replies = [await request(port, "GET", path, last_id) for path, last_id in asked]
            assert replies[-1].events() == whole
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


def test_another_key_neither_reads_nor_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from hashlib import sha256

    keys = {name: f"sg-{name}-0123456789abcdef0123456789abcdef" for name in ("ann", "bob")}
    lines = ",".join(f"{name}=sha256:{sha256(key.encode()).hexdigest()}" for name, key in keys.items())

    async def main() -> list[int]:
        async with serving(Played(PlayingAdapter(words(500, gap_s=0.01))), {**OPEN, "API_KEYS": lines}) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps(ASK)
            head = f"POST /api/chat HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {keys['ann']}\r\n"
            writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
            line = b""
            while not line.startswith(b"id: "):
                line = await reader.readline()
            path = f"/api/chat/stream/{line[4:].decode().rpartition(':')[0]}"
            found = [
                await request(port, "GET", path, key=keys["bob"]),
                await request(port, "DELETE", path, key=keys["bob"]),
                await request(port, "DELETE", path),
                await request(port, "DELETE", path, key=keys["ann"]),
            ]
            writer.transport.abort()
            return [reply.status for reply in found]

    assert asyncio.run(main()) == [404, 404, 401, 200]


def test_leaving_is_not_stopping_until_nobody_has_read_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "ALONE_S", 0.3)

    async def main() -> tuple[int, list[sse.ServerSentEvent]]:
        adapter = PlayingAdapter(words(2000, gap_s=0.01))
        async with serving(Played(adapter)) as port:
            before = await read_some(port, ASK, 5)
            await until(lambda: adapter.given > 12)
            stream_id = before[0].id.rpartition(":")[0]
            await until(lambda: adapter.open == 0)
            after = await request(port, "GET", f"/api/chat/stream/{stream_id}", before[-1].id)
            return adapter.given, before + after.events()

    given, events = asyncio.run(main())
    assert given < 2000
    assert json.loads(events[-1].data)["error"]["type"] == "abandoned"
    assert [event.event for event in events].count("error") == 1
    assert all(event.data != "[DONE]" for event in events)


def test_what_was_read_again_is_still_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_S", 0.5)

    async def main() -> list[int]:
        async with serving(Played(PlayingAdapter(script()))) as port:
            whole = (await post(port, ASK)).events()
            path = f"/api/chat/stream/{whole[0].id.rpartition(':')[0]}"
            found = [(await request(port, "GET", path)).status]
            async with asyncio.timeout(10):
                while found[-1] != 404:
                    await asyncio.sleep(0.05)
                    found.append((await request(port, "GET", path)).status)
            return found

    assert set(asyncio.run(main())[:-1]) == {200}


def test_a_stream_too_long_to_be_kept_says_so_to_whoever_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_STREAM_BYTES", 2000)

    async def main() -> tuple[Reply, list[sse.ServerSentEvent]]:
        async with serving(Played(PlayingAdapter(script()))) as port:
            whole = (await post(port, ASK)).events()
            path = f"/api/chat/stream/{whole[0].id.rpartition(':')[0]}"
            early = await request(port, "GET", path, whole[0].id)
            late = await request(port, "GET", path, whole[-4].id)
            assert late.events() == whole[-3:]
            return early, whole

    early, whole = asyncio.run(main())
    assert text_of(whole) == TEXT
    assert early.status == 404 and "no longer kept" in early.json()["error"]["message"]


def test_no_more_streams_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_STREAMS", 3)

    async def main() -> tuple[list[int], int]:
        adapter = PlayingAdapter(words(3000, gap_s=0.01))
        async with serving(Played(adapter)) as port:
            writers = []
            for _ in range(3):
                reader, writer = await opened(port, ASK)
                await reader.readuntil(b"start")
                writers.append(writer)
            refused, plain = await post(port, ASK), await opened(port, {**ASK, "resume": False})
            await plain[0].readuntil(b"start")
            for writer in [*writers, plain[1]]:
                writer.transport.abort()
            return [refused.status, len(adapter.requests)], adapter.open

    (status, asked), _ = asyncio.run(main())
    assert status == 503
    assert asked <= 4  # what was refused was never asked


def test_any_replica_stops_a_stream_of_any_other() -> None:
    async def main(url: str) -> tuple[Reply, list[sse.ServerSentEvent], Reply]:
        adapter = PlayingAdapter(words(3000, gap_s=0.01))
        async with several(3, adapter, url) as ports:
            reader, writer = await opened(ports[0], {**ASK, "resume": False})
            stream_id = (await reader.readuntil(b":1\n")).rpartition(b"id: ")[2].decode().partition(":")[0]
            await until(lambda: adapter.given > 3)
            stopped = await request(ports[2], "DELETE", f"/api/chat/stream/{stream_id}")
            assert adapter.open == 0
            events = sse.Decoder().feed(await reader.readuntil(b"event: cancelled\ndata: {"))
            writer.close()
            return stopped, events, await request(ports[1], "DELETE", f"/api/chat/stream/{stream_id}")

    with redis_server() as redis:
        stopped, _, again = asyncio.run(main(redis.url))
    assert stopped.status == 200 and stopped.json()["outcome"] == "cancelled"
    assert stopped.json()["delivered_chars"] > 0 and stopped.json()["stop_s"] < 1
    assert again.status == 404


def test_a_redis_that_is_killed_and_comes_back_empty_loses_nobody_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "BEAT_S", 0.2)
    monkeypatch.setattr(replicas, "RETRY_S", 0.1)
    monkeypatch.setattr(remote, "LOOK_S", 0.2)

    async def main() -> list[sse.ServerSentEvent]:
        adapter = PlayingAdapter(words(WORDS, gap_s=0.05))
        with redis_server() as redis:
            async with several(2, adapter, redis.url) as ports:
                before = await read_some(ports[0], ASK, 6)
                path = f"/api/chat/stream/{before[0].id.rpartition(':')[0]}"
                reading = asyncio.create_task(request(ports[1], "GET", path, before[-1].id))
                await until(lambda: adapter.given > 15)
                await asyncio.to_thread(redis.kill)
                await until(lambda: adapter.given > 25)
                await asyncio.to_thread(redis.start)
                async with asyncio.timeout(20):
                    reply = await reading
                assert reply.status == 200
                return before + reply.events()

    one_story(asyncio.run(main()))


def test_readers_of_a_replica_that_has_died_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LOOK_S", 0.1)

    async def main(url: str) -> list[sse.ServerSentEvent]:
        async with serving(Played(PlayingAdapter(words(3))), {**OPEN, "REDIS_URL": url}) as port:
            from redis import asyncio as client

            store = client.Redis.from_url(url, protocol=2)
            await store.set(remote.head_key("s"), json.dumps({"owner": None, "replica": "gone"}))
            await store.xadd(remote.entries_key("s"), {"n": "start", "d": '{"stream_id":"s"}'}, id="1-0")
            await store.aclose()
            return (await request(port, "GET", "/api/chat/stream/s")).events()

    with redis_server() as redis:
        start, end = asyncio.run(main(redis.url))
    assert (start.id, end.id) == ("s:1", "s:2")
    assert end.event == "error" and json.loads(end.data)["error"]["type"] == "lost"
