"""The cost budget over real sockets, with a vendor's address that leads to this machine."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets

from settings import Settings
from tests.asgi_server import serve_providers, wait_until
from tests.integration.captured_service import run_service
from tests.integration.raw_server import RawConnection as Upstream
from tests.integration.raw_server import RawServer, run_raw_server
from tests.integration.service_over_simulator import (
    ProvidersWithoutModel,
    count_open_streams,
    scrape_metrics,
    send_request,
)

VENDOR = "http://api.openai.com/v1"
KEY = {"OPENAI_API_KEY": "sk-0123456789abcdef", "OPENAI_BASE_URL": VENDOR}
TINY = {"BUDGET_USD_PER_CALLER": "0.0001", "RATE_LIMIT": "1000/minute"}
DOLLAR = {"BUDGET_USD_PER_CALLER": "1", "RATE_LIMIT": "1000/minute"}
"""One answer of `O1` is 0.60 USD at most: a second does not fit beside it."""
O1 = {"message": "hi", "provider": "openai:o1-pro", "max_tokens": 1000, "strategy": "direct"}

Script = Callable[[Upstream], Awaitable[None]]


def chunk(delta: Mapping[str, str], finish: str | None = None, usage: Mapping[str, int] | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**head, "choices": [choice], "usage": usage}).encode()


def saying(usage: Mapping[str, int] | None) -> Script:
    """Return a vendor that answers "Blue." and reports `usage`."""

    async def script(upstream: Upstream) -> None:
        upstream.start("text/event-stream")
        upstream.send(chunk({"content": "Blue."}))
        upstream.send(chunk({}, "stop", usage) + b"data: [DONE]\n\n")
        upstream.end()

    return script


async def cutting(upstream: Upstream) -> None:
    upstream.start("text/event-stream")
    upstream.send(chunk({"content": "Blue"}))
    await upstream.writer.drain()
    upstream.cut()


async def thinking_and_cutting(upstream: Upstream) -> None:
    upstream.start("text/event-stream")
    upstream.send(chunk({"reasoning_content": "Hm."}))
    await upstream.writer.drain()
    upstream.cut()


async def refusing(upstream: Upstream) -> None:
    upstream.send_response("application/json", b'{"error": {"message": "no such thing"}}', "400 Bad Request")


async def stalling(upstream: Upstream) -> None:
    upstream.start("text/event-stream")
    upstream.send(chunk({"content": "Blue"}))
    await upstream.writer.drain()
    await upstream.wait_client_left()


SPENT_LITTLE = saying({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8})


@asynccontextmanager
async def paid(
    monkeypatch: pytest.MonkeyPatch, script: Script, variables: Mapping[str, str], **more: Any
) -> AsyncIterator[tuple[int, RawServer]]:
    """Run the service with a key for a vendor that the test plays: its name leads to a port of this machine."""
    real = socket.getaddrinfo

    async with run_raw_server(script) as vendor:

        def found(host: Any, *arguments: Any, **options: Any) -> Any:
            if host in ("api.openai.com", "gateway.example"):
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", vendor.port))]
            return real(host, *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", found)
        providers = ProvidersWithoutModel(Settings({**KEY, **variables}))
        async with serve_providers(providers, variables, **more) as port:
            yield port, vendor


async def ask(port: int, body: Mapping[str, Any] = O1, path: str = "/api/chat") -> tuple[int, str]:
    """Send a request and return the status and the whole body."""
    status, _, output = await (await send_request(port, path, dict(body))).read_response()
    return status, output.decode()


def rule(output: str) -> str | None:
    data: str | None = json.loads(output)["error"]["rule"]
    return data


async def settled(port: int) -> None:
    """Wait until no answer is under way."""
    async with asyncio.timeout(120):
        while count_open_streams(await scrape_metrics(port)):  # noqa: ASYNC110 - the service sets no event
            await asyncio.sleep(0.01)


NAMES = [
    "openai:gpt-5",
    "openai:gpt-5-mini",
    "openai:o1-pro",
    "openai:O1-Pro",
    "openai: o1-pro ",
    "openai:ft:gpt-5:acme::x1",
    "openai:ft:gpt-5:acme-moderation::x1",
    "openai:moderation",
    "openai:gpt-99-ultra",
    "openai:gpt-5-pro-2031-01-01",
    "sim:error,openai:o1-pro",
    "openai:o1-pro,sim:steady",
    "sim:steady,openai:gpt-99-ultra",
    "openai:gpt-99-ultra,openai:o1-pro",
    "local, openai:o1-pro",
]


@pytest.mark.parametrize("address", [VENDOR, "http://gateway.example/v1"])
def test_request_over_tiny_budget_is_not_sent(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    async def main() -> tuple[list[tuple[int, str | None]], int]:
        async with paid(monkeypatch, SPENT_LITTLE, {**TINY, "OPENAI_BASE_URL": address}) as (port, vendor):
            answers = [await ask(port, {**O1, "provider": name, "max_tokens": 1_000_000}) for name in NAMES]
            return [(status, rule(entry)) for status, entry in answers], len(vendor.requests)

    result, requests = asyncio.run(main())
    assert requests == 0
    assert set(result) <= {(429, "budget.cost"), (403, "budget.unpriced")}, dict(zip(NAMES, result, strict=True))
    assert ((429, "budget.cost") in result) is (address == VENDOR)


def test_budget_rejection_has_shape_of_each_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> tuple[tuple[int, str], dict[str, Any], int]:
        async with paid(monkeypatch, SPENT_LITTLE, TINY) as (port, vendor):
            body = {"model": "openai:gpt-99-ultra", "messages": [{"role": "user", "content": "hi"}]}
            result = await ask(port, body, "/v1/chat/completions")
            async with websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as connection:
                await connection.send(json.dumps({**O1, "provider": "sim:error,openai:gpt-99-ultra"}))
                frame = json.loads(await connection.recv())
            return result, frame, len(vendor.requests)

    (status, output), frame, requests = asyncio.run(main())
    error = json.loads(output)["error"]
    assert (status, error["code"], error["param"], error["rule"]) == (403, "unpriced", "model", "budget.unpriced")
    assert error["message"].startswith("openai:gpt-99-ultra: the price is unknown")
    assert (frame["error"]["type"], frame["error"]["rule"], requests) == ("unpriced", "budget.unpriced", 0)


def test_unpriced_model_with_owner_price_passes_and_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> tuple[list[int], int]:
        variables = {**DOLLAR, "UNPRICED_USD_PER_1M": "150/600"}
        async with paid(monkeypatch, saying(None), variables) as (port, vendor):
            body = {**O1, "provider": "openai:gpt-99-ultra"}
            return [(await ask(port, body))[0] for _ in range(3)], len(vendor.requests)

    assert asyncio.run(main()) == ([200, 429, 429], 1)


@pytest.mark.parametrize("variables", [{"BUDGETS": "off"}, {"BUDGET_USD_PER_CALLER": "off", "BUDGET_USD_TOTAL": "off"}])
def test_unpriced_model_without_cost_limit_passes(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    async def main() -> int:
        async with paid(monkeypatch, SPENT_LITTLE, variables) as (port, _):
            return (await ask(port, {**O1, "provider": "openai:gpt-99-ultra"}))[0]

    assert asyncio.run(main()) == 200


ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize(
    ("script", "statuses"),
    [
        (SPENT_LITTLE, [200, 200, 200]),
        (refusing, [200, 200, 200]),
        (saying(None), [200, 429, 429]),
        (saying(ZERO), [200, 429, 429]),
        (cutting, [200, 429, 429]),
    ],
    ids=["reported", "rejected", "not reported", "reported as 0", "cut in the text"],
)
def test_answer_is_charged_by_reported_usage_or_as_reserved(
    monkeypatch: pytest.MonkeyPatch, script: Script, statuses: list[int]
) -> None:
    async def main() -> list[int]:
        async with paid(monkeypatch, script, DOLLAR) as (port, _):
            return [(await ask(port))[0] for _ in statuses]

    assert asyncio.run(main()) == statuses


@pytest.mark.parametrize("kept", [False, True])
def test_abandoned_answer_is_charged_as_reserved(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    async def main() -> int:
        async with paid(monkeypatch, stalling, DOLLAR) as (port, vendor):
            left = await send_request(port, "/api/chat", {**O1, "resume": kept})
            await left.reader.readuntil(b"Blue")
            left.drop()
            if not kept:
                await settled(port)
            status, _ = await ask(port)
            assert len(vendor.requests) == 1
            return status

    assert asyncio.run(main()) == 429


def test_concurrent_requests_pass_only_within_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> tuple[list[int], int]:
        async with paid(monkeypatch, stalling, DOLLAR) as (port, vendor):
            responses = [await send_request(port, "/api/chat", O1) for _ in range(12)]
            heads = await asyncio.gather(*(connection.reader.readline() for connection in responses))
            await wait_until(lambda: len(vendor.requests) > 0)
            for connection in responses:
                connection.drop()
            await settled(port)
            return sorted(int(head.split()[1]) for head in heads), len(vendor.requests)

    assert asyncio.run(main()) == ([200, *[429] * 11], 1)


def test_retry_is_made_only_within_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> tuple[str, int]:
        async with paid(monkeypatch, thinking_and_cutting, DOLLAR) as (port, vendor):
            _, output = await ask(port)
            return output, len(vendor.requests)

    output, requests = asyncio.run(main())
    assert (
        requests == 1 and '"type":"budget"' in output and "is not requested again: budget: your 1 USD a day" in output
    )


def test_failed_answer_without_budget_for_retry_is_429_in_openai_api(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> tuple[int, str]:
        async with paid(monkeypatch, cutting_before_the_head, DOLLAR) as (port, _):
            body = {"model": "openai:o1-pro", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}]}
            return await ask(port, body, "/v1/chat/completions")

    status, output = asyncio.run(main())
    assert (status, json.loads(output)["error"]["code"]) == (429, "budget")


async def cutting_before_the_head(upstream: Upstream) -> None:
    upstream.cut()


def test_vendor_key_at_local_address_is_charged_at_list_price(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> tuple[list[tuple[int, str]], int]:
        async with run_raw_server(SPENT_LITTLE) as vendor:
            variables = {**KEY, **TINY, "OPENAI_BASE_URL": f"http://127.0.0.1:{vendor.port}/v1"}
            async with serve_providers(ProvidersWithoutModel(Settings(variables)), variables) as port:
                answers = [await ask(port, {**O1, "provider": f"openai:{model}"}) for model in ("o1-pro", "my-own")]
                return answers, len(vendor.requests)

    (known, own), requests = asyncio.run(main())
    assert (known[0], rule(known[1])) == (429, "budget.cost")
    assert own[0] == 200 and '"cost_usd":null' in own[1] and requests == 1


WIRES = ["sse", "openai", "websocket"]


async def told(port: int, wire: str, name: str) -> tuple[int, dict[str, Any]]:
    """Request a model that is not offered; return the status (over WebSocket the close code) and the error."""
    if wire == "websocket":
        async with websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as connection:
            await connection.send(json.dumps({**O1, "provider": name}))
            frame = json.loads(await connection.recv())
            await connection.wait_closed()
            return connection.close_code or 0, frame["error"]
    messages = [{"role": "user", "content": "hi"}]
    body = O1 | {"provider": name} if wire == "sse" else {"model": name, "messages": messages}
    status, output = await ask(port, body, "/api/chat" if wire == "sse" else "/v1/chat/completions")
    return status, json.loads(output)["error"]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", ["openai:o1-pro", "sim:steady,openai:o1-pro", "openai:gpt-6.1-terra, openai:o1-pro"])
def test_public_service_rejects_models_that_are_not_offered(
    monkeypatch: pytest.MonkeyPatch, wire: str, name: str
) -> None:
    async def main() -> tuple[int, dict[str, Any], int]:
        async with paid(monkeypatch, SPENT_LITTLE, {"RATE_LIMIT": "99/minute"}, host="0.0.0.0") as (port, vendor):
            return *await told(port, wire, name), len(vendor.requests)

    status, error, requests = asyncio.run(main())
    assert requests == 0
    assert error["rule"] == "model.offered"
    assert error["message"].startswith("openai:o1-pro: this model is not offered here (use openai:gpt-6.1-terra; ")
    if wire == "openai":
        assert (status, error["code"], error["param"], error["type"]) == (
            404,
            "model_not_found",
            "model",
            "not_found_error",
        )
    else:
        assert (status, error["type"]) == (404 if wire == "sse" else 1008, "model_not_found")


def test_public_service_answers_and_lists_offered_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> tuple[list[int], list[str], list[int]]:
        variables = {"RATE_LIMIT": "99/minute", "PUBLIC_MODELS": "openai:gpt-5-nano, groq:other, openai:gpt-6.1-terra"}
        async with paid(monkeypatch, SPENT_LITTLE, variables, host="0.0.0.0") as (port, _):
            names = ("openai:gpt-6.1-terra", "openai: gpt-5-nano", "sim:steady")
            statuses = [(await ask(port, {**O1, "provider": name, "max_tokens": 2}))[0] for name in names]
            _, _, listed = await (await send_request(port, "/v1/models", method="GET")).read_response()
            result = [
                (await (await send_request(port, f"/v1/models/openai:{model}", method="GET")).read_response())[0]
                for model in ("gpt-5-nano", "o1-pro")
            ]
            return statuses, [model["id"] for model in json.loads(listed)["data"]], result

    statuses, listed, result = asyncio.run(main())
    assert statuses == [200, 200, 200] and result == [200, 404]
    assert [name for name in listed if name.startswith("openai:")] == ["openai:gpt-6.1-terra", "openai:gpt-5-nano"]
    assert "local" in listed and not any(name.startswith("groq:") for name in listed), "groq has no key"


@pytest.mark.parametrize(
    ("arguments", "variables", "statuses"),
    [
        ((), {}, [502, 502]),
        (("--host", "0.0.0.0"), {}, [404, 502]),
        (("--host", "0.0.0.0"), {"PUBLIC_MODELS": "openai:*"}, [502, 502]),
        ((), {"TRUSTED_HOPS": "1"}, [404, 502]),
    ],
)
def test_offered_models_depend_on_listening_address(
    arguments: tuple[str, ...], variables: dict[str, str], statuses: list[int]
) -> None:
    async def main(port: int) -> list[int]:
        names = ("openai:my-own", "openai:gpt-6.1-terra")
        return [(await ask(port, {**O1, "provider": name, "stream": False}))[0] for name in names]

    async def cut(upstream: Upstream) -> None:
        upstream.send_response("application/json", b'{"error": {"message": "no"}}', "400 Bad Request")

    async def whole() -> list[int]:
        async with run_raw_server(cut) as vendor:
            environment = {**KEY, "OPENAI_BASE_URL": f"http://127.0.0.1:{vendor.port}/v1", "RATE_LIMIT": "99/minute"}
            with run_service(*arguments, **environment, **variables) as service:
                return await main(service.port)

    assert asyncio.run(whole()) == statuses


def test_invalid_public_models_stop_start_with_one_line() -> None:
    output = r"error: PUBLIC_MODELS: 'nobody:x' cannot be used"
    with pytest.raises(AssertionError, match=output), run_service(PUBLIC_MODELS="nobody:x"):
        pass
