"""Exchanges on timestamped sockets over real connections: endings, timestamps, and that nothing stays open."""

import asyncio
import os
import re
import ssl
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import pytest

from simulator.certificate import make_self_signed
from simulator.server import read_log
from streaming.clock import monotonic
from streaming.http.addresses import AddressInfo
from streaming.http.connection import Origin, Proxy
from streaming.http.response_parser import ResponseParser
from streaming.http.timed_exchange import ExchangeTimeouts, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector
from tests.arrival_times import assert_arrived_after_sends, assert_arrived_between_sends
from tests.integration.raw_server import WAIT_TIMEOUT_S, RawConnection, RawServer, Script, run_raw_server
from tests.integration.silent_address import open_silent_address
from tests.simulator_process import PATHS, encode_request, question_body, run_simulator_process

T = TypeVar("T")
REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
LIMITS = ExchangeTimeouts(connect_s=WAIT_TIMEOUT_S, total_s=4 * WAIT_TIMEOUT_S)


@asynccontextmanager
async def open_selector(*, kernel_timestamps: bool = True) -> AsyncIterator[TimestampingSelector]:
    sockets = TimestampingSelector(kernel_timestamps=kernel_timestamps)
    try:
        yield sockets
    finally:
        sockets.close()


def run_against(script: Script, test: Callable[[TimestampingSelector, Origin, RawServer], Awaitable[T]]) -> T:
    """Run a test against a server, and see that every connection ends with it."""

    async def main() -> T:
        async with run_raw_server(script) as server, open_selector() as sockets:
            result = await test(sockets, Origin("127.0.0.1", server.port), server)
            if server.opened:
                await server.wait_idle()
            return result

    return asyncio.run(main())


def exchange_to_end(script: Script, limits: ExchangeTimeouts = LIMITS) -> TimedExchange:
    async def test(sockets: TimestampingSelector, target: Origin, _: RawServer) -> TimedExchange:
        async with TimedExchange(sockets, target, REQUEST, limits) as exchange:
            await exchange.wait_closed()
        return exchange

    return run_against(script, test)


def join_body(exchange: TimedExchange) -> bytes:
    return b"".join(read.data for read in exchange.reads)


async def send_whole(connection: RawConnection) -> None:
    connection.send_response("text/plain", b"hello")


async def send_until_close(connection: RawConnection) -> None:
    connection.writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
    connection.cut()


async def send_with_length(connection: RawConnection) -> None:
    connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


async def cut_body(connection: RawConnection) -> None:
    connection.start("text/plain")
    connection.send(b"hello")
    connection.cut()


async def reset_body(connection: RawConnection) -> None:
    connection.start("text/plain")
    connection.send(b"hello")
    await connection.writer.drain()
    await asyncio.sleep(0.2)
    connection.reset()


async def send_then_stay_silent(connection: RawConnection) -> None:
    connection.start("text/plain")
    connection.send(b"hello")
    await connection.wait_client_left()


async def close_without_answer(connection: RawConnection) -> None:
    connection.cut()


async def send_smtp_greeting(connection: RawConnection) -> None:
    connection.writer.write(b"220 mail.example ESMTP\r\n")


@pytest.mark.parametrize(
    ("script", "ending", "output"),
    [
        (send_whole, "complete", b"hello"),
        (send_until_close, "complete", b"hello"),
        (send_with_length, "complete", b"hello"),
        (cut_body, "closed", b"hello"),
        (reset_body, "reset", b"hello"),
        (close_without_answer, "closed", b""),
        (send_smtp_greeting, "not_http", b""),
    ],
)
def test_exchange_reports_how_it_ended(script: Script, ending: str, output: bytes) -> None:
    exchange = exchange_to_end(script)
    assert (exchange.ending, join_body(exchange)) == (ending, output)
    assert exchange.ended_s is not None and exchange.sent_s is not None
    assert exchange.queued_s <= exchange.sent_s <= exchange.ended_s


@pytest.mark.parametrize(
    ("limits", "ending"), [(ExchangeTimeouts(idle_s=0.2), "idle"), (ExchangeTimeouts(total_s=0.2), "total")]
)
def test_exchange_timeout_ends_it_and_keeps_received_bytes(limits: ExchangeTimeouts, ending: str) -> None:
    exchange = exchange_to_end(send_then_stay_silent, limits)
    assert (exchange.ending, join_body(exchange)) == (ending, b"hello")
    assert exchange.begun_s is not None and exchange.ended_s is not None
    assert exchange.ended_s - exchange.begun_s >= 0.2


def test_exchange_with_closed_port_is_unreachable() -> None:
    async def main() -> TimedExchange:
        async with run_raw_server(send_whole) as server:
            port = server.port
        async with (
            open_selector() as sockets,
            TimedExchange(sockets, Origin("127.0.0.1", port), REQUEST, LIMITS) as exchange,
        ):
            return exchange

    exchange = asyncio.run(main())
    assert exchange.ending == "unreachable"
    assert isinstance(exchange.fault, ConnectionRefusedError)
    assert (exchange.sent_s, exchange.first_byte_s) == (None, None)
    assert not exchange.found_closed, "another connection would be refused too"


class HeldGate:
    """A gate that opens when the test says so, and says that a request has come to it."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.opened.wait()


def test_exchange_with_a_gate_has_its_connection_before_and_sends_when_it_opens() -> None:
    async def test(sockets: TimestampingSelector, target: Origin, server: RawServer) -> tuple[TimedExchange, float]:
        gate = HeldGate()

        async def open_later() -> float:
            await asyncio.wait_for(gate.reached.wait(), WAIT_TIMEOUT_S)
            assert server.opened == 1 and not server.requests
            opened_s = monotonic()
            gate.opened.set()
            return opened_s

        opening = asyncio.create_task(open_later())
        async with TimedExchange(sockets, target, REQUEST, LIMITS, gate.wait) as exchange:
            await exchange.wait_closed()
        return exchange, await opening

    exchange, opened_s = run_against(send_whole, test)
    assert exchange.ending == "complete" and not exchange.found_closed
    assert exchange.connected_s is not None and exchange.sent_s is not None and exchange.begun_s is not None
    assert exchange.connected_s <= opened_s <= exchange.begun_s <= exchange.sent_s, "timeouts count from the gate"
    assert exchange.connect_s is not None and exchange.connect_s <= exchange.connected_s - exchange.queued_s


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"])
def test_exchange_whose_peer_leaves_before_the_gate_opens_has_sent_nothing(greeting: bytes) -> None:
    async def main() -> TimedExchange:
        async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            writer.close()

        async with await asyncio.start_server(leave, "127.0.0.1", 0) as server, open_selector() as sockets:
            target = Origin("127.0.0.1", server.sockets[0].getsockname()[1])
            exchange = TimedExchange(sockets, target, REQUEST, LIMITS, lambda: exchange.wait_closed())
            async with exchange:
                return exchange

    exchange = asyncio.run(main())
    assert (exchange.ending, exchange.sent_s, exchange.response_head) == ("closed", None, None)
    assert exchange.found_closed, "it can be sent over another connection"


def test_exchange_that_could_not_connect_in_time_is_not_sent_again_after_its_gate() -> None:
    async def main(address: AddressInfo) -> TimedExchange:
        async with open_selector() as sockets:
            limits, target = ExchangeTimeouts(connect_s=0.1), Origin(*address[4][:2])
            async with TimedExchange(sockets, target, REQUEST, limits, partial(asyncio.sleep, 0)) as exchange:
                return exchange

    with open_silent_address() as address:
        exchange = asyncio.run(main(address))
    assert exchange.ending == "connect_timeout" and not exchange.found_closed


def test_gate_that_raises_closes_the_connection_of_its_exchange() -> None:
    async def withdraw() -> None:
        raise LookupError("not now")

    async def test(sockets: TimestampingSelector, target: Origin, server: RawServer) -> int:
        with pytest.raises(LookupError, match="not now"):
            async with TimedExchange(sockets, target, REQUEST, LIMITS, withdraw):
                pass
        await server.wait_idle()
        return len(server.requests)

    assert run_against(send_whole, test) == 0


def test_live_exchange_yields_chunks_as_they_are_sent() -> None:
    was_read = asyncio.Semaphore(1)

    async def send_when_read(connection: RawConnection) -> None:
        connection.start("text/plain")
        for part in (b"one", b"two", b"three"):
            await was_read.acquire()
            connection.send(part)
            await connection.writer.drain()
        await was_read.acquire()
        connection.end()

    async def test(sockets: TimestampingSelector, target: Origin, _: RawServer) -> list[bytes]:
        parts: list[bytes] = []
        async with TimedExchange(sockets, target, REQUEST, LIMITS) as exchange:
            async for read in exchange.aiter_chunks():
                parts.append(read.data)
                was_read.release()
        return parts

    assert run_against(send_when_read, test) == [b"one", b"two", b"three"]


def test_exchange_sends_large_request_completely() -> None:
    async def echo_length(connection: RawConnection) -> None:
        connection.send_response("text/plain", str(len(connection.body)).encode())

    async def test(sockets: TimestampingSelector, target: Origin, _: RawServer) -> TimedExchange:
        request = b"POST /x HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000)
        async with TimedExchange(sockets, target, request, LIMITS) as exchange:
            await exchange.wait_closed()
        return exchange

    assert join_body(run_against(echo_length, test)) == b"20000000"


def block_until_answered(log: str) -> None:
    """Block this thread, and the event loop with it, until the simulator has sent its whole answer."""
    while not any(line["event"] == "closed" for line in read_log(log)):
        time.sleep(0.001)


@pytest.mark.parametrize(("kernel", "source"), [(True, "kernel"), (False, "callback")])
def test_blocked_loop_keeps_kernel_timestamps_and_counts_merged_reads(
    kernel: bool, source: str, tmp_path: Path
) -> None:
    """The event loop is blocked while the simulator sends most of its tokens, 20 ms apart: merged reads are marked."""

    async def main(url: str) -> TimedExchange:
        host, port = url.rpartition("/")[2].split(":")
        request = encode_request(PATHS["openai"], question_body("openai"))
        async with open_selector(kernel_timestamps=kernel) as sockets:
            async with TimedExchange(sockets, Origin(host, int(port)), request, LIMITS) as exchange:
                async with aclosing(exchange.aiter_chunks()) as reads:
                    await anext(reads)
                block_until_answered(log)
                blocked_until_s.append(monotonic())
                await exchange.wait_closed()
            return exchange

    blocked_until_s: list[float] = []
    log = str(tmp_path / "log.jsonl")
    with run_simulator_process("--tokens", "30", "--ttft-ms", "50", "--gap-ms", "20", "--log", log) as url:
        exchange = asyncio.run(main(url))
    assert (exchange.ending, exchange.timestamp_source) == ("complete", source)
    merged = [read for read in exchange.reads if read.merged]
    assert exchange.merged_reads == len(merged) >= 1
    most = max(merged, key=lambda read: len(read.data))  # a busy machine may have merged two of the others as well
    assert most.data.count(b"data: ") >= 3
    assert exchange.unread_max_s > 0.03
    # The kernel saw the last of them while the loop stood still; the callback only afterwards.
    assert (most.at_s < blocked_until_s[0]) is kernel


def token_times_s(exchange: TimedExchange) -> list[float]:
    """Return the timestamp of each token of an answer: that of the read with its last byte."""
    ends = [match.end() for match in re.finditer(rb'"content": ?"[^"]+"', join_body(exchange))]
    sizes = list(accumulate(len(read.data) for read in exchange.reads))
    return [exchange.reads[bisect_left(sizes, end)].at_s for end in ends]


def run_burst(url: str, streams: int, context: ssl.SSLContext | None) -> list[TimedExchange]:
    host, port = url.rpartition("/")[2].split(":")

    async def exchange_once(sockets: TimestampingSelector, number: int) -> TimedExchange:
        request = encode_request(PATHS["openai"], question_body("openai"), {"x-client-request-id": f"n{number}"})
        async with TimedExchange(sockets, Origin(host, int(port), context), request, LIMITS) as exchange:
            await exchange.wait_closed()
        return exchange

    async def main() -> list[TimedExchange]:
        async with open_selector() as sockets:
            return await asyncio.gather(*(exchange_once(sockets, number) for number in range(streams)))

    return asyncio.run(main())


@pytest.mark.parametrize("tls", [False, True])
def test_timestamps_of_64_streams_agree_with_simulator_log(tls: bool, tmp_path: Path) -> None:
    log, context, options = str(tmp_path / "log.jsonl"), None, list[str]()
    if tls:
        certificate, key = make_self_signed(tmp_path)
        context = ssl.create_default_context(cafile=certificate)
        options = ["--tls-cert", certificate, "--tls-key", key]
    with run_simulator_process("--tokens", "20", "--gap-ms", "20", "--log", log, *options) as url:
        exchanges = run_burst(url, 64, context)
    sent = [line for line in read_log(log) if "seq" in line]
    assert "kernel" in {exchange.timestamp_source for exchange in exchanges}
    for number, exchange in enumerate(exchanges):
        assert exchange.ending == "complete"
        true_s = [float(str(line["at_s"])) for line in sent if line["request_id"] == f"n{number}"]
        assert len(true_s) == 20
        at_s = token_times_s(exchange)
        # Where the machine is busy some reads merge, or one has no stamp of the kernel's, and the exchange says so; the
        # stamps of the others are right however late they were read.
        is_exact = exchange.timestamp_source == "kernel" and not exchange.merged_reads
        (assert_arrived_between_sends if is_exact else assert_arrived_after_sends)(at_s, true_s)


def test_cancelled_exchange_closes_connection_at_any_stage() -> None:
    async def late(connection: RawConnection) -> None:
        await connection.wait_client_left()

    async def test(sockets: TimestampingSelector, target: Origin, server: RawServer) -> None:
        async def one() -> None:
            async with TimedExchange(sockets, target, REQUEST, LIMITS) as exchange:
                await exchange.wait_closed()

        before = len(os.listdir("/proc/self/fd"))
        for number in range(200):
            task = asyncio.create_task(one())
            if number % 10:
                for _ in range(number % 10):
                    await asyncio.sleep(0)
            else:
                await server.next_request()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            if number % 10 == 0:
                await server.requests[-1].wait_client_left()
        await asyncio.wait_for(server.idle.wait(), WAIT_TIMEOUT_S)
        # The first exchange may have started the thread that looks names up.
        assert len(os.listdir("/proc/self/fd")) <= before + 1

    run_against(late, test)


def test_proxy_rejecting_tunnel_ends_exchange_as_unreachable() -> None:
    async def refuse(connection: RawConnection) -> None:
        connection.writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    async def test(
        sockets: TimestampingSelector, near: Origin, server: RawServer
    ) -> tuple[TimedExchange, RawConnection]:
        context = ssl.create_default_context()
        target = Origin("api.example", 443, context, Proxy.basic(near.host, near.port, "me", "secret"))
        async with TimedExchange(sockets, target, REQUEST, LIMITS) as exchange:
            return exchange, server.requests[0]

    exchange, requests = run_against(refuse, test)
    assert exchange.ending == "unreachable"
    assert "407" in str(exchange.fault)
    assert requests.path == "api.example:443"
    assert requests.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


def test_tls_exchange_through_proxy_tunnel_completes(tmp_path: Path) -> None:
    certificate, key = make_self_signed(tmp_path)

    async def main(url: str) -> TimedExchange:
        host, port = url.rpartition("/")[2].split(":")
        over = asyncio.Event()
        async with await asyncio.start_server(partial(run_tunnel_proxy, over), "127.0.0.1", 0) as proxy:
            near = proxy.sockets[0].getsockname()
            target = Origin(host, int(port), ssl.create_default_context(cafile=certificate), Proxy(near[0], near[1]))
            request = encode_request(PATHS["openai"], question_body("openai"))
            async with open_selector() as sockets, TimedExchange(sockets, target, request, LIMITS) as exchange:
                await exchange.wait_closed()
            await asyncio.wait_for(over.wait(), WAIT_TIMEOUT_S)
        return exchange

    with run_simulator_process("--tokens", "3", "--tls-cert", certificate, "--tls-key", key) as url:
        exchange = asyncio.run(main(url))
    assert exchange.ending == "complete"
    assert join_body(exchange).endswith(b"data: [DONE]\n\n")


async def run_tunnel_proxy(over: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


def test_untrusted_certificate_ends_exchange_as_unreachable(tmp_path: Path) -> None:
    certificate, key = make_self_signed(tmp_path)
    with run_simulator_process("--tokens", "3", "--tls-cert", certificate, "--tls-key", key) as url:
        exchange = run_burst(url, 1, ssl.create_default_context())[0]
    assert exchange.ending == "unreachable"
    assert isinstance(exchange.fault, ssl.SSLCertVerificationError)


def test_response_parser_without_body_is_complete_after_head() -> None:
    reader = ResponseParser(has_body=False)
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\n") == b""
    assert reader.complete
