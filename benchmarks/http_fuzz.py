"""Fuzz the HTTP response parser and the connection pool with mutated responses, and count the outcomes.

python -m benchmarks.http_fuzz [--responses N] [--pooled N] [--seed N]

Each response is built at random, then mutated in up to four places. The parser receives it whole, byte by byte and cut
at random positions; it may raise only its own errors, and all three must have the same outcome. Through the pool two
users send requests to one server at the same time, leave early, close twice and read after closing; neither may receive
a byte of the other's response. The same seed reproduces the same responses. The exit code is 1 if there is a problem.
"""

import argparse
import asyncio
import itertools
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from streaming.http.connection import Origin
from streaming.http.connection_pool import ConnectError, ConnectionClosedError, ConnectionPool, Response
from streaming.http.response_parser import HTTPParseError, ResponseParser

MARKS = {"A": b"\xe1", "B": b"\xe2"}
"""The byte that each user's response bodies consist of; it occurs nowhere else."""
_CONNECT_S = 10.0
_TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0\r\n\r\n",
    b"\r\n\r\n",
    b"5\r\n",
    b"ffffffffffffffff",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 103 Early\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n",
    b" folded\r\n",
    b"X: \xff\xfe\r\n",
    b"-1",
    b"+",
    b"x" * 9000,
)
_STATUSES = (b"200 OK", b"200", b"204 No Content", b"304 Not Modified", b"404 Not Found", b"500 Oh", b"101 Switching")
_HEADERS = (
    b"Content-Type: text/event-stream\r\n",
    b"Connection: close\r\n",
    b"Connection: Keep-Alive\r\n",
    b"X-A: b\r\n c\r\n",
    b"Via: a\r\nvia: b\r\n",
    b"X-Empty:\r\n",
    b"Retry-After: 3\r\n",
)
_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
Outcome = tuple[object, ...]


@dataclass
class Result:
    """The counts of outcomes, and the problems with the numbers of their responses."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def build_response(rng: random.Random, mark: bytes = b"a") -> bytes:
    """Return a random response that a server may send."""
    body = mark * rng.choice((0, 1, 5, 300, rng.randrange(2000)))
    version = rng.choice((b"1.1", b"1.1", b"1.1", b"1.0"))
    head = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * rng.choice((0, 0, 0, 1, 3, 17))
    head += b"HTTP/" + version + b" " + rng.choice(_STATUSES) + b"\r\n"
    head += b"".join(rng.sample(_HEADERS, rng.randrange(4)))
    match rng.randrange(8):
        case 0:
            framing, sent = b"", body
        case 1 | 2:
            framing, sent = b"Content-Length: %d\r\n" % len(body), body
        case 3:
            framing, sent = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(body), _chunk(rng, body)
        case _:
            framing, sent = b"Transfer-Encoding: chunked\r\n", _chunk(rng, body)
    raw = head + framing + b"\r\n" + sent
    return raw.replace(b"\r\n", b"\n") if rng.random() < 0.1 else raw


def mutate(rng: random.Random, raw: bytes) -> bytes:
    """Return the response with up to four random mutations."""
    for _ in range(rng.randrange(5)):
        start = rng.randrange(len(raw) + 1)
        end = min(len(raw), start + rng.choice((0, 1, 1, 2, 9, 200)))
        match rng.randrange(6):
            case 0:
                raw = raw[:start] + raw[end:]
            case 1:
                raw = raw[:start] + raw[start:end] * 2 + raw[end:]
            case 2:
                raw = raw[:start] + bytes([rng.randrange(128)]) + raw[start + 1 :]
            case 3 if rng.random() < 0.3:
                raw = raw[:start]
            case _:
                raw = raw[:start] + rng.choice(_TOKENS) + raw[start:]
    return raw


def read_in_pieces(raw: bytes, cuts: Sequence[int]) -> Outcome:
    """Return the parser's outcome for a response cut at these positions. Any exception raised is a defect."""
    reader, body, error = ResponseParser(), b"", ""
    try:
        for start, end in itertools.pairwise((0, *cuts, len(raw))):
            body += reader.feed(raw[start:end])
    except HTTPParseError as fault:
        body, error = body + fault.body, type(fault).__name__
    else:
        error = "" if reader.flush() else "cut"
    return reader.head, body, error, reader.complete, reader.allows_reuse


def fuzz_reader(responses: int, seed: int) -> Result:
    """Parse this number of mutated responses, each whole, byte by byte and in random pieces."""
    rng, result = random.Random(seed), Result()
    for number in range(responses):
        raw = mutate(rng, build_response(rng))
        cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.randrange(8)))
        try:
            whole = read_in_pieces(raw, ())
            others = {"byte by byte": read_in_pieces(raw, range(1, len(raw))), "at random": read_in_pieces(raw, cuts)}
        except Exception as error:  # a defect, reported with its response
            result.problems.append(f"response {number}: {error!r} for {raw[:200]!r}")
            continue
        result.counts[str(whole[2]) or "complete"] += 1
        result.problems += [
            f"response {number}, {way}: {entry} instead of {whole}" for way, entry in others.items() if entry != whole
        ]
    return result


async def fuzz_pool(responses: int, seed: int) -> Result:
    """Request this number of mutated responses from one server through the pool, as two users."""
    result = Result()
    async with _serving(seed, result) as target, aclosing(ConnectionPool()) as pool:
        users = [_use(pool, target, user, responses // 2, seed, result) for user in MARKS]
        await asyncio.gather(*users)
    return result


async def _use(pool: ConnectionPool, target: Origin, user: str, requests: int, seed: int, result: Result) -> None:
    rng = random.Random(f"{seed} {user}")
    other = next(mark for name, mark in MARKS.items() if name != user)
    old: Response | None = None
    for number in range(requests):
        request = b"POST /%b HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n" % user.encode()
        value = b""
        try:
            response = await pool.send(target, request, _CONNECT_S)
            value += repr(response.head).encode("latin-1", "replace")
            for _ in range(rng.choice((0, 1, 1000, 1000, 1000))):
                if not (part := await response.more()):
                    break
                value += part
            await response.aclose()
            if old is not None:
                value += await old.more()
                await old.aclose()
            old = response
            result.counts["read"] += 1
        except (HTTPParseError, ConnectionClosedError, ConnectError) as error:
            result.counts[type(error).__name__] += 1
        except Exception as error:  # a defect, reported below
            result.problems.append(f"{user}, request {number}: {error!r}")
        if other in value or other.decode("latin-1") in value.decode("latin-1"):
            result.problems.append(f"{user}, request {number}: a byte of the other's response")


@asynccontextmanager
async def _serving(seed: int, result: Result) -> AsyncIterator[Origin]:
    rng = random.Random(seed)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        result.counts["connections"] += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                mark = MARKS[chr(head[6])]
                # Valid responses in between, which keep the connection open for the other user.
                raw = (
                    _PLAIN % (len(mark) * 99, mark * 99)
                    if rng.random() < 0.6
                    else mutate(rng, build_response(rng, mark))
                )
                writer.write(raw)
                if not _ends_by_itself(raw) or rng.random() < 0.1:
                    break  # else the client would wait for more
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        yield Origin(host, port)


def _ends_by_itself(raw: bytes) -> bool:
    reader = ResponseParser()
    with suppress(HTTPParseError):
        reader.feed(raw)
    return reader.complete


def _chunk(rng: random.Random, body: bytes) -> bytes:
    out, place = b"", 0
    while place < len(body):
        size = rng.choice((1, 3, 700))
        part = body[place : place + size]
        place += size
        extension = rng.choice((b"", b"", b"", b";a=b", b" ", b';q="' + b"y" * 40 + b'"'))
        out += b"%x%b\r\n%b\r\n" % (len(part), extension, part)
    trailer = rng.choice((b"", b"", b"X-Sum: 1\r\n", b"X: y\r\n" * 300))
    return out + b"0\r\n" + trailer + b"\r\n"


def main(arguments: Sequence[str] | None = None, out: Callable[[str], object] = print) -> int:
    """Run both fuzzers, print the counts and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--responses", type=int, default=20_000, help="mutated responses for the parser")
    parser.add_argument("--pooled", type=int, default=2_000, help="mutated responses through the pool")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    problems: list[str] = []
    for name, result in (
        ("reader", fuzz_reader(options.responses, options.seed)),
        ("pool", asyncio.run(fuzz_pool(options.pooled, options.seed))),
    ):
        counts = ", ".join(f"{count} {what}" for what, count in sorted(result.counts.items()))
        out(f"{name}: {counts}; {len(result.problems)} problems")
        problems += result.problems
    for problem in problems[:20]:
        out(problem[:1000])
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
