"""The connection pool: when a connection is reused, and when not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from benchmarks import http_fuzz
from streaming.http import connection_pool as pools
from streaming.http.connection import Origin
from streaming.http.connection_pool import ConnectError, ConnectionClosedError, ConnectionPool, Response
from streaming.http.response_parser import HTTPParseError
from tests.asgi_server import wait_until

REQUEST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
TWO_CHUNKS_BODY = b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class PoolServer:
    """The connections and requests that a server has received."""

    target: Origin
    accepted: int = 0
    requests: int = 0
    closed: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)


CONNECT_TIMEOUT_S = 60.0


@asynccontextmanager
async def run_pool_server(*answers: bytes, close_after: bool = False) -> AsyncIterator[PoolServer]:
    """Respond to each request of all connections with the next of `answers`, then always with the last one."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service.accepted += 1
        service.writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                service.requests += 1
                writer.write(left.pop(0) if len(left) > 1 else left[0])
                if close_after:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        service.closed += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    service = PoolServer(Origin(host, port))
    async with server:
        yield service
        for writer in service.writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def read_body(response: Response) -> bytes:
    parts: list[bytes] = []
    async with aclosing(response):
        await read_parts(response, parts)
    return b"".join(parts)


async def read_parts(response: Response, into: list[bytes]) -> None:
    while part := await response.more():
        into.append(part)


async def send_and_read(pool: ConnectionPool, service: PoolServer) -> bytes:
    return await read_body(await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S))


def test_pool_reuses_connection_after_complete_response() -> None:
    async def main() -> tuple[list[bytes], int, int]:
        async with (
            run_pool_server(CHUNKED_HEAD + b"\r\n" + TWO_CHUNKS_BODY) as service,
            aclosing(ConnectionPool()) as pool,
        ):
            bodies = [await send_and_read(pool, service) for _ in range(5)]
            return bodies, service.accepted, service.requests

    assert asyncio.run(main()) == ([b"abcde"] * 5, 1, 5)


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED_HEAD + b"connection: close\r\n\r\n" + TWO_CHUNKS_BODY,
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nConnection: Close\r\n\r\na",
    ],
)
def test_pool_does_not_reuse_connection_server_closes(answer: bytes) -> None:
    async def main() -> int:
        async with run_pool_server(answer) as service, aclosing(ConnectionPool()) as pool:
            await send_and_read(pool, service)
            await wait_until(lambda: service.closed == 1)
            await send_and_read(pool, service)
            return service.accepted

    assert asyncio.run(main()) == 2


def test_response_closed_mid_body_closes_connection() -> None:
    async def main() -> int:
        async with run_pool_server(CHUNKED_HEAD + b"\r\n2\r\nab\r\n") as service, aclosing(ConnectionPool()) as pool:
            response = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            assert await response.more() == b"ab"
            await response.aclose()
            await wait_until(lambda: service.closed == 1)
            return service.accepted

    assert asyncio.run(main()) == 1


def test_pool_skips_idle_connection_closed_by_server() -> None:
    async def main() -> bytes:
        async with (
            run_pool_server(CHUNKED_HEAD + b"\r\n" + TWO_CHUNKS_BODY) as service,
            aclosing(ConnectionPool()) as pool,
        ):
            await send_and_read(pool, service)
            service.writers[0].write(b"late")  # what comes unasked belongs to no request
            await service.writers[0].drain()
            return await send_and_read(pool, service)

    assert asyncio.run(main()) == b"abcde"


def test_idle_connection_expires_and_is_closed() -> None:
    async def main() -> None:
        async with (
            run_pool_server(CHUNKED_HEAD + b"\r\n" + TWO_CHUNKS_BODY) as service,
            aclosing(ConnectionPool(keepalive_expiry_s=0.05)) as pool,
        ):
            await send_and_read(pool, service)
            await wait_until(lambda: service.closed == 1)

    asyncio.run(main())


def test_concurrent_requests_use_own_connections_and_aclose_ends_all() -> None:
    async def main() -> tuple[int, int]:
        async with run_pool_server(CHUNKED_HEAD + b"\r\n2\r\nab\r\n") as service:
            async with aclosing(ConnectionPool()) as pool:
                responses = await asyncio.gather(
                    *(pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S) for _ in range(50))
                )
                accepted = service.accepted
            await wait_until(lambda: service.closed == 50)
            assert len(responses) == 50
            return accepted, service.closed

    assert asyncio.run(main()) == (50, 50)


def test_connection_faults_raise_distinct_errors_after_received_bytes() -> None:
    async def main() -> list[bytes]:
        parts: list[bytes] = []
        async with (
            run_pool_server(CHUNKED_HEAD + b"\r\n2\r\nab\r\n", close_after=True) as service,
            aclosing(ConnectionPool()) as pool,
        ):
            response = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            with pytest.raises(ConnectionClosedError):
                await read_parts(response, parts)
        async with (
            run_pool_server(CHUNKED_HEAD + b"\r\n2\r\ncd\r\nzz\r\n") as service,
            aclosing(ConnectionPool()) as pool,
        ):
            response = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            with pytest.raises(HTTPParseError):
                await read_parts(response, parts)
        async with run_pool_server(b"SMTP ready\r\n\r\n") as service, aclosing(ConnectionPool()) as pool:
            with pytest.raises(HTTPParseError):
                await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
        async with run_pool_server(b"", close_after=True) as service, aclosing(ConnectionPool()) as pool:
            with pytest.raises(ConnectionClosedError):
                await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
        with pytest.raises(ConnectError):
            await ConnectionPool().send(service.target, REQUEST, CONNECT_TIMEOUT_S)
        return parts

    assert asyncio.run(main()) == [b"ab", b"cd"]


def test_slow_reader_pauses_sender_and_receives_everything() -> None:
    size = 64 * 1024 * 1024  # more than the kernel's buffers take
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size

    async def main() -> tuple[bool, int]:
        async with run_pool_server(head) as service, aclosing(ConnectionPool()) as pool:
            response = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            (writer,) = service.writers
            writer.write(b"x" * size)
            sending = asyncio.create_task(writer.drain())
            waited, _ = await asyncio.wait([sending], timeout=0.5)
            result = len(await read_body(response))
            await sending
            return bool(waited), result

    assert asyncio.run(main()) == (False, size)


def test_pool_does_not_reuse_connection_with_unread_response() -> None:
    size = 2 * pools.MAX_UNREAD_BYTES
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size

    async def main() -> tuple[int, int]:
        async with run_pool_server(answer) as service, aclosing(ConnectionPool()) as pool:
            response = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            await service.writers[0].drain()
            await response.aclose()
            return len(await send_and_read(pool, service)), service.accepted

    assert asyncio.run(main()) == (size, 2)


def test_send_cancelled_before_head_closes_connection() -> None:
    async def main() -> None:
        async with run_pool_server(b"") as service, aclosing(ConnectionPool()) as pool:
            asking = asyncio.create_task(pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S))
            await wait_until(lambda: service.requests == 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await wait_until(lambda: service.closed == 1)

    asyncio.run(main())


def test_closed_response_does_not_affect_next_connection() -> None:
    async def main() -> tuple[bytes, bytes, int]:
        answers = (CHUNKED_HEAD + b"\r\n" + TWO_CHUNKS_BODY, CHUNKED_HEAD + b"\r\n4\r\nnext\r\n")
        async with run_pool_server(*answers) as service, aclosing(ConnectionPool()) as pool:
            old = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            assert await read_body(old) == b"abcde"
            new = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            await old.aclose()
            late = await old.more()
            result = await new.more()
            service.writers[0].write(b"0\r\n\r\n")
            assert await new.more() == b""
            return late, result, service.accepted

    assert asyncio.run(main()) == (b"", b"next", 1)


def test_ended_response_releases_connection_for_reuse() -> None:
    async def main() -> tuple[bytes, int]:
        async with (
            run_pool_server(CHUNKED_HEAD + b"\r\n" + TWO_CHUNKS_BODY) as service,
            aclosing(ConnectionPool()) as pool,
        ):
            old = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            await read_parts(old, [])  # to its end, and not closed
            new = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            assert await old.more() == b""
            await old.aclose()
            return await read_body(new), service.accepted

    assert asyncio.run(main()) == (b"abcde", 1)


def test_waiting_reader_reads_nothing_after_close_by_other_task() -> None:
    async def main() -> bytes:
        async with run_pool_server(CHUNKED_HEAD + b"\r\n2\r\nab\r\n") as service, aclosing(ConnectionPool()) as pool:
            response = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            assert await response.more() == b"ab"
            reading = asyncio.create_task(response.more())
            await asyncio.sleep(0)
            await response.aclose()
            async with asyncio.timeout(60):
                return await reading

    assert asyncio.run(main()) == b""


NOT_KEPT = {
    "bytes after the end": CHUNKED_HEAD
    + b"\r\n"
    + TWO_CHUNKS_BODY
    + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    "a length and chunks": CHUNKED_HEAD + b"content-length: 5\r\n\r\n" + TWO_CHUNKS_BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nabcde",
    "close among others": CHUNKED_HEAD + b"connection: x, CLOSE\r\n\r\n" + TWO_CHUNKS_BODY,
}


@pytest.mark.parametrize("name", NOT_KEPT)
def test_connection_with_ambiguous_response_is_not_reused(name: str) -> None:
    async def main() -> tuple[list[bytes], int]:
        async with run_pool_server(NOT_KEPT[name]) as service, aclosing(ConnectionPool()) as pool:
            bodies = [await send_and_read(pool, service) for _ in range(2)]
            return bodies, service.accepted

    assert asyncio.run(main()) == ([b"abcde"] * 2, 2)


def test_connection_with_early_response_is_not_reused() -> None:
    request = REQUEST.replace(b"content-length: 0", b"content-length: 64000000") + b"x" * 64_000_000

    async def main() -> tuple[list[bytes], int]:
        accepted, over = 0, asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal accepted
            accepted += 1
            await reader.readline()
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
            await over.wait()  # the request's body is never read
            writer.transport.abort()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, aclosing(ConnectionPool()) as pool:
            target = Origin(*server.sockets[0].getsockname())
            bodies = [await read_body(await pool.send(target, request, CONNECT_TIMEOUT_S)) for _ in range(2)]
            over.set()
            return bodies, accepted

    assert asyncio.run(main()) == ([b"no", b"no"], 2)


def test_bytes_after_fault_are_not_read() -> None:
    answer = CHUNKED_HEAD + b"\r\n2\r\nab\r\nzz\r\n"

    async def main() -> list[bytes]:
        parts: list[bytes] = []
        async with run_pool_server(answer) as service, aclosing(ConnectionPool()) as pool:
            response = await pool.send(service.target, REQUEST, CONNECT_TIMEOUT_S)
            service.writers[0].write(b"3\r\nnot\r\n")
            with pytest.raises(HTTPParseError):
                await read_parts(response, parts)
            await wait_until(lambda: service.closed == 1)
        return parts

    assert asyncio.run(main()) == [b"ab"]


def test_mutated_responses_never_leak_between_requests() -> None:
    async def main() -> http_fuzz.Result:
        async with asyncio.timeout(120):
            return await http_fuzz.fuzz_pool(300, seed=20)

    result = asyncio.run(main())
    assert result.problems == []
    assert result.counts["read"] > 100 and result.counts["connections"] < 300
