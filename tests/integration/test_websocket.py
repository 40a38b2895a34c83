"""The WebSocket transport: frames, the order of answers, cancellation and rejection."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode

from settings import Settings
from streaming.clock import Clock
from streaming.events import TextDelta, ThinkingDelta
from streaming.retry import RetryPolicy
from streaming.session import Session
from tests.asgi_server import UNLIMITED_VARIABLES, SingleAdapterProviders, serve_providers, wait_until
from tests.integration.service_over_simulator import ProvidersWithoutModel, send_request
from tests.scripted_adapter import FINISH, ScriptedAdapter, ScriptStep, words_script

CHAT_BODY = {"message": "Name three colours.", "provider": "p", "strategy": "direct"}
ENDLESS_SCRIPT: list[ScriptStep] = words_script(5000, first_s=0.0, gap_s=0.01)
SILENT_SCRIPT: list[ScriptStep] = [(600.0, TextDelta("late"))]
KEY = "sg-ann-0123456789abcdef0123456789abcdef"
KEYS_VARIABLES = {**UNLIMITED_VARIABLES, "API_KEYS": f"ann=sha256:{sha256(KEY.encode()).hexdigest()}"}


@asynccontextmanager
async def open_socket(
    adapter: ScriptedAdapter, variables: Mapping[str, str] = UNLIMITED_VARIABLES, **options: Any
) -> AsyncIterator[ClientConnection]:
    async with (
        serve_providers(SingleAdapterProviders(adapter), variables) as port,
        websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws", **options) as socket,
    ):
        yield socket


async def send_frame(socket: ClientConnection, **fields: Any) -> None:
    await socket.send(json.dumps(fields))


async def receive_frame(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(60):
        frame: dict[str, Any] = json.loads(await socket.recv())
    return frame


async def receive_until(socket: ClientConnection, *types: str) -> list[dict[str, Any]]:
    """Read to the first frame of one of those types."""
    frames = [await receive_frame(socket)]
    while frames[-1]["type"] not in types:
        frames.append(await receive_frame(socket))
    return frames


async def receive_until_close(socket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Read to the end; return the frames and the server's close code."""
    frames: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                frames.append(json.loads(await socket.recv()))
    assert socket.close_code is not None
    return frames, socket.close_code


def join_text(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["content"] for frame in frames if frame["type"] == "chunk")


def test_websocket_answer_has_ordered_ids_and_done_last() -> None:
    script: list[ScriptStep] = [(0.0, ThinkingDelta("hm")), *words_script(3, first_s=0.0)]

    async def main() -> list[dict[str, Any]]:
        async with open_socket(ScriptedAdapter(script)) as socket:
            await send_frame(socket, **CHAT_BODY)
            return await receive_until(socket, "done")

    frames = asyncio.run(main())
    stream_id = frames[0]["stream_id"]
    assert [frame["id"] for frame in frames] == [f"{stream_id}:{n}" for n in range(1, len(frames) + 1)]
    assert [frame["type"] for frame in frames] == [
        "start", "stage", "thinking", "stage", "chunk", "chunk", "chunk", "usage", "stage", "finish", "done"
    ]  # fmt: skip
    assert join_text(frames) == "w0 w1 w2 "
    assert frames[2]["content"] == "hm"
    assert frames[-2]["finish_reason"] == "stop"
    assert (frames[-2]["usage"]["output_tokens"], frames[-2]["cost_usd"], frames[-2]["delivered_chars"]) == (3, None, 9)


def test_websocket_questions_are_answered_in_order_on_own_streams() -> None:
    async def main() -> tuple[list[list[dict[str, Any]]], ScriptedAdapter]:
        adapter = ScriptedAdapter(words_script(3, first_s=0.0))
        async with open_socket(adapter) as socket:
            for number in range(5):  # one is answered, four wait
                await send_frame(socket, **{**CHAT_BODY, "message": f"question {number}"})
            answers = [await receive_until(socket, "done") for _ in range(5)]
            await send_frame(socket, **CHAT_BODY)
            answers.append(await receive_until(socket, "done"))
        return answers, adapter

    answers, adapter = asyncio.run(main())
    assert len({frames[0]["stream_id"] for frames in answers}) == 6
    assert [join_text(frames) for frames in answers] == ["w0 w1 w2 "] * 6
    assert [r.messages[-1].content for r in adapter.requests[:5]] == [f"question {n}" for n in range(5)]


def test_too_many_queued_questions_are_rejected_and_stop_answer() -> None:
    async def main() -> tuple[dict[str, Any], int, int]:
        adapter = ScriptedAdapter(ENDLESS_SCRIPT)
        async with open_socket(adapter) as socket:
            for _ in range(6):
                await send_frame(socket, **CHAT_BODY)
            frames, code = await receive_until_close(socket)
            await wait_until(lambda: adapter.open == 0)
            return frames[-1], code, len(adapter.requests)

    frame, code, requests = asyncio.run(main())
    assert (frame["error"]["rule"], code) == ("busy", 1008)
    assert requests <= 1


@pytest.mark.parametrize(
    "script",
    [SILENT_SCRIPT, [*words_script(3)[:3], *SILENT_SCRIPT], ENDLESS_SCRIPT],
    ids=["silent", "stalled", "flowing"],
)
def test_cancel_frame_returns_receipt_and_next_question_is_answered(script: list[ScriptStep]) -> None:
    async def main() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        adapter = ScriptedAdapter(script, words_script(2, first_s=0.0))
        async with open_socket(adapter) as socket:
            await send_frame(socket, **CHAT_BODY)
            await wait_until(
                lambda: adapter.open == 1 and adapter.given >= sum(delay_s < 1 for delay_s, _ in script[:3])
            )
            await send_frame(socket, type="cancel")
            await send_frame(socket, type="cancel")
            frames = await receive_until(socket, "cancelled", "done", "error")
            assert adapter.open == 0
            await send_frame(socket, type="cancel")  # nothing is under way: no harm, and none to the next
            await socket.ping()
            await send_frame(socket, **CHAT_BODY)
            return frames, await receive_until(socket, "cancelled", "done", "error")

    frames, after = asyncio.run(main())
    receipt = frames[-1]
    assert (receipt["type"], receipt["outcome"], receipt["finish_reason"]) == ("cancelled", "cancelled", None)
    assert receipt["delivered_chars"] == len(join_text(frames))
    assert receipt["stop_s"] >= 0
    assert (after[-1]["type"], join_text(after)) == ("done", "w0 w1 ")


def test_cancel_sent_with_question_stops_it() -> None:
    async def main() -> list[dict[str, Any]]:
        adapter = ScriptedAdapter(ENDLESS_SCRIPT)
        async with open_socket(adapter) as socket:
            for fields in (CHAT_BODY, {"type": "cancel"}):  # in one piece, as a fast click makes them
                socket.protocol.send_text(json.dumps(fields).encode())
            socket.transport.write(b"".join(socket.protocol.data_to_send()))
            return await receive_until(socket, "cancelled", "done", "error")

    frames = asyncio.run(main())
    assert frames[-1]["type"] == "cancelled"
    assert join_text(frames) == ""


def test_queued_question_is_answered_after_cancel() -> None:
    async def main() -> tuple[str, str]:
        adapter = ScriptedAdapter(ENDLESS_SCRIPT, words_script(2, first_s=0.0))
        async with open_socket(adapter) as socket:
            await send_frame(socket, **CHAT_BODY)
            await send_frame(socket, **CHAT_BODY)
            await wait_until(lambda: adapter.given > 3)
            await send_frame(socket, type="cancel")
            first = await receive_until(socket, "cancelled", "done")
            second = await receive_until(socket, "cancelled", "done")
            return first[-1]["type"], second[-1]["type"]

    assert asyncio.run(main()) == ("cancelled", "done")


def encode_body(**fields: Any) -> str:
    return json.dumps({**CHAT_BODY, **fields})


REJECTED_FRAMES: dict[str, tuple[str | bytes, str, int]] = {
    "not json": ("{", "body.json", 1007),
    "binary": (b'{"message": "a"}', "body.json", 1007),
    "half a surrogate": ('{"message": "\\ud800"}', "validation.unicode", 1007),
    "NaN": ('{"message": "a", "temperature": NaN}', "body.json", 1007),
    "not an object": ("[1]", "body.fields", 1008),
    "unknown type": (encode_body(type="shout"), "body.fields", 1008),
    "a type that is none": (encode_body(type=[]), "body.fields", 1008),
    "unknown field": (encode_body(colour="red"), "body.fields", 1008),
    "wrong type": (encode_body(message=5), "body.fields", 1008),
    "no place": ('{"type": "resume", "stream_id": "s", "last_id": "t:1"}', "body.fields", 1008),
    "huge number": ('{"type": "resume", "stream_id": "s", "last_id": ' + "9" * 18 + "}", "body.fields", 1008),
    "deep": ('{"message": ' + "[" * 9000 + "]" * 9000 + "}", "validation.depth", 1008),
    "long": (encode_body(message="a" * 32_001), "validation.length", 1008),
    "large": (encode_body(message="a" * 300_000), "validation.size", 1009),
}


@pytest.mark.parametrize("name", REJECTED_FRAMES)
def test_rejected_frame_gets_error_frame_before_close(name: str) -> None:
    sent, rule, code = REJECTED_FRAMES[name]

    async def main() -> tuple[list[dict[str, Any]], int, ScriptedAdapter]:
        adapter = ScriptedAdapter(words_script(1))
        async with open_socket(adapter) as socket:
            await socket.send(sent)
            return *await receive_until_close(socket), adapter

    frames, closed, adapter = asyncio.run(main())
    assert [frame["type"] for frame in frames] == ["error"]
    assert (frames[0]["error"]["rule"], closed) == (rule, code)
    assert frames[0]["error"]["message"] and "\n" not in frames[0]["error"]["message"]
    assert adapter.requests == []


@pytest.mark.parametrize("data", [b'{"message": "\xff\xfe"}', b"\xed\xa0\x80"], ids=["not utf-8", "a surrogate"])
def test_invalid_utf8_frame_gets_error_frame(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[list[dict[str, Any]], int]:
        async with open_socket(ScriptedAdapter(words_script(1))) as socket:
            socket.transport.write(Frame(Opcode.TEXT, data).serialize(mask=True))
            return await receive_until_close(socket)

    frames, code = asyncio.run(main())
    assert (frames[0]["error"]["rule"], code) == ("body.json", 1007)
    assert caplog.records == []


def test_oversized_frame_closes_with_1009() -> None:
    async def main() -> int:
        async with open_socket(ScriptedAdapter(words_script(1)), max_size=None) as socket:
            await socket.send("a" * 2_000_000)
            return (await receive_until_close(socket))[1]

    assert asyncio.run(main()) == 1009


@pytest.mark.parametrize(("name", "words"), [("opneai:x", "opneai"), ("openai:x", "OPENAI_API_KEY")])
def test_unknown_provider_gets_error_frame_and_session_continues(name: str, words: str) -> None:
    async def main() -> tuple[dict[str, Any], str]:
        async with (
            serve_providers(ProvidersWithoutModel(Settings())) as port,
            websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as socket,
        ):
            await send_frame(socket, message="a", provider=name)
            error = await receive_frame(socket)
            await send_frame(socket, message="a", provider="sim:steady")
            return error, (await receive_until(socket, "done", "error"))[-1]["type"]

    error, after = asyncio.run(main())
    assert (error["type"], error["error"]["type"], after) == ("error", "bad_request", "done")
    assert words in error["error"]["message"]


def test_every_websocket_question_counts_against_rate_limit() -> None:
    async def main() -> tuple[list[dict[str, Any]], int]:
        async with open_socket(ScriptedAdapter(words_script(1, first_s=0.0)), {"RATE_LIMIT": "2/minute"}) as socket:
            for _ in range(2):
                await send_frame(socket, **CHAT_BODY)
                await receive_until(socket, "done")
            await send_frame(socket, **CHAT_BODY)
            return await receive_until_close(socket)

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
def test_api_key_is_accepted_in_header_or_subprotocol(options: dict[str, Any], ends: str) -> None:
    async def main() -> tuple[dict[str, Any], str | None, int | None]:
        async with open_socket(ScriptedAdapter(words_script(1, first_s=0.0)), KEYS_VARIABLES, **options) as socket:
            await send_frame(socket, **CHAT_BODY)
            frames = await receive_until(socket, "done", "error")
            code = (await receive_until_close(socket))[1] if frames[-1]["type"] == "error" else None
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
def test_unlisted_origin_is_rejected(origin: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    variables = {**UNLIMITED_VARIABLES, "ALLOWED_ORIGINS": "https://listed.example"}

    async def main() -> tuple[int, bytes]:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(1))), variables) as port:
            url = f"ws://127.0.0.1:{port}/api/chat/ws"
            try:
                async with websockets.connect(url, additional_headers={"Origin": origin.format(port=port)}):
                    return 101, b""
            except websockets.InvalidStatus as refused:
                return refused.response.status_code, bytes(refused.response.body)

    result, body = asyncio.run(main())
    assert result == status
    assert result == 101 or json.loads(body)["error"]["rule"] == "origin"
    assert caplog.records == []


def test_oversized_upgrade_head_returns_431_and_closes() -> None:
    async def main() -> int:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(1)))) as port:
            fields = {
                "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
                "sec-websocket-key": base64.b64encode(bytes(16)).decode(), "cookie": "a" * 9000,
            }  # fmt: skip
            sent = await send_request(port, "/api/chat/ws", method="GET", headers=fields)
            async with asyncio.timeout(60):
                return (await sent.read_response())[0]

    assert asyncio.run(main()) == 431


def test_ping_during_answer_is_answered() -> None:
    async def main() -> None:
        async with open_socket(ScriptedAdapter(ENDLESS_SCRIPT)) as socket:
            await send_frame(socket, **CHAT_BODY)
            await receive_until(socket, "chunk")
            async with asyncio.timeout(60):
                await (await socket.ping())

    asyncio.run(main())


class DefectiveProviders(SingleAdapterProviders):
    """Providers with a defect: no session can be made."""

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        raise ZeroDivisionError


def test_internal_defect_is_logged_and_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[list[dict[str, Any]], int]:
        async with (
            serve_providers(DefectiveProviders(ScriptedAdapter([(0.0, FINISH)]))) as port,
            websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as socket,
        ):
            await send_frame(socket, **CHAT_BODY)
            return await receive_until_close(socket)

    frames, code = asyncio.run(main())
    assert (frames[-1]["error"]["type"], code) == ("internal", 1011)
    assert "ZeroDivisionError" in caplog.text
