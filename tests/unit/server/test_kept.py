"""Kept streams: what can be read again from where, and what a reader is told that was too slow."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from clients.events import Broken, event_of
from server import kept
from server.frames import Entry
from server.kept import Gone, Keeper, Kept, KeptReader

STREAM: Any = SimpleNamespace(id="s", owner=None)
"""No more of a stream than its name: what is kept is given by the tests."""


def entries(first: int, last: int, size: int = 100) -> list[Entry]:
    return [(number, "chunk", b"x" * size) for number in range(first, last + 1)]


def numbers(found: list[Entry]) -> list[int]:
    return [number for number, _, _ in found]


def test_a_stream_is_given_from_any_number_on() -> None:
    stream = Kept(STREAM)
    assert (stream.first, stream.last, stream.after(0)) == (1, 0, [])
    stream.add(entries(1, 5))
    assert numbers(stream.after(0)) == [1, 2, 3, 4, 5]
    assert numbers(stream.after(4)) == [5]
    assert stream.after(5) == []


def test_the_oldest_go_when_it_grows_too_large_and_whoever_needs_them_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_STREAM_BYTES", 1000)
    stream = Kept(STREAM)
    grew = sum(stream.add(entries(number, number)) for number in range(1, 21))
    assert grew == stream.bytes <= 1000
    assert (stream.first, stream.last) == (17, 20)
    assert numbers(stream.after(16)) == [17, 18, 19, 20]
    with pytest.raises(Gone, match="from 16 on"):
        stream.after(15)


def test_a_reader_that_falls_behind_what_is_kept_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_STREAM_BYTES", 1000)

    async def main() -> tuple[list[Entry], bool]:
        stream = Kept(STREAM)
        stream.add(entries(1, 2))
        reader = KeptReader(Keeper(), stream, 0)
        assert numbers(await reader.batch()) == [1, 2]
        for number in range(3, 30):
            stream.add(entries(number, number))
        return await reader.batch(), reader.ended

    ((number, name, data),), ended = asyncio.run(main())
    assert (number, name, ended) == (3, "error", True)
    told = event_of((name, json.loads(data)))
    assert isinstance(told, Broken) and (told.kind, told.bill.usage) == ("lost", None)


def test_a_reader_waits_no_longer_than_asked_and_ends_with_the_stream() -> None:
    async def main() -> None:
        stream = Kept(STREAM)
        reader = KeptReader(Keeper(), stream, 0)
        assert await reader.batch(0.0) == []
        waiting = asyncio.create_task(reader.batch())
        await asyncio.sleep(0)
        stream.add([(1, "done", b"{}")])
        assert numbers(await waiting) == [1]
        assert reader.ended and stream.ended
        assert KeptReader(Keeper(), stream, 1).ended

    asyncio.run(main())
