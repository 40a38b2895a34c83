"""The reader of another replica's stream: how often it notifies the writer."""

import asyncio
from typing import Any

from server.streams.replication import RedisStreamReader


class GrowingStreamRedis:
    """A fake Redis whose stream has one more event at each read."""

    def __init__(self) -> None:
        self.seq = 0

    async def xread(self, streams: dict[str, str], block: int) -> list[Any]:
        self.seq += 1
        return [(b"key", [(b"%d-0" % self.seq, {b"n": b"chunk", b"d": b"{}"})])]


def test_writer_is_not_notified_for_every_event() -> None:
    result: list[str] = []

    async def reads(stream_id: str) -> None:
        result.append(stream_id)

    async def main() -> list[int]:
        client: Any = GrowingStreamRedis()
        reader = RedisStreamReader(client, "a-stream", "a-replica", 0, reads)
        return [entry[0] for _ in range(20) for entry in await reader.next_batch()]

    assert asyncio.run(main()) == list(range(1, 21))
    assert result == ["a-stream"]
