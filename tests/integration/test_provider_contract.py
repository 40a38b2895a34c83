"""The contract of every adapter over real sockets: grammar, usage, finish reasons, errors, cancellation."""

import asyncio
import contextlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from providers import ProviderRegistry
from providers.local.model import LocalAdapter, LocalModel
from settings import Settings
from streaming.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectTimeout,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RateLimitError,
    ServerError,
    StreamError,
    TruncatedStreamError,
)
from streaming.events import Event, Finish, Notice, TextDelta, TimedEvent, Usage
from streaming.session import Timeouts
from streaming.trace import dumps
from tests.integration.provider_asking import (
    REQUEST,
    ask_once,
    broken_script,
    collect,
    error_script,
    every_case,
    join_text,
    last_usage,
    open_adapter,
    stream_script,
)
from tests.integration.provider_cases import CANARY, CASES, ProviderCase
from tests.integration.raw_server import RawConnection, run_raw_server


@every_case
def test_adapter_streams_deltas_usage_and_finish(case: ProviderCase) -> None:
    events, error = ask_once(case, stream_script(case, "Hel", "lo 🌍"))
    assert error is None
    assert isinstance(events[0], Notice) and events[0].kind == "connected"
    assert [event for event in events if isinstance(event, TextDelta)] == [TextDelta("Hel"), TextDelta("lo 🌍")]
    used = last_usage(events)
    assert (used.input_tokens, used.output_tokens, used.source) == (7, 3, "reported")
    assert isinstance(events[-1], Finish) and events[-1].reason == "stop"


@every_case
def test_adapter_without_streaming_returns_whole_answer(case: ProviderCase) -> None:
    async def script(connection: RawConnection) -> None:
        connection.send_response("application/json", case.whole("Hello", "stop"))

    events, error = ask_once(case, script, streamed=False)
    assert error is None
    assert [type(event) for event in events] == [Notice, TextDelta, Usage, Finish]
    assert join_text(events) == "Hello"
    assert last_usage(events).input_tokens == 7


@every_case
@pytest.mark.parametrize("streamed", [True, False])
def test_answer_at_token_limit_finishes_with_length(case: ProviderCase, streamed: bool) -> None:
    async def whole(connection: RawConnection) -> None:
        connection.send_response("application/json", case.whole("x", case.length))

    script = stream_script(case, "x", reason=case.length) if streamed else whole
    events, _ = ask_once(case, script, streamed=streamed)
    assert events[-1] == Finish("length", case.length)


@every_case
@pytest.mark.parametrize("streamed", [True, False])
def test_adapter_sends_request_fields_in_provider_format(case: ProviderCase, streamed: bool) -> None:
    async def main() -> RawConnection:
        async with open_adapter(case, error_script(case, "503 Busy")) as (adapter, request, server):
            await collect(adapter, replace(request, streamed=streamed))
            return server.requests[0]

    answer = asyncio.run(main())
    fields = answer.json
    assert answer.path == case.path
    assert answer.headers["accept-encoding"] == "identity"
    assert answer.headers["x-client-request-id"] == "trial-1"
    assert CANARY in {answer.headers.get("authorization", "").removeprefix("Bearer "), answer.headers.get("api-key")}
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
        ("400 Bad Request", BadRequestError, "request rejected (400): Because"),
        ("401 Unauthorized", AuthenticationError, "API key rejected (401): Because"),
        ("403 Forbidden", AuthenticationError, "API key rejected (403): Because"),
        ("404 Not Found", NotFoundError, "(404): Because"),
        ("422 Unprocessable", BadRequestError, "(422): Because"),
        ("408 Timeout", ServerError, "server error (408): Because"),
        ("409 Conflict", ServerError, "(409): Because"),
        ("429 Too Many", RateLimitError, "rate limit reached (429): Because"),
        ("500 Oops", ServerError, "server error (500): Because"),
        ("529 Overloaded", ServerError, "(529): Because"),
    ],
)
def test_error_status_maps_to_error_class(case: ProviderCase, status: str, cls: type[StreamError], words: str) -> None:
    events, error = ask_once(case, error_script(case, status))
    assert events == []
    assert type(error) is cls
    assert words in error.message
    assert error.http_status == int(status[:3])
    if cls is AuthenticationError:
        assert next(name for name in case.variables if name.endswith("KEY")) in error.message
    if cls is NotFoundError:
        assert case.name.partition(":")[2] in error.message


@every_case
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry_after": "7"}, 7.0), ({"retry_after": "7", "retry_after_ms": "1500"}, 1.5), ({}, None)],
)
def test_retry_after_header_is_parsed_into_error(
    case: ProviderCase, headers: dict[str, str], seconds: float | None
) -> None:
    _, error = ask_once(case, error_script(case, "429 Too Many", **headers))
    assert error is not None
    assert error.retry_after_s == seconds


@every_case
def test_redirect_response_is_not_followed(case: ProviderCase) -> None:
    async def main() -> tuple[StreamError | None, int]:
        async with open_adapter(case, error_script(case, "307 Elsewhere", location="/elsewhere")) as (
            adapter,
            request,
            server,
        ):
            _, error = await collect(adapter, request)
            return error, len(server.requests)

    error, requests = asyncio.run(main())
    assert (type(error), requests) == (ProtocolError, 1)


@every_case
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("kind", "body"), [("text/html", b"<html>busy</html>"), ("application/json", b"")])
def test_success_status_with_invalid_body_raises_protocol_error(
    case: ProviderCase, streamed: bool, kind: str, body: bytes
) -> None:
    async def script(connection: RawConnection) -> None:
        connection.send_response(kind, body)

    events, error = ask_once(case, script, streamed=streamed)
    assert type(error) is ProtocolError
    assert join_text(events) == ""


@every_case
@pytest.mark.parametrize(
    ("how", "cls"),
    [
        ("before", NetworkError),
        ("end", TruncatedStreamError),
        ("cut", TruncatedStreamError),
        ("reset", NetworkError),
        ("not http", ProtocolError),
        ("text after the end", ProtocolError),
        ("late text after the end", ProtocolError),
    ],
)
def test_broken_stream_keeps_received_text_and_raises(case: ProviderCase, how: str, cls: type[StreamError]) -> None:
    events, error = ask_once(case, broken_script(case, how))
    assert type(error) is cls
    assert join_text(events) == ("" if how == "before" else "He")
    assert not any(isinstance(event, Finish) for event in events)


@every_case
def test_body_left_open_after_end_marker_is_not_waited_for(case: ProviderCase) -> None:
    async def script(connection: RawConnection) -> None:
        connection.start(case.content_type)
        for piece in case.stream_parts("Hello"):
            connection.send(piece) if piece else None
        await connection.writer.drain()
        await connection.wait_client_left()

    events, error = ask_once(case, script)
    assert (join_text(events), type(events[-1]), error) == ("Hello", Finish, None)


@every_case
def test_sequential_answers_reuse_one_connection(case: ProviderCase) -> None:
    async def main() -> tuple[int, int]:
        async with open_adapter(case, stream_script(case, "Hello")) as (adapter, request, server):
            for _ in range(3):
                await collect(adapter, request)
            return server.opened, len(server.requests)

    assert asyncio.run(main()) == (1, 3)


@every_case
def test_closed_port_raises_network_error_naming_address(case: ProviderCase) -> None:
    async def main() -> StreamError | None:
        async with run_raw_server(stream_script(case)) as server:
            port = server.port
        providers = ProviderRegistry(case.settings(port))
        route = providers.route(case.name)
        _, error = await collect(route.adapter, replace(REQUEST, model=route.model))
        await providers.aclose()
        assert str(port) in (error.message if error else "")
        return error

    error = asyncio.run(main())
    assert type(error) is NetworkError
    assert "refused" in error.message


@every_case
def test_request_of_a_closed_adapter_raises_network_error(case: ProviderCase) -> None:
    async def main() -> StreamError | None:
        async with open_adapter(case, stream_script(case)) as (adapter, request, _):
            await adapter.aclose()
            _, error = await collect(adapter, request)
            return error

    error = asyncio.run(main())
    assert type(error) is NetworkError
    assert "closed" in error.message


@every_case
def test_connect_without_response_raises_connect_timeout(case: ProviderCase) -> None:
    async def main() -> StreamError | None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
            for _ in range(4):
                client = waiting.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(full.getsockname())
            providers = ProviderRegistry(case.settings(full.getsockname()[1]), timeouts=Timeouts(connect_s=0.2))
            route = providers.route(case.name)
            _, error = await collect(route.adapter, replace(REQUEST, model=route.model))
            await providers.aclose()
            return error

    error = asyncio.run(main())
    assert type(error) is ConnectTimeout
    assert "within 0.2 s" in error.message


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.models], ids=lambda case: case.name)
def test_adapter_lists_models_of_service(case: ProviderCase) -> None:
    async def script(connection: RawConnection) -> None:
        connection.send_response("application/json", case.models)

    async def main() -> list[str]:
        async with run_raw_server(script) as server:
            providers = ProviderRegistry(case.settings(server.port))
            result = await providers.list_models(case.name.partition(":")[0])
            await providers.aclose()
            return [model.name for model in result]

    assert asyncio.run(main()) == ["a", "b"]


@pytest.mark.parametrize("name", ["sim:steady", "sim:bursty", "replay", "local"])
@pytest.mark.parametrize("streamed", [True, False])
def test_builtin_adapters_meet_contract(name: str, streamed: bool, tmp_path: Path, local_model: LocalModel) -> None:
    trace = tmp_path / "trace.jsonl"
    start = (Notice("connected", "Recorded."), TextDelta("He"), TextDelta("llo"))
    answer: tuple[Event, ...] = (*start, Usage(7, 3), Finish("stop", "stop"))
    trace.write_text(dumps({"provider": "sim"}, (TimedEvent(i / 100, event) for i, event in enumerate(answer))))

    async def main() -> tuple[list[Event], StreamError | None]:
        providers = ProviderRegistry(Settings())
        route = providers.route(f"replay:{trace}" if name == "replay" else "sim:steady" if name == "local" else name)
        adapter = LocalAdapter(local_model, Timeouts()) if name == "local" else route.adapter
        result = await collect(adapter, replace(REQUEST, model=route.model, max_tokens=5, streamed=streamed))
        stopped = adapter.stream(replace(REQUEST, model=route.model))
        assert isinstance(await anext(stopped), Notice)
        await stopped.aclose()
        await adapter.aclose()
        await providers.aclose()
        return result

    events, error = asyncio.run(main())
    assert error is None
    assert join_text(events)
    assert last_usage(events).output_tokens is not None
    assert isinstance(events[-1], Finish)
    assert streamed or len([event for event in events if isinstance(event, TextDelta)]) == 1
