"""The CPU time per chunk of our decoders, compared with the SDKs' own streams over the same bytes.

python -m benchmarks.decode [--chunks N] [--rounds N]

The SDKs read from a transport in memory, so sockets are not included. `SDK` is the time to iterate the SDK's stream,
including its HTTP client; `reading` is that of the HTTP client alone, up to the raw bytes; `ours` is our decoder over
those bytes. The fastest round counts, since other work on the machine can only add time.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import httpx2
import ollama
import openai

from benchmarks import _sample_streams
from providers.decoding import anthropic as decoding_anthropic
from providers.decoding import chat_completions
from providers.decoding import ollama as decoding_ollama
from providers.decoding.decoder import StreamDecoder
from streaming.events import TextDelta

TARGET = 0.2
"""The largest acceptable ratio of our decoder's time to that of the SDK's stream."""

_MESSAGES: Any = [{"role": "user", "content": "Hi"}]
_BASE_URL = "http://127.0.0.1/v1"
ChunkReader = Callable[[list[bytes]], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class DialectCase:
    """One dialect: `sdk` returns the number of texts in the SDK's stream, `read` the number of bytes."""

    name: str
    write: Callable[[list[str]], list[bytes]]
    decoder: Callable[[], StreamDecoder]
    sdk: ChunkReader
    read: ChunkReader


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """CPU time per chunk in µs."""

    sdk_us: float
    reading_us: float
    ours_us: float

    @property
    def ratio(self) -> float:
        return self.ours_us / self.sdk_us

    @property
    def ratio_without_reading(self) -> float:
        return self.ours_us / (self.sdk_us - self.reading_us)


def main() -> None:
    """Print a row for each dialect, and a JSON object as the last line."""
    parser = argparse.ArgumentParser(description="CPU per chunk of our decoders against the SDKs' own streams.")
    parser.add_argument("--chunks", type=int, default=2000, help="text chunks in the answer")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds, of which the fastest counts")
    arguments = parser.parse_args()
    print(f"CPU, µs/chunk   {'SDK':>9} {'reading':>9} {'ours':>9} {'ours/SDK':>9} {'ours/(SDK-reading)':>19}")
    results = {}
    for dialect in (_openai_case(), _anthropic_case(), _ollama_case()):
        value = asyncio.run(_measure_dialect(dialect, arguments.chunks, arguments.rounds))
        times = f"{value.sdk_us:9.1f} {value.reading_us:9.1f} {value.ours_us:9.1f}"
        print(f"{dialect.name:15} {times} {value.ratio:9.3f} {value.ratio_without_reading:19.3f}")
        results[dialect.name] = {"sdk_us": value.sdk_us, "ours_us": value.ours_us, "ratio": value.ratio}
    met = all(result["ratio"] <= TARGET for result in results.values())
    print(json.dumps({"benchmark": "decode", "target": TARGET, "met": met, "wires": results}))


async def _measure_dialect(dialect: DialectCase, chunks: int, rounds: int) -> DecodeResult:
    pieces = dialect.write([f" word{i}" for i in range(chunks)])

    async def decode_ours(pieces: list[bytes]) -> int:
        decoder = dialect.decoder()
        events = [event for piece in pieces for event in decoder.feed(piece)]
        return sum(isinstance(event, TextDelta) for event in [*events, *decoder.flush()])

    best_s = dict.fromkeys(("sdk", "ours", "read"), float("inf"))
    due = {"sdk": chunks, "ours": chunks, "read": sum(map(len, pieces))}
    for _ in range(rounds):
        for name, read in (("sdk", dialect.sdk), ("ours", decode_ours), ("read", dialect.read)):
            started_s = time.process_time()
            result = await read(pieces)
            best_s[name] = min(best_s[name], time.process_time() - started_s)
            if result != due[name]:
                raise SystemExit(f"{dialect.name}, {name}: {result} of {due[name]} were read")
    return DecodeResult(*(best_s[name] / chunks * 1e6 for name in ("sdk", "read", "ours")))


class _PiecewiseStream(httpx2.AsyncByteStream, httpx.AsyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def _mock_http_client(pieces: list[bytes]) -> httpx2.AsyncClient:
    def respond(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=_PiecewiseStream(pieces))

    return httpx2.AsyncClient(transport=httpx2.MockTransport(respond))


async def _count_bytes(call: Any) -> int:
    async with call as response:
        return sum([len(data) async for data in response.iter_bytes()])


def _openai_case() -> DialectCase:
    def make_completions(pieces: list[bytes]) -> Any:
        return openai.AsyncOpenAI(
            api_key="none", base_url=_BASE_URL, http_client=_mock_http_client(pieces)
        ).chat.completions

    async def decode_with_sdk(pieces: list[bytes]) -> int:
        stream = await make_completions(pieces).create(model="m", messages=_MESSAGES, stream=True)
        return len([entry async for entry in stream if entry.choices and entry.choices[0].delta.content])

    async def read_bytes(pieces: list[bytes]) -> int:
        create = make_completions(pieces).with_streaming_response.create
        return await _count_bytes(create(model="m", messages=_MESSAGES, stream=True))

    return DialectCase(
        "openai", _sample_streams.chat_completions, chat_completions.make_decoder, decode_with_sdk, read_bytes
    )


def _anthropic_case() -> DialectCase:
    def make_messages(pieces: list[bytes]) -> Any:
        return anthropic.AsyncAnthropic(
            api_key="none", base_url=_BASE_URL, http_client=_mock_http_client(pieces)
        ).messages

    async def decode_with_sdk(pieces: list[bytes]) -> int:
        stream = await make_messages(pieces).create(model="m", messages=_MESSAGES, max_tokens=9, stream=True)
        return len([event async for event in stream if event.type == "content_block_delta" and event.delta.text])

    async def read_bytes(pieces: list[bytes]) -> int:
        create = make_messages(pieces).with_streaming_response.create
        return await _count_bytes(create(model="m", messages=_MESSAGES, max_tokens=9, stream=True))

    return DialectCase(
        "anthropic", _sample_streams.messages, decoding_anthropic.make_decoder, decode_with_sdk, read_bytes
    )


def _ollama_case() -> DialectCase:
    def make_transport(pieces: list[bytes]) -> httpx.MockTransport:
        def respond(_: httpx.Request) -> httpx.Response:
            return httpx.Response(
                200, headers={"content-type": "application/x-ndjson"}, stream=_PiecewiseStream(pieces)
            )

        return httpx.MockTransport(respond)

    async def decode_with_sdk(pieces: list[bytes]) -> int:
        client = ollama.AsyncClient(_BASE_URL, transport=make_transport(pieces))
        stream = await client.chat(model="m", messages=_MESSAGES, stream=True)
        return len([part async for part in stream if part.message.content])

    async def read_bytes(pieces: list[bytes]) -> int:
        async with (
            httpx.AsyncClient(base_url=_BASE_URL, transport=make_transport(pieces)) as client,
            client.stream("POST", "/api/chat") as response,
        ):
            return sum([len(data) async for data in response.aiter_bytes()])

    return DialectCase("ollama", _sample_streams.ollama, decoding_ollama.make_decoder, decode_with_sdk, read_bytes)


if __name__ == "__main__":
    main()
