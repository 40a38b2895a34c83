"""Connections that are kept for the next request: when they are used again, and when never."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from benchmarks import http_fuzz
from streaming import pool as pools
from streaming.connecting import Target
from streaming.http1 import Http1Error
from streaming.pool import Ended, NoConnection, Pool, Response
from tests.serving import until

REQUEST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
TWO = b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Served:
    """What a server has seen."""

    target: Target
    accepted: int = 0
    requests: int = 0
    closed: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)


@asynccontextmanager
async def answering(*answers: bytes, close_after: bool = False) -> AsyncIterator[Served]:
    """Answer each request of all connections with the next of `answers`, the last one for all further ones."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.accepted += 1
        served.writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                served.requests += 1
                writer.write(left.pop(0) if len(left) > 1 else left[0])
                if close_after:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        served.closed += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    served = Served(Target(host, port))
    async with server:
        yield served
        for writer in served.writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def body_of(response: Response) -> bytes:
    parts: list[bytes] = []
    async with aclosing(response):
        await take(response, parts)
    return b"".join(parts)


async def take(response: Response, into: list[bytes]) -> None:
    while part := await response.more():
        into.append(part)


async def ask(pool: Pool, served: Served) -> bytes:
    return await body_of(await pool.ask(served.target, REQUEST, 5))


def test_a_connection_is_used_again_once_its_response_is_complete() -> None:
    async def main() -> tuple[list[bytes], int, int]:
        async with answering(CHUNKED + b"\r\n" + TWO) as served, aclosing(Pool()) as pool:
            bodies = [await ask(pool, served) for _ in range(5)]
            return bodies, served.accepted, served.requests

    assert asyncio.run(main()) == ([b"abcde"] * 5, 1, 5)


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"connection: close\r\n\r\n" + TWO,
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nConnection: Close\r\n\r\na",
    ],
)
def test_one_that_the_server_wants_closed_is_not(answer: bytes) -> None:
    async def main() -> int:
        async with answering(answer) as served, aclosing(Pool()) as pool:
            await ask(pool, served)
            await until(lambda: served.closed == 1)
            await ask(pool, served)
            return served.accepted

    assert asyncio.run(main()) == 2


def test_one_whose_answer_was_left_in_the_middle_is_closed_at_once() -> None:
    async def main() -> int:
        async with answering(CHUNKED + b"\r\n2\r\nab\r\n") as served, aclosing(Pool()) as pool:
            response = await pool.ask(served.target, REQUEST, 5)
            assert await response.more() == b"ab"
            await response.aclose()
            await until(lambda: served.closed == 1)
            return served.accepted

    assert asyncio.run(main()) == 1


def test_one_that_the_server_has_ended_meanwhile_is_not_used() -> None:
    async def main() -> bytes:
        async with answering(CHUNKED + b"\r\n" + TWO) as served, aclosing(Pool()) as pool:
            await ask(pool, served)
            served.writers[0].write(b"late")  # what comes unasked belongs to no request
            await served.writers[0].drain()
            return await ask(pool, served)

    assert asyncio.run(main()) == b"abcde"


def test_an_idle_one_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "IDLE_S", 0.05)

    async def main() -> None:
        async with answering(CHUNKED + b"\r\n" + TWO) as served, aclosing(Pool()) as pool:
            await ask(pool, served)
            await until(lambda: served.closed == 1)

    asyncio.run(main())


def test_requests_at_once_have_a_connection_each_and_closing_ends_them_all() -> None:
    async def main() -> tuple[int, int]:
        async with answering(CHUNKED + b"\r\n2\r\nab\r\n") as served:
            async with aclosing(Pool()) as pool:
                responses = await asyncio.gather(*(pool.ask(served.target, REQUEST, 5) for _ in range(50)))
                accepted = served.accepted
            await until(lambda: served.closed == 50)
            assert len(responses) == 50
            return accepted, served.closed

    assert asyncio.run(main()) == (50, 50)


def test_faults_are_told_apart_and_what_came_before_is_given() -> None:
    async def main() -> list[bytes]:
        parts: list[bytes] = []
        async with answering(CHUNKED + b"\r\n2\r\nab\r\n", close_after=True) as served, aclosing(Pool()) as pool:
            response = await pool.ask(served.target, REQUEST, 5)
            with pytest.raises(Ended):
                await take(response, parts)
        async with answering(CHUNKED + b"\r\n2\r\ncd\r\nzz\r\n") as served, aclosing(Pool()) as pool:
            response = await pool.ask(served.target, REQUEST, 5)
            with pytest.raises(Http1Error):
                await take(response, parts)
        async with answering(b"SMTP ready\r\n\r\n") as served, aclosing(Pool()) as pool:
            with pytest.raises(Http1Error):
                await pool.ask(served.target, REQUEST, 5)
        async with answering(b"", close_after=True) as served, aclosing(Pool()) as pool:
            with pytest.raises(Ended):
                await pool.ask(served.target, REQUEST, 5)
        with pytest.raises(NoConnection):
            await Pool().ask(served.target, REQUEST, 5)
        return parts

    assert asyncio.run(main()) == [b"ab", b"cd"]


def test_a_reader_that_waits_stops_the_sender_and_gets_all_in_the_end() -> None:
    size = 64 * 1024 * 1024  # more than the kernel's buffers take
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size

    async def main() -> tuple[bool, int]:
        async with answering(head) as served, aclosing(Pool()) as pool:
            response = await pool.ask(served.target, REQUEST, 5)
            (writer,) = served.writers
            writer.write(b"x" * size)
            sending = asyncio.create_task(writer.drain())
            waited, _ = await asyncio.wait([sending], timeout=0.5)
            found = len(await body_of(response))
            await sending
            return bool(waited), found

    assert asyncio.run(main()) == (False, size)


def test_one_whose_whole_response_was_left_unread_is_not_used_again() -> None:
    size = 2 * pools._UNREAD_BYTES
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size

    async def main() -> tuple[int, int]:
        async with answering(answer) as served, aclosing(Pool()) as pool:
            response = await pool.ask(served.target, REQUEST, 5)
            await served.writers[0].drain()
            await response.aclose()
            return len(await ask(pool, served)), served.accepted

    assert asyncio.run(main()) == (size, 2)


def test_asking_can_be_cancelled_before_the_head() -> None:
    async def main() -> None:
        async with answering(b"") as served, aclosing(Pool()) as pool:
            asking = asyncio.create_task(pool.ask(served.target, REQUEST, 5))
            await until(lambda: served.requests == 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await until(lambda: served.closed == 1)

    asyncio.run(main())


def test_a_response_that_was_closed_leaves_the_connection_of_the_next_one_alone() -> None:
    async def main() -> tuple[bytes, bytes, int]:
        answers = (CHUNKED + b"\r\n" + TWO, CHUNKED + b"\r\n4\r\nnext\r\n")
        async with answering(*answers) as served, aclosing(Pool()) as pool:
            old = await pool.ask(served.target, REQUEST, 5)
            assert await body_of(old) == b"abcde"
            new = await pool.ask(served.target, REQUEST, 5)
            await old.aclose()
            late = await old.more()
            found = await new.more()
            served.writers[0].write(b"0\r\n\r\n")
            assert await new.more() == b""
            return late, found, served.accepted

    assert asyncio.run(main()) == (b"", b"next", 1)


def test_a_response_that_has_ended_leaves_its_connection_to_the_next_one() -> None:
    async def main() -> tuple[bytes, int]:
        async with answering(CHUNKED + b"\r\n" + TWO) as served, aclosing(Pool()) as pool:
            old = await pool.ask(served.target, REQUEST, 5)
            await take(old, [])  # to its end, and not closed
            new = await pool.ask(served.target, REQUEST, 5)
            assert await old.more() == b""
            await old.aclose()
            return await body_of(new), served.accepted

    assert asyncio.run(main()) == (b"abcde", 1)


def test_a_reader_that_waits_while_another_task_closes_reads_nothing() -> None:
    async def main() -> bytes:
        async with answering(CHUNKED + b"\r\n2\r\nab\r\n") as served, aclosing(Pool()) as pool:
            response = await pool.ask(served.target, REQUEST, 5)
            assert await response.more() == b"ab"
            reading = asyncio.create_task(response.more())
            await asyncio.sleep(0)
            await response.aclose()
            async with asyncio.timeout(5):
                return await reading

    assert asyncio.run(main()) == b""


NOT_KEPT = {
    "bytes after the end": CHUNKED + b"\r\n" + TWO + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    "a length and chunks": CHUNKED + b"content-length: 5\r\n\r\n" + TWO,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nabcde",
    "close among others": CHUNKED + b"connection: x, CLOSE\r\n\r\n" + TWO,
}


@pytest.mark.parametrize("name", NOT_KEPT)
def test_a_connection_whose_response_is_in_doubt_is_not_kept(name: str) -> None:
    async def main() -> tuple[list[bytes], int]:
        async with answering(NOT_KEPT[name]) as served, aclosing(Pool()) as pool:
            bodies = [await ask(pool, served) for _ in range(2)]
            return bodies, served.accepted

    assert asyncio.run(main()) == ([b"abcde"] * 2, 2)


def test_a_connection_that_answered_before_the_request_was_sent_is_not_kept() -> None:
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

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, aclosing(Pool()) as pool:
            target = Target(*server.sockets[0].getsockname())
            bodies = [await body_of(await pool.ask(target, request, 5)) for _ in range(2)]
            over.set()
            return bodies, accepted

    assert asyncio.run(main()) == ([b"no", b"no"], 2)


def test_bytes_after_a_fault_are_not_read() -> None:
    answer = CHUNKED + b"\r\n2\r\nab\r\nzz\r\n"

    async def main() -> list[bytes]:
        parts: list[bytes] = []
        async with answering(answer) as served, aclosing(Pool()) as pool:
            response = await pool.ask(served.target, REQUEST, 5)
            served.writers[0].write(b"3\r\nnot\r\n")
            with pytest.raises(Http1Error):
                await take(response, parts)
            await until(lambda: served.closed == 1)
        return parts

    assert asyncio.run(main()) == [b"ab"]


def test_two_users_of_mutated_responses_never_get_a_byte_of_each_other() -> None:
    async def main() -> http_fuzz.Result:
        async with asyncio.timeout(120):
            return await http_fuzz.fuzz_pool(300, seed=20)

    result = asyncio.run(main())
    assert result.problems == []
    assert result.counts["read"] > 100 and result.counts["connections"] < 300
