"""A provider that sends without end: a raw server in its own thread. The model's name selects what it sends."""

import asyncio
import gzip
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, repeat

import brotli

MEGABYTE = 1_000_000
MOST_BYTES = 400 * MEGABYTE
"""Where an endless response ends after all: a client that read so far has failed."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
A = b"A" * 65_536
TEXT = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def _event(text: str, finish: str | None = None, name: str = "c") -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({**TEXT, "id": name, "choices": [choice]}).encode() + b"\n\n"


def _packed(head: bytes, coding: bytes, data: bytes) -> Iterator[bytes]:
    yield head + b"Connection: close\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(data)) + data


def _gzip(*parts: tuple[bytes, int]) -> bytes:
    """Compress pieces with gzip, each so many times in a row: the block of a piece is made once, and repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    result, check, size = b"\x1f\x8b\x08\0\0\0\0\0\0\xff", 0, 0
    for piece, count in parts:
        result += (packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)) * count
        for _ in range(count):
            check = zlib.crc32(piece, check)
        size += len(piece) * count
    return result + packer.flush() + struct.pack("<LL", check, size)


def _bytewise() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX: "
    yield from repeat(b"A", 120_000)


def _letters() -> Iterator[bytes]:
    yield HEAD + b"\r\n"
    yield from repeat(_event("a") * 400, 200)
    yield from repeat(_event("a", name="c" * 1000) * 60)


def _page_then(rest: Callable[[], Iterator[bytes]]) -> Callable[[bool], Iterator[bytes]]:
    """Send a web page instead of a stream, so that the client falls back to a non-streamed request."""
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: 6\r\n\r\n<html>"
    return lambda streamed: iter([page]) if streamed else rest()


def _endless(start: bytes, piece: bytes) -> Callable[[bool], Iterator[bytes]]:
    return lambda streamed: chain([start], repeat(piece))


ERROR = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@cache
def _bombs() -> dict[str, bytes]:
    """Decompression bombs of 200 MB and more, created once before anything is measured."""
    zeros = b"\0" * MEGABYTE
    crowd = b'{"x":[' + b"{}," * (5 * MEGABYTE) + b"{}]}"
    event = b'data: {"x":[' + b"{}," * MEGABYTE + b"{}]}\n\n"
    return {
        "zeros": _gzip((zeros, 200)),
        "comments": _gzip((b":\n" * 500_000, 10), ((b":" + b" " * 998 + b"\n") * 1000, 190)),
        "texts": _gzip((_event("word " * 20) * 5_000, 200)),
        "deflate": zlib.compress(zeros * 200),
        "brotli": brotli.compress(zeros * 200, quality=1),
        "twice": gzip.compress(_gzip((zeros, 200))),
        "crowd": _gzip((crowd, 1)),
        "crowded event": _gzip((event, 1)),
    }


def _bomb(name: str, head: bytes = HEAD, coding: bytes = b"gzip") -> Callable[[bool], Iterator[bytes]]:
    return lambda streamed: _packed(head, coding, _bombs()[name])


KINDS: dict[str, Callable[[bool], Iterator[bytes]]] = {
    "an endless line": _endless(HEAD + b'\r\ndata: {"x":"', A),
    "an endless line in chunks": _endless(CHUNKED + b"7\r\ndata: {\r\n", b"10000\r\n" + A + b"\r\n"),
    "an endless event": _endless(HEAD + b"\r\n", b"data: AAAAAAAAAAAAAAAAAAAAAAAA\n" * 2000),
    "an endless comment": _endless(HEAD + b"\r\n:", A),
    "a gzip bomb": _bomb("zeros"),
    "a gzip bomb of comments": _bomb("comments"),
    "a gzip bomb of texts": _bomb("texts"),
    "a deflate bomb": _bomb("deflate", coding=b"deflate"),
    "a Brotli bomb": _bomb("brotli", coding=b"br"),
    "a bomb in a bomb": _bomb("twice", coding=b"gzip, gzip"),
    "an endless head": _endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: AAAAAAAAAAAAAAAAAAAA\r\n" * 2000),
    "an endless header": _endless(b"HTTP/1.1 200 OK\r\nX: ", A),
    "an endless fold": _endless(b"HTTP/1.1 200 OK\r\nX: a\r\n", b" A\r\n" * 10_000),
    "a head byte by byte": lambda _: _bytewise(),
    "endless interim heads": _endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1000),
    "an endless chunk size": _endless(CHUNKED, b"0" * 65_536),
    "an endless chunk extension": _endless(CHUNKED + b"5;x=", A),
    "endless extensions": _endless(CHUNKED, (b"1;x=" + b"y" * 4000 + b"\r\n:\r\n") * 16),
    "endless trailers": _endless(CHUNKED + b"0\r\n", b"X-Trailer: AAAAAAAAAAAAA\r\n" * 2000),
    "an endless error": _endless(ERROR + b"\r\n", A),
    "a compressed error": _bomb("zeros", ERROR),
    "an endless answer in one piece": _page_then(lambda: chain([JSON + b'\r\n{"x":"'], repeat(A))),
    "a compressed answer in one piece": _page_then(lambda: _packed(JSON, b"gzip", _bombs()["zeros"])),
    "a crowd of objects": _page_then(lambda: _packed(JSON, b"gzip", _bombs()["crowd"])),
    "a crowd of objects in an event": _bomb("crowded event"),
    "endless words": _endless(HEAD + b"\r\n", _event("word " * 200) * 60),
    "endless single letters": lambda _: _letters(),
}
"""Chat completions that are not read to their end.

Comments and letters begin with megabytes of the shortest ones, which take the longest to decode, and go on with longer
ones: to the limit, which counts bytes, the shortest alone would take seconds.
"""
AFTER = {
    "endless bytes after the end": _endless(HEAD + b"\r\n" + _event("Hi.", "stop") + b"data: [DONE]\n\n", b":" + A)
}
"""An answer that is complete, whatever follows."""
LINES = {
    "an endless line of JSON": _endless(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n{", A),
    "a gzip bomb": _bomb("zeros", JSON),
    "an endless error": _endless(ERROR + b"\r\n", A),
}
LISTS = {
    "an endless list": _endless(JSON + b'\r\n{"data":[', b'{"id":"m"},' * 6000),
    "a compressed list": _bomb("zeros", JSON),
    "an endless error": _endless(ERROR + b"\r\n", A),
}


@dataclass
class Hostile:
    """The requests that the server received; `sent` counts the bytes sent for each model."""

    port: int = 0
    requests: list[tuple[str, bool]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    listing: str = ""
    tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            sizes = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
            body = json.loads(await reader.readexactly(int(sizes[0]))) if sizes and int(sizes[0]) else {}
            model, streamed = body.get("model", self.listing), body.get("stream", False)
            self.requests.append((model, streamed))
            kinds = LISTS if head.startswith("GET") else LINES if "/api/chat" in head else {**KINDS, **AFTER}
            await self._send(writer, model, kinds[model](streamed))
            writer.write_eof()
            await reader.read(1)  # until the client has gone, too
        writer.transport.abort()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection in a task; `leave` ends all of them."""
        task = asyncio.create_task(self.serve(reader, writer))
        self.tasks[task] = writer
        task.add_done_callback(self.tasks.pop)

    async def leave(self) -> None:
        """End every connection."""
        tasks = dict(self.tasks)
        for writer in tasks.values():
            writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=10)

    async def _send(self, writer: asyncio.StreamWriter, model: str, pieces: Iterator[bytes]) -> None:
        self.sent[model] = 0
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            self.sent[model] += len(piece)
            if self.sent[model] > MOST_BYTES:
                return
            if len(piece) == 1:
                await asyncio.sleep(0)


@contextmanager
def hostile_provider() -> Iterator[Hostile]:
    """Serve on a free port in another thread until the context ends."""
    _bombs()
    hostile, started = Hostile(), threading.Event()
    loop = asyncio.new_event_loop()
    leaving: list[Callable[[], object]] = []

    async def main() -> None:
        end = asyncio.Event()
        server = await asyncio.start_server(hostile.accept, "127.0.0.1", 0)
        hostile.port = server.sockets[0].getsockname()[1]
        leaving.append(lambda: loop.call_soon_threadsafe(end.set))
        started.set()
        async with server:
            await end.wait()
            await hostile.leave()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    started.wait(10)
    try:
        yield hostile
    finally:
        leaving[0]()
        thread.join(30)
        loop.close()
