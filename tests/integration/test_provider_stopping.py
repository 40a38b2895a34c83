"""Resources of every adapter: cancellation ends the upstream request at once, no socket leaks, and no key is shown."""

import asyncio
import logging
import os
from dataclasses import replace

import pytest

from streaming.events import Finish, Notice, TextDelta
from tests.integration.provider_asking import (
    broken_script,
    collect,
    error_script,
    every_case,
    open_adapter,
    read_until,
    stream_script,
)
from tests.integration.provider_cases import CANARY, ProviderCase
from tests.integration.raw_server import RawConnection, Script


def stuck_script(case: ProviderCase, stage: str, streamed: bool) -> Script:
    """Respond up to a stage, then wait until the client disconnects."""

    async def script(connection: RawConnection) -> None:
        if stage != "before the headers":
            connection.start(case.content_type if streamed else "application/json")
            if streamed:
                connection.send(case.start() or case.ping)
            if stage == "in the middle":
                connection.send(case.text("He") if streamed else case.whole("Hello", "stop")[:9])
            await connection.writer.drain()
        await connection.wait_client_left()

    return script


@every_case
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("stage", "how"),
    [
        ("before the headers", "cancel"),
        ("before the first text", "cancel"),
        ("before the first text", "close"),
        ("in the middle", "cancel"),
        ("in the middle", "close"),
    ],
)
def test_stopping_stream_disconnects_from_upstream_at_once(
    case: ProviderCase, streamed: bool, stage: str, how: str
) -> None:
    async def main() -> None:
        async with open_adapter(case, stuck_script(case, stage, streamed)) as (adapter, request, server):
            stream = adapter.stream(replace(request, streamed=streamed))
            if stage != "before the headers":
                await read_until(stream, TextDelta if stage == "in the middle" and streamed else Notice)
            if how == "cancel":
                reading = asyncio.ensure_future(read_until(stream, Finish))
                await server.next_request()
                reading.cancel()
                await asyncio.wait([reading])
                assert reading.cancelled()
            await stream.aclose()
            await server.requests[0].wait_client_left()
            await server.wait_idle()

    asyncio.run(main())


@every_case
def test_many_stopped_streams_leak_no_socket(case: ProviderCase) -> None:
    async def main() -> None:
        async with open_adapter(case, stuck_script(case, "in the middle", True)) as (adapter, request, server):
            before = 0
            for _ in range(20):
                streams = [adapter.stream(request) for _ in range(5)]
                await asyncio.gather(*(read_until(stream, TextDelta) for stream in streams))
                await asyncio.gather(*(stream.aclose() for stream in streams))
                await server.wait_idle()
                before = before or len(os.listdir("/proc/self/fd"))
            assert len(os.listdir("/proc/self/fd")) <= before
            assert server.opened == 100

    asyncio.run(main())


@every_case
def test_api_key_appears_only_in_request(case: ProviderCase, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[object] = []

    async def main(script: Script) -> None:
        async with open_adapter(case, script) as (adapter, request, _):
            events, error = await collect(adapter, request)
            chain = (error, error and error.__cause__, error and error.__context__)
            seen.extend([adapter, vars(adapter)["service"], events, *chain])

    for script in (
        stream_script(case, "Hello"),
        error_script(case, "401 Unauthorized", f"bad key {CANARY} {CANARY}"),
        error_script(case, "500 Oops", f"dump: {CANARY}"),
        broken_script(case, "reset"),
    ):
        asyncio.run(main(script))
    assert CANARY not in caplog.text
    assert [thing for thing in seen if CANARY in f"{thing} {thing!r}"] == []
