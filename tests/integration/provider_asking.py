"""Requests to adapters over scripted servers, and the scripts that several tests use."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from providers import ProviderRegistry
from streaming.adapter import Adapter
from streaming.errors import StreamError
from streaming.events import Event, Grammar, TextDelta, Usage
from streaming.messages import ChatRequest, Message
from streaming.session import Timeouts
from tests.integration.provider_cases import CASES, ProviderCase
from tests.integration.raw_server import RawConnection, RawServer, Script, run_raw_server

REQUEST = ChatRequest(
    (Message("system", "Be brief."), Message("user", "Hi \ud83c!")),
    temperature=0.5,
    max_tokens=9,
    request_id="trial-1",
)

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@asynccontextmanager
async def open_adapter(
    case: ProviderCase, script: Script, **timeouts: float
) -> AsyncIterator[tuple[Adapter, ChatRequest, RawServer]]:
    """Yield an adapter for the server, and a request. Fails if the event loop had an unhandled error."""
    loop = asyncio.get_running_loop()
    unseen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    async with run_raw_server(script) as server:
        providers = ProviderRegistry(case.settings(server.port), timeouts=Timeouts(**timeouts))
        route = providers.route(case.name)
        try:
            yield route.adapter, replace(REQUEST, model=route.model), server
        finally:
            await providers.aclose()
    assert unseen == []


async def collect(adapter: Adapter, request: ChatRequest) -> tuple[list[Event], StreamError | None]:
    """Read one answer to its end, whatever the end is."""
    events: list[Event] = []
    grammar = Grammar()
    try:
        async with aclosing(adapter.stream(request)) as stream:
            async for event in stream:
                grammar.feed(event)
                events.append(event)
    except StreamError as error:
        return events, error
    grammar.end()
    return events, None


def stream_script(case: ProviderCase, *texts: str, reason: str = "stop") -> Script:
    async def script(connection: RawConnection) -> None:
        connection.start(case.content_type)
        for piece in case.stream_parts(*texts, reason=reason):
            connection.send(piece) if piece else None
            await connection.writer.drain()
        connection.end()

    return script


def ask_once(case: ProviderCase, script: Script, *, streamed: bool = True) -> tuple[list[Event], StreamError | None]:
    async def main() -> tuple[list[Event], StreamError | None]:
        async with open_adapter(case, script) as (adapter, request, _):
            return await collect(adapter, replace(request, streamed=streamed))

    return asyncio.run(main())


def join_text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def last_usage(events: list[Event]) -> Usage:
    return [event for event in events if isinstance(event, Usage)][-1]


def error_script(case: ProviderCase, status: str, message: str = "Because.", **headers: str) -> Script:
    async def script(connection: RawConnection) -> None:
        connection.send_response("application/json", case.error(message), status, **headers)

    return script


async def _send_late(connection: RawConnection, data: bytes) -> None:
    await connection.writer.drain()
    await asyncio.sleep(0.02)
    connection.send(data)
    connection.end()


async def _break_connection(case: ProviderCase, connection: RawConnection, how: str) -> None:
    match how:
        case "end":
            connection.end()
        case "cut":
            connection.cut()
        case "not http":
            connection.writer.write(b"nonsense\r\n")
        case "text after the end":
            connection.send(case.end("stop") + case.text("more"))
            connection.end()
        case "late text after the end":
            connection.send(case.end("stop"))
            await _send_late(connection, case.text("more"))


def broken_script(case: ProviderCase, how: str) -> Script:
    async def script(connection: RawConnection) -> None:
        if how == "before":
            connection.cut()
            return
        connection.start(case.content_type)
        connection.send(case.start() + case.text("He"))
        await connection.writer.drain()
        if how == "reset":
            # A reset throws away what its receiver has not read yet.
            await asyncio.sleep(0.05)
            connection.reset()
        await _break_connection(case, connection, how)

    return script


async def read_until(stream: AsyncGenerator[Event, None], kind: type[Event]) -> None:
    async for event in stream:
        if isinstance(event, kind):
            return
