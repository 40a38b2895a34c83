"""Limits of a connection over real sockets: endless heads, trailers, bodies and WebSocket messages."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response

from evaluation.backends.service_process import wait_for_local_model
from server.request_bounds import ConnectionLimits
from tests.asgi_server import SingleAdapterProviders, serve_providers
from tests.integration.captured_service import run_service
from tests.integration.service_over_simulator import scrape_metrics
from tests.scripted_adapter import ScriptedAdapter, words_script

HOST = b"host: localhost\r\n"
CLOSE = b"connection: close\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
LAST = GET + CLOSE + b"\r\n"
CHUNKED = HOST + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
UPGRADE = (
    b"GET /api/chat/ws HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + HOST
)
NOT_LINGERING = ConnectionLimits(lingering_timeout_s=0.2)
"""Only what a test says must be late has a short timeout: a busy machine may be late with anything else."""
BRIEF_BODY = replace(NOT_LINGERING, body_timeout_s=0.3)
ENDLESS = 3_000_000


def brief() -> ScriptedAdapter:
    return ScriptedAdapter(words_script(2, first_s=0.0, gap_s=0.0))


def answers(
    data: bytes,
    limits: ConnectionLimits = NOT_LINGERING,
    piece: int = 65536,
    add_routes: Callable[[FastAPI], None] = lambda app: None,
) -> tuple[list[int], bytes]:
    """Send data until the service closes the connection; return the statuses and all received bytes."""

    async def main() -> bytes:
        async with serve_providers(SingleAdapterProviders(brief()), limits=limits, add_routes=add_routes) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)

            async def send() -> None:
                with suppress(ConnectionError):
                    for start in range(0, len(data), piece):
                        writer.write(data[start : start + piece])
                        await writer.drain()

            sending = asyncio.create_task(send())
            output = b""
            async with asyncio.timeout(30):
                with suppress(ConnectionResetError):
                    while part := await reader.read(65536):
                        output += part
                await sending
            writer.close()
            return output

    output = asyncio.run(main())
    return [int(entry) for entry in re.findall(rb"HTTP/1\.1 (\d{3})", output)], output


def padded(start: bytes, size: int) -> bytes:
    """Return a head of exactly that size."""
    return start + b"x: " + b"a" * (size - len(start) - len("x: \r\n\r\n")) + b"\r\n\r\n"


def test_head_at_limit_is_accepted_and_larger_one_rejected() -> None:
    assert answers(padded(GET + CLOSE, 65_536))[0] == [200]
    statuses, output = answers(padded(GET + CLOSE, 65_537))
    assert statuses == [431]
    head, _, body = output.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert json.loads(body)["error"] | {"message": ""} == {
        "type": "head_too_large",
        "message": "",
        "rule": "request.head",
        "retry_after_s": None,
    }


def test_large_head_in_openai_api_is_rejected_in_openai_shape() -> None:
    _, output = answers(b"GET /v1/models HTTP/1.1\r\n" + HOST + b"x: a\r\n" * 201 + b"\r\n")
    error = json.loads(output.partition(b"\r\n\r\n")[2])["error"]
    assert (error["type"], error["code"], error["rule"]) == ("invalid_request_error", "head_too_large", "request.head")


def test_header_lines_at_limit_are_accepted_and_more_rejected() -> None:
    assert answers(GET + CLOSE + b"x:\r\n" * 198 + b"\r\n")[0] == [200]
    assert answers(GET + CLOSE + b"x:\r\n" * 199 + b"\r\n")[0] == [431]


HEADS_WITHOUT_END: dict[str, bytes] = {
    "many lines": GET + b"".join(b"x-%d: %s\r\n" % (n, b"a" * 1000) for n in range(ENDLESS // 1000)),
    "one line": GET + b"x: " + b"a" * ENDLESS,
    "a name": GET + b"x" * ENDLESS,
    "white space": GET + b"x: " + b" " * ENDLESS,
    "a target": b"GET /" + b"a" * ENDLESS,
    "a target in a question": b"POST /v1/chat/completions?" + b"a" * ENDLESS,
    "empty lines": b"\r\n" * ENDLESS,
    "empty lines between requests": GET + b"\r\n" + b"\r\n" * ENDLESS,
    "HTTP/1.0": b"GET / HTTP/1.0\r\nx: " + b"a" * ENDLESS,
    "an upgrade": UPGRADE + b"x: " + b"a" * ENDLESS,
}


@pytest.mark.parametrize("name", HEADS_WITHOUT_END)
def test_endless_head_is_rejected_early(name: str) -> None:
    statuses, _ = answers(HEADS_WITHOUT_END[name])
    assert statuses in ([431], [200, 431])


@pytest.mark.parametrize("path", [b"/api/chat", b"/healthz", b"/v1/nothing", b"/nothing"])
@pytest.mark.parametrize(
    "body",
    [
        b"2\r\n{}\r\n0\r\nt: " + b"a" * ENDLESS,
        b"2\r\n{}\r\n0\r\n" + b"t: a\r\n" * ENDLESS,
        b"2;" + b"a" * ENDLESS,
        b"2;" + b"a=b;" * ENDLESS,
        b"0" * ENDLESS,
    ],
    ids=["one trailer", "trailers", "an extension", "extensions", "a size"],
)
def test_endless_chunk_framing_is_rejected(path: bytes, body: bytes) -> None:
    statuses, _ = answers(b"POST " + path + b" HTTP/1.1\r\n" + CHUNKED + body)
    assert statuses in ([431], [404], [405])


def test_body_in_tiny_chunks_is_accepted_despite_framing_size() -> None:
    body = json.dumps({"message": "a" * 3000, "provider": "p", "stream": False}).encode() + b" " * 20_000
    chunks = b"".join(b"0001;x=%s\r\n%c\r\n" % (b"y" * 20, byte) for byte in body) + b"0\r\nt: a\r\n\r\n"
    statuses, output = answers(b"POST /api/chat HTTP/1.1\r\n" + CLOSE + CHUNKED + chunks, ConnectionLimits())
    assert statuses == [200] and b'"content":"w0 w1 "' in output


def test_head_byte_by_byte_is_accepted() -> None:
    assert answers(padded(GET + CLOSE, 20_000), ConnectionLimits(), piece=1)[0] == [200]


def test_requests_on_one_connection_are_counted_anew() -> None:
    one = padded(GET, 40_000)
    assert answers(one * 5 + LAST)[0] == [200] * 6


@pytest.mark.parametrize(
    ("bad", "status"), [(padded(GET, 70_000), 431), (b"NO HTTP\r\n\r\n", 400)], ids=["too large", "no http"]
)
def test_rejection_of_pipelined_request_follows_earlier_responses(bad: bytes, status: int) -> None:
    assert answers(GET + b"\r\n" + GET + b"\r\n" + bad)[0] == [200, 200, status]


def test_rejection_during_answer_does_not_mix_with_it() -> None:
    body = json.dumps({"message": "Hi.", "provider": "p", "strategy": "direct"}).encode()
    ask = b"POST /api/chat HTTP/1.1\r\n" + HOST + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    statuses, output = answers(ask % (len(body), body) + padded(GET, 70_000))
    assert statuses == [200, 431]
    assert output.index(b"[DONE]") < output.index(b"HTTP/1.1 431")


def test_pipelined_requests_on_one_connection_are_bounded() -> None:
    statuses, _ = answers((GET + b"\r\n") * 5000)
    assert 100 <= len(statuses) <= 600 and statuses[-1] == 400 and set(statuses[:-1]) == {200}


@pytest.mark.parametrize("path", [b"/api/nothing", b"/nothing", b"/healthz"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_unread_body_does_not_hold_connection(method: bytes, path: bytes) -> None:
    head = method + b" " + path + b" HTTP/1.1\r\n" + HOST + b"content-length: 999999999\r\n\r\n"
    statuses, _ = answers(head + b"a" * 100_000)
    assert len(statuses) == 1 and statuses[0] in (200, 404, 405)


@pytest.mark.parametrize("framing", [b"content-length: 9000000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"])
def test_body_read_completely_by_route_is_bounded(framing: bytes) -> None:
    chunk = b"a" * 65536 if b"length" in framing else b"10000\r\n" + b"a" * 65536 + b"\r\n"
    head = b"POST /read HTTP/1.1\r\n" + HOST + framing
    statuses, read = reading_answers(head + chunk * 100)
    assert statuses == [413]
    assert read <= ConnectionLimits().body_bytes


def test_missing_body_times_out_on_any_route() -> None:
    late = b"POST /read HTTP/1.1\r\n" + HOST + b"content-length: 9\r\n\r\nabc"
    statuses, _ = reading_answers(late, BRIEF_BODY)
    assert statuses == [408]


def reading_answers(data: bytes, limits: ConnectionLimits = NOT_LINGERING) -> tuple[list[int], int]:
    """Send data to a route that reads whole bodies, like the page's; return the statuses and the received size."""
    got = 0

    async def read(request: Request) -> Response:
        nonlocal got
        async for part in request.stream():
            got += len(part)
        return Response()

    statuses, _ = answers(data, limits, add_routes=lambda app: app.add_route("/read", read, methods=["POST"]))
    return statuses, got


def frame(opcode: int, payload: bytes, *, fin: bool = True, announced: int | None = None) -> bytes:
    """Return a client's frame, masked with nulls; `announced` is the length in its header."""
    size = len(payload) if announced is None else announced
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack("!Q", size)
    return bytes([fin << 7 | opcode]) + length + bytes(4) + payload


def upgrade(client: socket.socket) -> None:
    """Open a WebSocket on a connection."""
    client.sendall(UPGRADE + b"\r\n")
    output = b""
    while not output.endswith(b"\r\n\r\n"):
        output += client.recv(1)
    assert output.startswith(b"HTTP/1.1 101")


def closed_with(*sent: bytes, limits: ConnectionLimits = NOT_LINGERING) -> int:
    """Send frames on a WebSocket until the service closes, which it must; return the code that it closed with."""

    def talk(port: int) -> bytes:
        # A plain socket still gives what came before a reset.
        with closing(socket.create_connection(("127.0.0.1", port), timeout=120)) as client:
            upgrade(client)
            output = b""
            with suppress(ConnectionError):
                for part in sent:
                    client.sendall(part)
            with suppress(ConnectionError):
                while part := client.recv(4096):
                    output += part
            return output

    async def main() -> bytes:
        async with serve_providers(SingleAdapterProviders(brief()), limits=limits) as port:
            return await asyncio.to_thread(talk, port)

    return int.from_bytes(re.findall(rb"\x88[\x02-\x7d](..)", asyncio.run(main()), re.DOTALL)[-1], "big")


def test_websocket_message_in_too_many_fragments_closes_socket() -> None:
    assert closed_with(frame(1, b"", fin=False), *[frame(0, b"", fin=False) * 100] * 100) == 1009


def test_websocket_message_growing_too_large_closes_socket() -> None:
    assert closed_with(frame(1, b"", fin=False), *[frame(0, b"a" * 65536, fin=False)] * 20) == 1009


def test_websocket_frame_announcing_too_much_closes_socket() -> None:
    assert closed_with(frame(1, b"", announced=1 << 40)) == 1009


def test_unfinished_websocket_message_closes_socket() -> None:
    assert closed_with(frame(1, b'{"mess', fin=False), limits=BRIEF_BODY) == 1008


def test_websocket_message_in_few_fragments_is_accepted() -> None:
    body = json.dumps({"message": "Hi."}).encode()
    parts = [frame(1 if not n else 0, body[n : n + 1], fin=n == len(body) - 1) for n in range(len(body))]
    refused = frame(1, b"not json")
    assert closed_with(*parts, refused, limits=ConnectionLimits()) == 1007  # and not before


def test_compressed_websocket_frame_is_not_inflated() -> None:
    offer = UPGRADE.replace(HOST, HOST + b"sec-websocket-extensions: permessage-deflate\r\n")
    assert b"permessage-deflate" not in answers_until(offer + b"\r\n", b"\r\n\r\n").lower()
    assert closed_with(bytes([0xC1]) + frame(1, b"\x4a\x4c\x04")[1:]) == 1002


def answers_until(data: bytes, end: bytes) -> bytes:
    async def main() -> bytes:
        async with serve_providers(SingleAdapterProviders(brief()), limits=NOT_LINGERING) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            async with asyncio.timeout(30):
                result = await reader.readuntil(end)
            writer.close()
            return result

    return asyncio.run(main())


@pytest.mark.parametrize("name", ["a long line", "many lines"])
def test_websocket_head_over_library_limit_is_rejected_with_message(name: str) -> None:
    lines = {"a long line": b"x: " + b"a" * 9000 + b"\r\n", "many lines": b"x: a\r\n" * 150}[name]
    statuses, output = answers(UPGRADE + lines + b"\r\n")
    assert statuses == [431]
    assert json.loads(output.partition(b"\r\n\r\n")[2])["error"]["rule"] == "request.head"


def test_pings_of_stalled_client_are_not_answered_forever() -> None:
    pings = frame(9, b"a" * 125) * 500

    with run_service() as service:
        wait_for_local_model(service.address)
        resident = memory_of(service.process.pid)
        with closing(socket.socket()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", service.port))
            client.settimeout(120)
            upgrade(client)
            for _ in range(600):  # 39 MB, whose answers are as many
                client.sendall(pings)
            assert memory_of(service.process.pid) - resident < 10_000


def test_heads_without_end_grow_nothing_and_hold_nobody_up() -> None:
    line = b"x-%06d: " + b"a" * 1000 + b"\r\n"
    heads = [b"".join(line % (number * 1000 + n) for n in range(1000)) for number in range(30)]

    def bomb(port: int) -> None:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=120)) as client:
            client.sendall(GET)
            with suppress(ConnectionError):
                for head in heads:
                    client.sendall(head)

    with run_service() as service:
        wait_for_local_model(service.address)
        assert is_healthy(service.port)
        resident = memory_of(service.process.pid)
        with ThreadPoolExecutor(3) as bombs:
            running = [bombs.submit(bomb, service.port) for _ in range(3)]
            while not all(one.done() for one in running):
                assert is_healthy(service.port)
            for one in running:
                one.result()
        assert memory_of(service.process.pid) - resident < 10_000
        log = service.stderr_text()
    assert "Traceback" not in log


def memory_of(pid: int) -> int:
    """Return the most that a process has had resident, in kB, its own pages alone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def is_healthy(port: int) -> bool:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=120)) as client:
        client.sendall(LAST)
        return client.recv(100).startswith(b"HTTP/1.1 200")


def test_rejections_are_counted() -> None:
    async def main() -> dict[str, float]:
        async with serve_providers(SingleAdapterProviders(brief()), limits=NOT_LINGERING) as port:
            for head in (padded(GET, 70_000), b"NO HTTP\r\n\r\n", UPGRADE + b"x: a\r\n" * 150 + b"\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(head)
                async with asyncio.timeout(30):
                    await reader.read()
                writer.close()
            return await scrape_metrics(port)

    result = asyncio.run(main())
    assert result['streamgauge_refusals_total{rule="request.head"}'] == 2
    assert result['streamgauge_refusals_total{rule="request.syntax"}'] == 1


@pytest.mark.parametrize("part", [b"\r\n", b"x: a\r\n"], ids=["empty lines", "header lines"])
def test_slow_head_after_response_does_not_hold_connection(part: bytes) -> None:
    limits = replace(NOT_LINGERING, header_timeout_s=1.0)

    async def main() -> None:
        async with serve_providers(SingleAdapterProviders(brief()), limits=limits) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET + b"\r\n")
            await reader.readuntil(b"}")
            writer.write(b"" if part == b"\r\n" else GET)
            async with asyncio.timeout(30):
                with suppress(ConnectionError):
                    while not reader.at_eof():
                        writer.write(part)
                        await writer.drain()
                        await asyncio.sleep(0.05)  # so slowly that no bound of size is met
            writer.close()

    asyncio.run(main())
