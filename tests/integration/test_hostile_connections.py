"""Hostile connections: clients that send slowly or too much, forge addresses, or never read."""

import asyncio
import contextlib
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import websockets

from server.limits import ServiceLimits
from server.request_bounds import ConnectionLimits
from streaming.events import TextDelta
from tests.asgi_server import SingleAdapterProviders, serve_providers, wait_until
from tests.integration.service_over_simulator import SimulatorWithLog, run_simulator, send_request
from tests.scripted_adapter import ScriptedAdapter, ScriptStep, words_script
from tests.service_process import run_service_process

CHAT_BODY = {"message": "Name three colours.", "provider": "p", "strategy": "direct"}
CHAT, COMPLETIONS = "/api/chat", "/v1/chat/completions"
SILENT_SCRIPT: list[ScriptStep] = [(600.0, TextDelta("late"))]


NOT_LINGERING = ConnectionLimits(lingering_timeout_s=0.2)
SHORT_S = 15.0
"""Less than the defaults of the timeouts that these tests set."""


def make_brief_adapter() -> ScriptedAdapter:
    return ScriptedAdapter(words_script(2, first_s=0.0, gap_s=0.0))


async def send_and_read(port: int, data: bytes, patience_s: float = 60.0) -> bytes:
    """Send bytes and read until the server closes the connection. Raises TimeoutError after `patience_s`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(patience_s):
        result = await reader.read()
    writer.close()
    return result


HOSTILE_HEADS: dict[str, tuple[bytes, set[int]]] = {
    "a path that is not ASCII": (b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n", {400}),
    "half surrogates": (
        b"GET /api/chat/stream/%ED%A0%80?last_event_id=%ED%A0%80 HTTP/1.1\r\nhost: localhost\r\n",
        {400},
    ),
    "half surrogates in a header": (
        b"GET /api/chat/stream/x HTTP/1.1\r\nhost: localhost\r\nlast-event-id: \xed\xa0\x80\r\n",
        {400},
    ),
    "line ends": (b"DELETE /api/chat/stream/%0d%0aset-cookie:%20a=b HTTP/1.1\r\nhost: localhost\r\n", {404}),
    "null bytes": (b"GET /api/%00%0d%0a HTTP/1.1\r\nhost: localhost\r\n", {404}),
    "a long id": (b"GET /api/chat/stream/x?last_event_id=" + b"9" * 4000 + b" HTTP/1.1\r\nhost: localhost\r\n", {400}),
    "a strange key": (
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer \xff\xed\xa0\x80\r\n",
        {200},
    ),
    "a strange length": (b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1e3\r\n", {400}),
    "two lengths": (b"POST /api/chat HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 9\r\n", {400}),
    "length and chunks": (b"POST /api/chat HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n", {400}),
    "no target": (b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n", {404}),
    "another protocol": (
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, close\r\nupgrade: h2c\r\n",
        {200},
    ),
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", {400}),
    "a method of one's own": (b"TRACE /v1/models HTTP/1.1\r\nhost: localhost\r\n", {405}),
}


@pytest.mark.parametrize("name", HOSTILE_HEADS)
def test_hostile_request_head_is_answered_without_error_log(name: str, caplog: pytest.LogCaptureFixture) -> None:
    head, statuses = HOSTILE_HEADS[name]

    async def main() -> bytes:
        async with serve_providers(SingleAdapterProviders(make_brief_adapter())) as port:
            return await send_and_read(port, head + b"connection: close\r\n\r\n")

    answer = asyncio.run(main())
    assert int(answer.split(b" ", 2)[1]) in statuses
    assert b"\r\nset-cookie" not in answer.lower()
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


CHUNK = b"10000\r\n" + b"a" * 65536 + b"\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [({"content-length": "999999999999"}, b"{"), ({"transfer-encoding": "chunked"}, CHUNK * 8)],
    ids=["announced", "in chunks without end"],
)
def test_huge_body_is_rejected_before_it_arrives(headers: dict[str, str], body: bytes) -> None:
    async def main() -> bytes:
        async with serve_providers(SingleAdapterProviders(make_brief_adapter()), limits=NOT_LINGERING) as port:
            sent = await send_request(port, CHAT, body, headers={"connection": "keep-alive", **headers})
            async with asyncio.timeout(20):  # less than a body is waited for
                head = await sent.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 413")
                answer = await sent.reader.readuntil(b"}}")
                with contextlib.suppress(ConnectionResetError):
                    assert await sent.reader.read() == b""  # the rest is not waited for
            sent.drop()
            return answer

    assert json.loads(asyncio.run(main()))["error"]["rule"] == "validation.size"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_huge_body_rejection_reaches_client_that_sends_everything(path: str) -> None:
    def post_huge_body(url: str) -> tuple[int, Any]:
        request = urllib.request.Request(url, b'"' + b"a" * 20_000_000 + b'"', {"content-type": "application/json"})
        try:
            urllib.request.urlopen(request)  # which says `connection: close`, and reads when all was sent
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)
        return 200, None

    async def main() -> tuple[int, Any]:
        async with serve_providers(SingleAdapterProviders(make_brief_adapter())) as port:
            return await asyncio.to_thread(post_huge_body, f"http://127.0.0.1:{port}{path}")

    status, body = asyncio.run(main())
    assert (status, body["error"]["rule"]) == (413, "validation.size")


def test_missing_body_times_out_with_rejection() -> None:
    async def main() -> bytes:
        async with serve_providers(
            SingleAdapterProviders(make_brief_adapter()),
            limits=NOT_LINGERING,
            service_limits=ServiceLimits(body_timeout_s=0.2),
        ) as port:
            head = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            body = b'content-length: 99\r\n\r\n{"mess'
            # Kept alive by the client: the service has to close it.
            return await send_and_read(port, head + body, SHORT_S)

    head, _, body = asyncio.run(main()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"connection: close" in head.lower()
    assert json.loads(body)["error"]["rule"] == "body.time"


def test_client_leaving_mid_request_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        adapter = make_brief_adapter()
        async with serve_providers(SingleAdapterProviders(adapter)) as port:
            for path in (CHAT, COMPLETIONS):
                for part in (b"", b'{"mess'):
                    sent = await send_request(port, path, part, headers={"content-length": "99"})
                    await sent.writer.drain()
                    sent.drop()
            status, _, _ = await (await send_request(port, CHAT, CHAT_BODY)).read_response()
            assert (status, len(adapter.requests)) == (200, 1)

    asyncio.run(main())
    assert caplog.records == []


@pytest.mark.parametrize(
    "begun", [b"", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: "], ids=["nothing", "half a head"]
)
def test_missing_head_times_out_and_closes_connection(begun: bytes) -> None:
    limits = replace(NOT_LINGERING, header_timeout_s=0.2)

    async def main() -> bytes:
        async with serve_providers(SingleAdapterProviders(make_brief_adapter()), limits=limits) as port:
            try:
                return await send_and_read(port, begun, SHORT_S)
            except ConnectionResetError:
                return b""

    assert asyncio.run(main()) == b""


def test_request_id_is_forwarded_only_if_valid_as_header() -> None:
    async def main() -> list[str | None]:
        adapter = make_brief_adapter()
        async with serve_providers(SingleAdapterProviders(adapter)) as port:
            for entry in ("mine-7", "two words", "a" * 129, "caf\xe9", "a\tb"):
                await (
                    await send_request(port, CHAT, CHAT_BODY, headers={"x-client-request-id": entry})
                ).read_response()
        return [requests.request_id for requests in adapter.requests]

    mine, *others = asyncio.run(main())
    assert mine == "mine-7"
    assert all(other is not None and len(other) == 32 and int(other, 16) for other in others)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def main() -> bytes:
        async with serve_providers(SingleAdapterProviders(make_brief_adapter())) as port:
            body = json.dumps({**CHAT_BODY, "stream": False}).encode()
            head = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            ask = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
            missing = b"GET /api/nothing HTTP/1.1\r\nhost: localhost\r\n\r\n"
            last = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            return await send_and_read(port, ask + missing + ask + last)

    answer = asyncio.run(main())
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 404, 200, 200]
    assert answer.count(b'"content":"w0 w1 "') == 2


@pytest.mark.parametrize("stream", [True, False])
def test_client_leaving_with_pipelined_requests_stops_answer(stream: bool) -> None:
    async def main() -> int:
        adapter = ScriptedAdapter(SILENT_SCRIPT)
        async with serve_providers(SingleAdapterProviders(adapter)) as port:
            body = json.dumps({**CHAT_BODY, "stream": stream}).encode()
            head = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            ask = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ask)
            await wait_until(lambda: adapter.open == 1)
            writer.write(ask * 3)
            await writer.drain()
            writer.transport.abort()
            await wait_until(lambda: adapter.open == 0)
            return len(adapter.requests)

    assert asyncio.run(main()) == 1


def test_websocket_upgrade_pipelined_behind_question_stops_answer() -> None:
    async def main() -> bytes:
        adapter = ScriptedAdapter(SILENT_SCRIPT)
        async with serve_providers(SingleAdapterProviders(adapter)) as port:
            sent = await send_request(port, CHAT, CHAT_BODY, headers={"connection": "keep-alive"})
            await wait_until(lambda: adapter.open == 1)
            head = b"GET /api/chat/ws HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            key = b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            sent.writer.write(head + key)
            await wait_until(lambda: adapter.open == 0)
            try:
                return await sent.reader.read()
            except ConnectionResetError:
                return b""
            finally:
                sent.drop()

    assert b"101 Switching" not in asyncio.run(main())


@pytest.mark.parametrize(
    ("hops", "lines"),
    [
        ("0", "x-forwarded-for: 203.0.113.{n}\r\n"),
        ("1", "x-forwarded-for: 203.0.113.{n}, 198.51.100.7\r\n"),
        ("1", "x-forwarded-for: 203.0.113.{n}\r\nx-forwarded-for: 198.51.100.7\r\n"),
        ("1", "x-forwarded-for: 203.0.113.{n}\r\nx-forwarded-for: 192.0.2.{n}, 198.51.100.7\r\n"),
        ("2", "x-forwarded-for: 203.0.113.{n}, 198.51.100.7\r\nx-forwarded-for: 10.0.0.1\r\n"),
    ],
    ids=["no proxy", "appended by the proxy", "a line of the proxy's own", "both", "two proxies"],
)
def test_forged_forwarded_addresses_do_not_evade_rate_limit(hops: str, lines: str) -> None:
    async def main() -> list[int]:
        variables = {"RATE_LIMIT": "10/minute", "BUDGETS": "off", "TRUSTED_HOPS": hops}
        async with serve_providers(SingleAdapterProviders(make_brief_adapter()), variables) as port:
            return await asyncio.gather(*(ask_once(port, n) for n in range(50)))

    async def ask_once(port: int, number: int) -> int:
        body = json.dumps({**CHAT_BODY, "stream": False})
        head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
        head += f"{lines.format(n=number)}content-length: {len(body)}\r\n\r\n"
        return int((await send_and_read(port, (head + body).encode())).split()[1])

    statuses = asyncio.run(main())
    assert (statuses.count(200), statuses.count(429)) == (10, 40)


def open_stalled_reader(url: str) -> socket.socket:
    """Open a connection with a tiny receive buffer."""
    result = socket.socket()
    result.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    result.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    return result


def test_stalled_reader_is_dropped_with_its_answer() -> None:
    body = json.dumps({**CHAT_BODY, "provider": "openai:steady"})

    async def by_http(url: str, request_id: str) -> Callable[[], None]:
        reader = open_stalled_reader(url)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += f"x-client-request-id: {request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
        reader.sendall((head + body).encode())
        return reader.close

    async def by_socket(url: str, request_id: str) -> Callable[[], None]:
        connection = await websockets.connect(
            f"{url}/api/chat/ws".replace("http", "ws"),
            sock=open_stalled_reader(url),
            additional_headers={"x-client-request-id": request_id},
        )
        await connection.send(body)
        connection.transport.pause_reading()
        return connection.transport.abort

    async def main(url: str, simulator: SimulatorWithLog) -> None:
        ends = [await by_http(url, "by-http"), await by_socket(url, "by-socket")]
        for request_id in ("by-http", "by-socket"):
            await wait_until(lambda name=request_id: bool(simulator.events_of_request(name, "closed")), every_s=0.1)  # type: ignore[misc]  # bound
            (closed,) = simulator.events_of_request(request_id, "closed")
            assert closed["by"] == "client"
        for end in ends:
            end()

    variables = {"OPENAI_API_KEY": "k", "READER_TIMEOUT_S": "1"}
    with (
        run_simulator("--ttft-ms", "1", "--gap-ms", "5", "--tokens", "100000") as simulator,
        run_service_process(OPENAI_BASE_URL=f"{simulator.url}/v1", **variables) as url,
    ):
        asyncio.run(main(url, simulator))
