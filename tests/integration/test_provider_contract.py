"""What every adapter must do, over real sockets: grammar, usage, finish reasons, errors, stopping, whole answers."""

import asyncio
import contextlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from providers import Providers
from providers.local import LocalAdapter, LocalModel
from settings import Settings
from streaming.errors import (
    AuthError,
    BadRequest,
    ConnectTimeout,
    NetworkError,
    NotFound,
    ProtocolError,
    RateLimited,
    ServerError,
    StreamError,
    TruncatedStream,
)
from streaming.events import Event, Finish, Notice, TextDelta, Timed, Usage
from streaming.session import Timeouts
from streaming.trace import dumps
from tests.integration.provider_asking import (
    ASKED,
    ask,
    asking,
    broken,
    collect,
    every_case,
    last_usage,
    refuse,
    said,
    streaming,
)
from tests.integration.provider_cases import CANARY, CASES, Case
from tests.integration.raw_server import Connection, raw_server


@every_case
def test_a_streamed_answer(case: Case) -> None:
    events, error = ask(case, streaming(case, "Hel", "lo 🌍"))
    assert error is None
    assert isinstance(events[0], Notice) and events[0].kind == "connected"
    assert [event for event in events if isinstance(event, TextDelta)] == [TextDelta("Hel"), TextDelta("lo 🌍")]
    used = last_usage(events)
    assert (used.input_tokens, used.output_tokens, used.source) == (7, 3, "reported")
    assert isinstance(events[-1], Finish) and events[-1].reason == "stop"


@every_case
def test_an_answer_that_is_not_streamed(case: Case) -> None:
    async def script(connection: Connection) -> None:
        connection.whole("application/json", case.whole("Hello", "stop"))

    events, error = ask(case, script, streamed=False)
    assert error is None
    assert [type(event) for event in events] == [Notice, TextDelta, Usage, Finish]
    assert said(events) == "Hello"
    assert last_usage(events).input_tokens == 7


@every_case
@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_that_met_its_limit_says_so(case: Case, streamed: bool) -> None:
    async def whole(connection: Connection) -> None:
        connection.whole("application/json", case.whole("x", case.length))

    script = streaming(case, "x", reason=case.length) if streamed else whole
    events, _ = ask(case, script, streamed=streamed)
    assert events[-1] == Finish("length", case.length)


@every_case
@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_asked(case: Case, streamed: bool) -> None:
    async def main() -> Connection:
        async with asking(case, refuse(case, "503 Busy")) as (adapter, request, server):
            await collect(adapter, replace(request, streamed=streamed))
            return server.requests[0]

    asked = asyncio.run(main())
    fields = asked.json
    assert asked.path == case.path
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["x-client-request-id"] == "trial-1"
    assert CANARY in {asked.headers.get("authorization", "").removeprefix("Bearer "), asked.headers.get("api-key")}
    assert fields["stream"] is streamed
    assert fields["model"] == case.name.partition(":")[2]
    assert fields["messages"][-1] == {"role": "user", "content": "Hi \ufffd!"}
    options = fields.get("options", fields)
    assert (options["temperature"], options[case.max_tokens]) == (0.5, 9)
    assert "Be brief." in (fields.get("system"), fields["messages"][0]["content"])


@every_case
@pytest.mark.parametrize(
    ("status", "cls", "words"),
    [
        ("400 Bad Request", BadRequest, "refused the request (400): Because"),
        ("401 Unauthorized", AuthError, "refused the key (401): Because"),
        ("403 Forbidden", AuthError, "refused the key (403): Because"),
        ("404 Not Found", NotFound, "(404): Because"),
        ("422 Unprocessable", BadRequest, "(422): Because"),
        ("408 Timeout", ServerError, "failed (408): Because"),
        ("409 Conflict", ServerError, "(409): Because"),
        ("429 Too Many", RateLimited, "asks for patience (429): Because"),
        ("500 Oops", ServerError, "failed (500): Because"),
        ("529 Overloaded", ServerError, "(529): Because"),
    ],
)
def test_an_error_status_is_its_error(case: Case, status: str, cls: type[StreamError], words: str) -> None:
    events, error = ask(case, refuse(case, status))
    assert events == []
    assert type(error) is cls
    assert words in error.message
    assert error.http_status == int(status[:3])
    if cls is AuthError:
        assert next(name for name in case.variables if name.endswith("KEY")) in error.message
    if cls is NotFound:
        assert case.name.partition(":")[2] in error.message


@every_case
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry_after": "7"}, 7.0), ({"retry_after": "7", "retry_after_ms": "1500"}, 1.5), ({}, None)],
)
def test_the_patience_that_is_asked_for_is_passed_on(
    case: Case, headers: dict[str, str], seconds: float | None
) -> None:
    _, error = ask(case, refuse(case, "429 Too Many", **headers))
    assert error is not None
    assert error.retry_after_s == seconds


@every_case
def test_a_redirect_is_not_followed(case: Case) -> None:
    async def main() -> tuple[StreamError | None, int]:
        async with asking(case, refuse(case, "307 Elsewhere", location="/elsewhere")) as (adapter, request, server):
            _, error = await collect(adapter, request)
            return error, len(server.requests)

    error, requests = asyncio.run(main())
    assert (type(error), requests) == (ProtocolError, 1)


@every_case
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("kind", "body"), [("text/html", b"<html>busy</html>"), ("application/json", b"")])
def test_a_success_that_is_no_answer(case: Case, streamed: bool, kind: str, body: bytes) -> None:
    async def script(connection: Connection) -> None:
        connection.whole(kind, body)

    events, error = ask(case, script, streamed=streamed)
    assert type(error) is ProtocolError
    assert said(events) == ""


@every_case
@pytest.mark.parametrize(
    ("how", "cls"),
    [
        ("before", NetworkError),
        ("end", TruncatedStream),
        ("cut", TruncatedStream),
        ("reset", NetworkError),
        ("not http", ProtocolError),
        ("text after the end", ProtocolError),
        ("late text after the end", ProtocolError),
    ],
)
def test_a_broken_stream_keeps_what_came_and_is_no_success(case: Case, how: str, cls: type[StreamError]) -> None:
    events, error = ask(case, broken(case, how))
    assert type(error) is cls
    assert said(events) == ("" if how == "before" else "He")
    assert not any(isinstance(event, Finish) for event in events)


@every_case
def test_a_body_that_stays_open_after_the_end_marker_is_not_waited_for(case: Case) -> None:
    async def script(connection: Connection) -> None:
        connection.start(case.content_type)
        for piece in case.stream("Hello"):
            connection.send(piece) if piece else None
        await connection.writer.drain()
        await connection.client_left()

    events, error = ask(case, script)
    assert (said(events), type(events[-1]), error) == ("Hello", Finish, None)


@every_case
def test_answers_one_after_another_use_one_connection(case: Case) -> None:
    async def main() -> tuple[int, int]:
        async with asking(case, streaming(case, "Hello")) as (adapter, request, server):
            for _ in range(3):
                await collect(adapter, request)
            return server.opened, len(server.requests)

    assert asyncio.run(main()) == (1, 3)


@every_case
def test_a_refused_connection_names_the_address(case: Case) -> None:
    async def main() -> StreamError | None:
        async with raw_server(streaming(case)) as server:
            port = server.port
        providers = Providers(case.settings(port))
        route = providers.route(case.name)
        _, error = await collect(route.adapter, replace(ASKED, model=route.model))
        await providers.aclose()
        assert str(port) in (error.message if error else "")
        return error

    error = asyncio.run(main())
    assert type(error) is NetworkError
    assert "refused" in error.message


@every_case
def test_a_connection_that_does_not_come_about_times_out(case: Case) -> None:
    async def main() -> StreamError | None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
            for _ in range(4):
                client = waiting.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(full.getsockname())
            providers = Providers(case.settings(full.getsockname()[1]), timeouts=Timeouts(connect_s=0.2))
            route = providers.route(case.name)
            _, error = await collect(route.adapter, replace(ASKED, model=route.model))
            await providers.aclose()
            return error

    error = asyncio.run(main())
    assert type(error) is ConnectTimeout
    assert "within 0.2 s" in error.message


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.models], ids=lambda case: case.name)
def test_the_models_that_a_service_lists(case: Case) -> None:
    async def script(connection: Connection) -> None:
        connection.whole("application/json", case.models)

    async def main() -> list[str]:
        async with raw_server(script) as server:
            providers = Providers(case.settings(server.port))
            found = await providers.models(case.name.partition(":")[0])
            await providers.aclose()
            return found

    assert asyncio.run(main()) == ["a", "b"]


@pytest.mark.parametrize("name", ["sim:steady", "sim:bursty", "replay", "local"])
@pytest.mark.parametrize("streamed", [True, False])
def test_what_this_project_brings_keeps_the_same_contract(
    name: str, streamed: bool, tmp_path: Path, local_model: LocalModel
) -> None:
    trace = tmp_path / "trace.jsonl"
    start = (Notice("connected", "Recorded."), TextDelta("He"), TextDelta("llo"))
    answer: tuple[Event, ...] = (*start, Usage(7, 3), Finish("stop", "stop"))
    trace.write_text(dumps({"provider": "sim"}, (Timed(i / 100, event) for i, event in enumerate(answer))))

    async def main() -> tuple[list[Event], StreamError | None]:
        providers = Providers(Settings())
        route = providers.route(f"replay:{trace}" if name == "replay" else "sim:steady" if name == "local" else name)
        adapter = LocalAdapter(local_model, Timeouts()) if name == "local" else route.adapter
        found = await collect(adapter, replace(ASKED, model=route.model, max_tokens=5, streamed=streamed))
        stopped = adapter.stream(replace(ASKED, model=route.model))
        assert isinstance(await anext(stopped), Notice)
        await stopped.aclose()
        await adapter.aclose()
        await providers.aclose()
        return found

    events, error = asyncio.run(main())
    assert error is None
    assert said(events)
    assert last_usage(events).output_tokens is not None
    assert isinstance(events[-1], Finish)
    assert streamed or len([event for event in events if isinstance(event, TextDelta)]) == 1
