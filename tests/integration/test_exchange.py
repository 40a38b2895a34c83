"""Exchanges on stamped sockets, over real ones: how they end, what their stamps say, and that nothing is left open."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from simulator.certificate import self_signed
from simulator.server import read_log
from streaming.clock import monotonic
from streaming.connecting import Proxy, Target
from streaming.exchange import Exchange, Limits
from streaming.http1 import ResponseReader
from streaming.sockets import Sockets
from tests.integration.raw_server import WAIT_S, Connection, RawServer, Script, raw_server
from tests.simulator_process import PATHS, question, request, simulator_process

T = TypeVar("T")
ASKED = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
LIMITS = Limits(connect_s=WAIT_S, total_s=4 * WAIT_S)


@asynccontextmanager
async def opened_sockets(*, kernel_stamps: bool = True) -> AsyncIterator[Sockets]:
    sockets = Sockets(kernel_stamps=kernel_stamps)
    try:
        yield sockets
    finally:
        sockets.close()


def against(script: Script, test: Callable[[Sockets, Target, RawServer], Awaitable[T]]) -> T:
    """Run a test against a server, and see that every connection ends with it."""

    async def main() -> T:
        async with raw_server(script) as server, opened_sockets() as sockets:
            found = await test(sockets, Target("127.0.0.1", server.port), server)
            if server.opened:
                await server.all_gone()
            return found

    return asyncio.run(main())


def ended(script: Script, limits: Limits = LIMITS) -> Exchange:
    async def test(sockets: Sockets, target: Target, _: RawServer) -> Exchange:
        async with Exchange(sockets, target, ASKED, limits) as exchange:
            await exchange.wait()
        return exchange

    return against(script, test)


def body(exchange: Exchange) -> bytes:
    return b"".join(read.data for read in exchange.reads)


async def whole(connection: Connection) -> None:
    connection.whole("text/plain", b"hello")


async def until_the_close(connection: Connection) -> None:
    connection.writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
    connection.cut()


async def with_a_length(connection: Connection) -> None:
    connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


async def cut(connection: Connection) -> None:
    connection.start("text/plain")
    connection.send(b"hello")
    connection.cut()


async def reset(connection: Connection) -> None:
    connection.start("text/plain")
    connection.send(b"hello")
    await connection.writer.drain()
    await asyncio.sleep(0.2)
    connection.reset()


async def silent(connection: Connection) -> None:
    connection.start("text/plain")
    connection.send(b"hello")
    await connection.client_left()


async def no_answer(connection: Connection) -> None:
    connection.cut()


async def no_http(connection: Connection) -> None:
    connection.writer.write(b"220 mail.example ESMTP\r\n")


@pytest.mark.parametrize(
    ("script", "ending", "said"),
    [
        (whole, "complete", b"hello"),
        (until_the_close, "complete", b"hello"),
        (with_a_length, "complete", b"hello"),
        (cut, "closed", b"hello"),
        (reset, "reset", b"hello"),
        (no_answer, "closed", b""),
        (no_http, "not_http", b""),
    ],
)
def test_how_it_ends_is_told(script: Script, ending: str, said: bytes) -> None:
    exchange = ended(script)
    assert (exchange.ending, body(exchange)) == (ending, said)
    assert exchange.ended_s is not None and exchange.sent_s is not None
    assert exchange.queued_s <= exchange.sent_s <= exchange.ended_s


@pytest.mark.parametrize(("limits", "ending"), [(Limits(idle_s=0.2), "idle"), (Limits(total_s=0.2), "total")])
def test_a_limit_ends_it_with_what_came(limits: Limits, ending: str) -> None:
    exchange = ended(silent, limits)
    assert (exchange.ending, body(exchange)) == (ending, b"hello")
    assert exchange.begun_s is not None and exchange.ended_s is not None
    assert 0.2 <= exchange.ended_s - exchange.begun_s < 2


def test_where_nobody_listens_it_is_unreachable() -> None:
    async def main() -> Exchange:
        async with raw_server(whole) as server:
            port = server.port
        async with opened_sockets() as sockets, Exchange(sockets, Target("127.0.0.1", port), ASKED, LIMITS) as exchange:
            return exchange

    exchange = asyncio.run(main())
    assert exchange.ending == "unreachable"
    assert isinstance(exchange.fault, ConnectionRefusedError)
    assert (exchange.sent_s, exchange.first_byte_s) == (None, None)


def test_live_the_parts_come_as_they_are_sent() -> None:
    async def slow(connection: Connection) -> None:
        connection.start("text/plain")
        for part in (b"one", b"two", b"three"):
            connection.send(part)
            await connection.writer.drain()
            await asyncio.sleep(0.1)
        connection.end()

    async def test(sockets: Sockets, target: Target, _: RawServer) -> list[tuple[bytes, float]]:
        async with Exchange(sockets, target, ASKED, LIMITS) as exchange:
            return [(read.data, monotonic() - read.at_s) async for read in exchange.live()]

    parts = against(slow, test)
    assert [data for data, _ in parts] == [b"one", b"two", b"three"]
    assert all(-0.001 < late_s < 0.09 for _, late_s in parts)


def test_a_large_request_is_sent_whole() -> None:
    async def echo_length(connection: Connection) -> None:
        connection.whole("text/plain", str(len(connection.body)).encode())

    async def test(sockets: Sockets, target: Target, _: RawServer) -> Exchange:
        asked = b"POST /x HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000)
        async with Exchange(sockets, target, asked, LIMITS) as exchange:
            await exchange.wait()
        return exchange

    assert body(against(echo_length, test)) == b"20000000"


def blocked_for(seconds: float) -> None:
    until_s = monotonic() + seconds
    while monotonic() < until_s:
        pass


@pytest.mark.parametrize(("kernel", "source"), [(True, "kernel"), (False, "callback")])
def test_the_stamps_come_from_where_they_say_and_merged_reads_are_told(kernel: bool, source: str) -> None:
    """The loop stands still while the simulator sends three tokens, 20 ms apart: what was lost is marked."""

    async def main(url: str) -> Exchange:
        host, port = url.rpartition("/")[2].split(":")
        asked = request(PATHS["openai"], question("openai"))
        async with opened_sockets(kernel_stamps=kernel) as sockets:
            async with Exchange(sockets, Target(host, int(port)), asked, LIMITS) as exchange:
                async with aclosing(exchange.live()) as reads:
                    for _ in range(5):
                        await anext(reads)
                blocked_for(0.07)
                blocked_until_s.append(monotonic())
                await exchange.wait()
            return exchange

    blocked_until_s: list[float] = []
    with simulator_process("--tokens", "10", "--ttft-ms", "50", "--gap-ms", "20") as url:
        exchange = asyncio.run(main(url))
    assert (exchange.ending, exchange.stamp_source) == ("complete", source)
    merged = [read for read in exchange.reads if read.merged]
    assert exchange.merged_reads == len(merged) >= 1
    most = max(merged, key=lambda read: len(read.data))  # a busy machine may have merged two of the others as well
    assert most.data.count(b"data: ") >= 3
    assert exchange.unread_max_s > 0.03
    # The kernel saw the last of them while the loop stood still; the callback only afterwards.
    assert (most.at_s < blocked_until_s[0]) is kernel


def burst(url: str, streams: int, context: ssl.SSLContext | None) -> list[Exchange]:
    host, port = url.rpartition("/")[2].split(":")

    async def one(sockets: Sockets, number: int) -> Exchange:
        asked = request(PATHS["openai"], question("openai"), {"x-client-request-id": f"n{number}"})
        async with Exchange(sockets, Target(host, int(port), context), asked, LIMITS) as exchange:
            await exchange.wait()
        return exchange

    async def main() -> list[Exchange]:
        async with opened_sockets() as sockets:
            return await asyncio.gather(*(one(sockets, number) for number in range(streams)))

    return asyncio.run(main())


@pytest.mark.parametrize("tls", [False, True])
def test_64_streams_agree_with_the_simulators_log(tls: bool, tmp_path: Path) -> None:
    log, context, options = str(tmp_path / "log.jsonl"), None, list[str]()
    if tls:
        certificate, key = self_signed(tmp_path)
        context = ssl.create_default_context(cafile=certificate)
        options = ["--tls-cert", certificate, "--tls-key", key]
    with simulator_process("--tokens", "20", "--gap-ms", "20", "--log", log, *options) as url:
        exchanges = burst(url, 64, context)
    sent = [line for line in read_log(log) if "seq" in line]
    errors_s = []
    for number, exchange in enumerate(exchanges):
        assert (exchange.ending, exchange.stamp_source) == ("complete", "kernel")
        stamps_s = {read.at_s for read in exchange.reads}
        true_s = [float(str(line["at_s"])) for line in sent if line["request_id"] == f"n{number}"]
        assert len(true_s) == 20
        errors_s += [min(abs(stamp_s - at_s) for stamp_s in stamps_s) for at_s in true_s]
    # Where the machine is busy some reads merge; the stamps of the others are right however late they were read.
    assert sorted(errors_s)[len(errors_s) // 2] < 0.001


def test_cancelling_closes_the_connection_at_any_moment() -> None:
    async def late(connection: Connection) -> None:
        await connection.client_left()

    async def test(sockets: Sockets, target: Target, server: RawServer) -> float:
        async def one() -> None:
            async with Exchange(sockets, target, ASKED, LIMITS) as exchange:
                await exchange.wait()

        before = len(os.listdir("/proc/self/fd"))
        took_s = 0.0
        for number in range(200):
            task = asyncio.create_task(one())
            if number % 10:
                for _ in range(number % 10):
                    await asyncio.sleep(0)
            else:
                await server.asked()
            task.cancel()
            called_s = monotonic()
            with suppress(asyncio.CancelledError):
                await task
            if number % 10 == 0:
                await server.requests[-1].client_left()
            took_s = max(took_s, monotonic() - called_s)
        await asyncio.wait_for(server.idle.wait(), WAIT_S)
        # The first exchange may have started the thread that looks names up.
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        return took_s

    assert against(late, test) < 1


def test_a_proxy_is_asked_for_a_tunnel_and_may_refuse_it() -> None:
    async def refuse(connection: Connection) -> None:
        connection.writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    async def test(sockets: Sockets, near: Target, server: RawServer) -> tuple[Exchange, Connection]:
        context = ssl.create_default_context()
        target = Target("api.example", 443, context, Proxy.basic(near.host, near.port, "me", "secret"))
        async with Exchange(sockets, target, ASKED, LIMITS) as exchange:
            return exchange, server.requests[0]

    exchange, asked = against(refuse, test)
    assert exchange.ending == "unreachable"
    assert "407" in str(exchange.fault)
    assert asked.path == "api.example:443"
    assert asked.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


def test_tls_goes_through_a_proxys_tunnel(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)

    async def main(url: str) -> Exchange:
        host, port = url.rpartition("/")[2].split(":")
        over = asyncio.Event()
        async with await asyncio.start_server(partial(tunnel, over), "127.0.0.1", 0) as proxy:
            near = proxy.sockets[0].getsockname()
            target = Target(host, int(port), ssl.create_default_context(cafile=certificate), Proxy(near[0], near[1]))
            asked = request(PATHS["openai"], question("openai"))
            async with opened_sockets() as sockets, Exchange(sockets, target, asked, LIMITS) as exchange:
                await exchange.wait()
            await asyncio.wait_for(over.wait(), WAIT_S)
        return exchange

    with simulator_process("--tokens", "3", "--tls-cert", certificate, "--tls-key", key) as url:
        exchange = asyncio.run(main(url))
    assert exchange.ending == "complete"
    assert body(exchange).endswith(b"data: [DONE]\n\n")


async def tunnel(over: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a proxy for one connection."""
    host, _, port = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode().rpartition(":")
    far_reader, far_writer = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                sink.write(data)
        sink.close()
        with suppress(ConnectionError):
            await sink.wait_closed()

    await asyncio.gather(relay(reader, far_writer), relay(far_reader, writer))
    over.set()


def test_a_certificate_of_nobodys_is_refused(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with simulator_process("--tokens", "3", "--tls-cert", certificate, "--tls-key", key) as url:
        exchange = burst(url, 1, ssl.create_default_context())[0]
    assert exchange.ending == "unreachable"
    assert isinstance(exchange.fault, ssl.SSLCertVerificationError)


def test_the_reader_of_a_tunnels_answer_waits_for_no_body() -> None:
    reader = ResponseReader(has_body=False)
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\n") == b""
    assert reader.complete
