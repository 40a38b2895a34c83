"""The WebSocket wire: what its frames say, in which order questions are answered, how each is stopped or refused."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode

from server.door import Door
from settings import Settings
from streaming.events import TextDelta, ThinkingDelta
from tests.integration.watched import Unwarmed, request
from tests.playing import FINISH, PlayingAdapter, Step, words
from tests.serving import OPEN, Played, serving, until

ASK = {"message": "Name three colours.", "provider": "p", "strategy": "direct"}
ENDLESS: list[Step] = words(5000, first_s=0.0, gap_s=0.01)
SILENT: list[Step] = [(600.0, TextDelta("late"))]
KEY = "sg-ann-0123456789abcdef0123456789abcdef"
KEYS = {**OPEN, "API_KEYS": f"ann=sha256:{sha256(KEY.encode()).hexdigest()}"}


@asynccontextmanager
async def talking(
    adapter: PlayingAdapter, variables: Mapping[str, str] = OPEN, **options: Any
) -> AsyncIterator[ClientConnection]:
    async with (
        serving(Played(adapter), variables) as port,
        websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws", **options) as socket,
    ):
        yield socket


async def say(socket: ClientConnection, **fields: Any) -> None:
    await socket.send(json.dumps(fields))


async def hear(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        frame: dict[str, Any] = json.loads(await socket.recv())
    return frame


async def hear_until(socket: ClientConnection, *types: str) -> list[dict[str, Any]]:
    """Read to the first frame of one of those types."""
    frames = [await hear(socket)]
    while frames[-1]["type"] not in types:
        frames.append(await hear(socket))
    return frames


async def closing(socket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Read to the end; give the frames and the code with which the server closed."""
    frames: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                frames.append(json.loads(await socket.recv()))
    assert socket.close_code is not None
    return frames, socket.close_code


def text_of(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["content"] for frame in frames if frame["type"] == "chunk")


def test_an_answer_is_frames_with_ids_of_its_stream_in_order_and_done_is_last() -> None:
    script: list[Step] = [(0.0, ThinkingDelta("hm")), *words(3, first_s=0.0)]

    async def main() -> list[dict[str, Any]]:
        async with talking(PlayingAdapter(script)) as socket:
            await say(socket, **ASK)
            return await hear_until(socket, "done")

    frames = asyncio.run(main())
    stream_id = frames[0]["stream_id"]
    assert [frame["id"] for frame in frames] == [f"{stream_id}:{n}" for n in range(1, len(frames) + 1)]
    assert [frame["type"] for frame in frames] == [
        "start", "stage", "thinking", "stage", "chunk", "chunk", "chunk", "usage", "stage", "finish", "done"
    ]  # fmt: skip
    assert text_of(frames) == "w0 w1 w2 "
    assert frames[2]["content"] == "hm"
    assert frames[-2]["finish_reason"] == "stop"
    assert (frames[-2]["usage"]["output_tokens"], frames[-2]["cost_usd"], frames[-2]["delivered_chars"]) == (3, None, 9)


def test_questions_are_answered_one_after_another_each_on_its_own_stream() -> None:
    async def main() -> tuple[list[list[dict[str, Any]]], PlayingAdapter]:
        adapter = PlayingAdapter(words(3, first_s=0.0))
        async with talking(adapter) as socket:
            for number in range(5):  # one is answered, four wait
                await say(socket, **{**ASK, "message": f"question {number}"})
            answers = [await hear_until(socket, "done") for _ in range(5)]
            await say(socket, **ASK)
            answers.append(await hear_until(socket, "done"))
        return answers, adapter

    answers, adapter = asyncio.run(main())
    assert len({frames[0]["stream_id"] for frames in answers}) == 6
    assert [text_of(frames) for frames in answers] == ["w0 w1 w2 "] * 6
    assert [r.messages[-1].content for r in adapter.requests[:5]] == [f"question {n}" for n in range(5)]


def test_more_questions_than_may_wait_are_refused_and_stop_what_is_under_way() -> None:
    async def main() -> tuple[dict[str, Any], int, int]:
        adapter = PlayingAdapter(ENDLESS)
        async with talking(adapter) as socket:
            for _ in range(6):
                await say(socket, **ASK)
            frames, code = await closing(socket)
            await until(lambda: adapter.open == 0)
            return frames[-1], code, len(adapter.requests)

    frame, code, asked = asyncio.run(main())
    assert (frame["error"]["rule"], code) == ("busy", 1008)
    assert asked <= 1


@pytest.mark.parametrize("script", [SILENT, [*words(3)[:3], *SILENT], ENDLESS], ids=["silent", "stalled", "flowing"])
def test_cancel_stops_the_answer_with_a_receipt_and_the_next_question_is_answered(script: list[Step]) -> None:
    async def main() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        adapter = PlayingAdapter(script, words(2, first_s=0.0))
        async with talking(adapter) as socket:
            await say(socket, **ASK)
            await until(lambda: adapter.open == 1 and adapter.given >= sum(delay_s < 1 for delay_s, _ in script[:3]))
            await say(socket, type="cancel")
            await say(socket, type="cancel")
            frames = await hear_until(socket, "cancelled", "done", "error")
            assert adapter.open == 0
            await say(socket, type="cancel")  # nothing is under way: no harm, and none to the next
            await socket.ping()
            await say(socket, **ASK)
            return frames, await hear_until(socket, "cancelled", "done", "error")

    frames, after = asyncio.run(main())
    receipt = frames[-1]
    assert (receipt["type"], receipt["outcome"], receipt["finish_reason"]) == ("cancelled", "cancelled", None)
    assert receipt["delivered_chars"] == len(text_of(frames))
    assert 0 <= receipt["stop_s"] < 1
    assert (after[-1]["type"], text_of(after)) == ("done", "w0 w1 ")


def test_a_cancel_that_comes_with_its_question_stops_it() -> None:
    async def main() -> list[dict[str, Any]]:
        adapter = PlayingAdapter(ENDLESS)
        async with talking(adapter) as socket:
            for fields in (ASK, {"type": "cancel"}):  # in one piece, as a fast click makes them
                socket.protocol.send_text(json.dumps(fields).encode())
            socket.transport.write(b"".join(socket.protocol.data_to_send()))
            return await hear_until(socket, "cancelled", "done", "error")

    frames = asyncio.run(main())
    assert frames[-1]["type"] == "cancelled"
    assert text_of(frames) == ""


def test_a_question_that_waits_is_answered_after_the_one_before_was_cancelled() -> None:
    async def main() -> tuple[str, str]:
        adapter = PlayingAdapter(ENDLESS, words(2, first_s=0.0))
        async with talking(adapter) as socket:
            await say(socket, **ASK)
            await say(socket, **ASK)
            await until(lambda: adapter.given > 3)
            await say(socket, type="cancel")
            first = await hear_until(socket, "cancelled", "done")
            second = await hear_until(socket, "cancelled", "done")
            return first[-1]["type"], second[-1]["type"]

    assert asyncio.run(main()) == ("cancelled", "done")


def body(**fields: Any) -> str:
    return json.dumps({**ASK, **fields})


REFUSED: dict[str, tuple[str | bytes, str, int]] = {
    "not json": ("{", "body.json", 1007),
    "binary": (b'{"message": "a"}', "body.json", 1007),
    "half a surrogate": ('{"message": "\\ud800"}', "validation.unicode", 1007),
    "NaN": ('{"message": "a", "temperature": NaN}', "body.json", 1007),
    "not an object": ("[1]", "body.fields", 1008),
    "unknown type": (body(type="shout"), "body.fields", 1008),
    "a type that is none": (body(type=[]), "body.fields", 1008),
    "unknown field": (body(colour="red"), "body.fields", 1008),
    "wrong type": (body(message=5), "body.fields", 1008),
    "no place": ('{"type": "resume", "stream_id": "s", "last_id": "t:1"}', "body.fields", 1008),
    "huge number": ('{"type": "resume", "stream_id": "s", "last_id": ' + "9" * 18 + "}", "body.fields", 1008),
    "deep": ('{"message": ' + "[" * 9000 + "]" * 9000 + "}", "validation.depth", 1008),
    "long": (body(message="a" * 32_001), "validation.length", 1008),
    "large": (body(message="a" * 300_000), "validation.size", 1009),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said_in_a_frame_before_the_close(name: str) -> None:
    sent, rule, code = REFUSED[name]

    async def main() -> tuple[list[dict[str, Any]], int, PlayingAdapter]:
        adapter = PlayingAdapter(words(1))
        async with talking(adapter) as socket:
            await socket.send(sent)
            return *await closing(socket), adapter

    frames, closed, adapter = asyncio.run(main())
    assert [frame["type"] for frame in frames] == ["error"]
    assert (frames[0]["error"]["rule"], closed) == (rule, code)
    assert frames[0]["error"]["message"] and "\n" not in frames[0]["error"]["message"]
    assert adapter.requests == []


@pytest.mark.parametrize("data", [b'{"message": "\xff\xfe"}', b"\xed\xa0\x80"], ids=["not utf-8", "a surrogate"])
def test_text_that_is_not_utf8_is_refused_in_a_frame(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[list[dict[str, Any]], int]:
        async with talking(PlayingAdapter(words(1))) as socket:
            socket.transport.write(Frame(Opcode.TEXT, data).serialize(mask=True))
            return await closing(socket)

    frames, code = asyncio.run(main())
    assert (frames[0]["error"]["rule"], code) == ("body.json", 1007)
    assert caplog.records == []


def test_a_frame_beyond_all_measure_is_not_read_to_its_end() -> None:
    async def main() -> int:
        async with talking(PlayingAdapter(words(1)), max_size=None) as socket:
            await socket.send("a" * 2_000_000)
            return (await closing(socket))[1]

    assert asyncio.run(main()) == 1009


@pytest.mark.parametrize(("name", "words"), [("opneai:x", "opneai"), ("openai:x", "OPENAI_API_KEY")])
def test_a_name_that_means_nothing_is_told_and_the_conversation_goes_on(name: str, words: str) -> None:
    async def main() -> tuple[dict[str, Any], str]:
        async with (
            serving(Unwarmed(Settings())) as port,
            websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as socket,
        ):
            await say(socket, message="a", provider=name)
            error = await hear(socket)
            await say(socket, message="a", provider="sim:steady")
            return error, (await hear_until(socket, "done", "error"))[-1]["type"]

    error, after = asyncio.run(main())
    assert (error["type"], error["error"]["type"], after) == ("error", "bad_request", "done")
    assert words in error["error"]["message"]


def test_each_question_counts_against_the_rate() -> None:
    async def main() -> tuple[list[dict[str, Any]], int]:
        async with talking(PlayingAdapter(words(1, first_s=0.0)), {"RATE_LIMIT": "2/minute"}) as socket:
            for _ in range(2):
                await say(socket, **ASK)
                await hear_until(socket, "done")
            await say(socket, **ASK)
            return await closing(socket)

    frames, code = asyncio.run(main())
    assert (frames[0]["error"]["rule"], frames[0]["error"]["type"], code) == ("rate", "rate_limited", 1008)
    assert 1 <= frames[0]["error"]["retry_after_s"] <= 60


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({"additional_headers": {"Authorization": f"Bearer {KEY}"}}, "done"),
        ({"subprotocols": ["streamgauge", f"bearer.{KEY}"]}, "done"),
        ({"subprotocols": ["streamgauge", "bearer.sg-wrong"]}, "error"),
        ({}, "error"),
    ],
    ids=["header", "subprotocol", "wrong", "none"],
)
def test_a_key_comes_as_a_header_or_where_a_browser_can_put_it(options: dict[str, Any], ends: str) -> None:
    async def main() -> tuple[dict[str, Any], str | None, int | None]:
        async with talking(PlayingAdapter(words(1, first_s=0.0)), KEYS, **options) as socket:
            await say(socket, **ASK)
            frames = await hear_until(socket, "done", "error")
            code = (await closing(socket))[1] if frames[-1]["type"] == "error" else None
            return frames[-1], socket.subprotocol, code

    frame, subprotocol, code = asyncio.run(main())
    assert frame["type"] == ends
    assert subprotocol == ("streamgauge" if "subprotocols" in options else None)
    if ends == "error":
        assert (frame["error"]["rule"], code) == ("auth", 1008)
        assert KEY not in json.dumps(frame)


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:{port}", 101), ("https://listed.example", 101)]
    + [(origin, 403) for origin in ("https://evil.example", "http://[", "null", "https://listed.example.evil.example")],
)
def test_pages_of_other_sites_are_kept_out(origin: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    variables = {**OPEN, "ALLOWED_ORIGINS": "https://listed.example"}

    async def main() -> tuple[int, bytes]:
        async with serving(Played(PlayingAdapter(words(1))), variables) as port:
            url = f"ws://127.0.0.1:{port}/api/chat/ws"
            try:
                async with websockets.connect(url, additional_headers={"Origin": origin.format(port=port)}):
                    return 101, b""
            except websockets.InvalidStatus as refused:
                return refused.response.status_code, bytes(refused.response.body)

    found, body = asyncio.run(main())
    assert found == status
    assert found == 101 or json.loads(body)["error"]["rule"] == "origin"
    assert caplog.records == []


def test_a_head_that_is_too_large_is_refused_and_not_kept_for_ever() -> None:
    async def main() -> int:
        async with serving(Played(PlayingAdapter(words(1)))) as port:
            fields = {
                "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
                "sec-websocket-key": base64.b64encode(bytes(16)).decode(), "cookie": "a" * 9000,
            }  # fmt: skip
            sent = await request(port, "/api/chat/ws", method="GET", headers=fields)
            async with asyncio.timeout(5):
                return (await sent.response())[0]

    assert asyncio.run(main()) == 431


def test_pings_are_answered_while_an_answer_flows() -> None:
    async def main() -> None:
        async with talking(PlayingAdapter(ENDLESS)) as socket:
            await say(socket, **ASK)
            await hear_until(socket, "chunk")
            async with asyncio.timeout(5):
                await (await socket.ping())

    asyncio.run(main())


def test_a_defect_is_said_and_logged_and_closes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Door, "ask", broken)

    async def main() -> tuple[list[dict[str, Any]], int]:
        async with talking(PlayingAdapter([(0.0, FINISH)])) as socket:
            await say(socket, **ASK)
            return await closing(socket)

    frames, code = asyncio.run(main())
    assert (frames[-1]["error"]["type"], code) == ("internal", 1011)
    assert "ZeroDivisionError" in caplog.text
