"""Buffered streams: reading again from an event number, the size limit, and readers that are too slow."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from clients.events import AnswerFailed, parse_event
from server.streams.buffer import BufferedStream, BufferedStreamReader, StreamNotFoundError, StreamStore
from server.streams.events import WireEvent

STREAM: Any = SimpleNamespace(id="s", owner=None)
"""A stand-in for a stream with an id only; the tests add the events."""


def make_events(first: int, last: int, size: int = 100) -> list[WireEvent]:
    return [(number, "chunk", b"x" * size) for number in range(first, last + 1)]


def event_numbers(result: list[WireEvent]) -> list[int]:
    return [number for number, _, _ in result]


def test_buffered_stream_returns_events_after_any_number() -> None:
    stream = BufferedStream(STREAM)
    assert (stream.first_seq, stream.last_seq, stream.events_after(0)) == (1, 0, [])
    stream.add(make_events(1, 5))
    assert event_numbers(stream.events_after(0)) == [1, 2, 3, 4, 5]
    assert event_numbers(stream.events_after(4)) == [5]
    assert stream.events_after(5) == []


def test_oversized_stream_drops_oldest_and_raises_stream_not_found() -> None:
    stream = BufferedStream(STREAM, max_bytes=1000)
    grew = sum(stream.add(make_events(number, number)) for number in range(1, 21))
    assert grew == stream.bytes <= 1000
    assert (stream.first_seq, stream.last_seq) == (17, 20)
    assert event_numbers(stream.events_after(16)) == [17, 18, 19, 20]
    with pytest.raises(StreamNotFoundError, match="from 16 on"):
        stream.events_after(15)


def test_reader_behind_buffer_ends_with_lost_error() -> None:
    async def main() -> tuple[list[WireEvent], bool]:
        stream = BufferedStream(STREAM, max_bytes=1000)
        stream.add(make_events(1, 2))
        reader = BufferedStreamReader(StreamStore(), stream, 0)
        assert event_numbers(await reader.next_batch()) == [1, 2]
        for number in range(3, 30):
            stream.add(make_events(number, number))
        return await reader.next_batch(), reader.ended

    ((number, name, data),), ended = asyncio.run(main())
    assert (number, name, ended) == (3, "error", True)
    result = parse_event((name, json.loads(data)))
    assert isinstance(result, AnswerFailed) and (result.kind, result.bill.usage) == ("lost", None)


def test_reader_waits_at_most_timeout_and_ends_with_stream() -> None:
    async def main() -> None:
        stream = BufferedStream(STREAM)
        reader = BufferedStreamReader(StreamStore(), stream, 0)
        assert await reader.next_batch(0.0) == []
        waiting = asyncio.create_task(reader.next_batch())
        await asyncio.sleep(0)
        stream.add([(1, "done", b"{}")])
        assert event_numbers(await waiting) == [1]
        assert reader.ended and stream.ended
        assert BufferedStreamReader(StreamStore(), stream, 1).ended

    asyncio.run(main())
