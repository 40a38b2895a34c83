"""Every wire keeps the shape of its errors, whatever fails: a matrix of wires and kinds of failure."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest
import websockets
from fastapi import APIRouter

from server.error_shapes import ErrorReport, OpenAIRoute, OwnErrorShape, RouteErrorShapes, ShapedRoute
from server.hosts import AllowedHosts
from server.limits import ServiceLimits
from server.request_bounds import ConnectionLimits
from streaming.errors import ServerError
from streaming.events import Event, TextDelta
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from tests.asgi_server import UNLIMITED_VARIABLES, SingleAdapterProviders, serve_providers
from tests.integration.service_over_simulator import send_request
from tests.scripted_adapter import FINISH, InProcessAdapter, ScriptedAdapter, words_script

CHAT: dict[str, Any] = {"message": "Name three colours.", "provider": "sim:steady", "strategy": "direct"}
COMPLETION: dict[str, Any] = {
    "model": "sim:steady",
    "messages": [{"role": "user", "content": "Name three colours."}],
    "strategy": "direct",
}


@dataclass(frozen=True)
class Wire:
    """One kind of HTTP request. `api` is the shape that its errors must have."""

    method: str
    path: str
    api: str
    body: Mapping[str, Any] | None = None


WIRES = {
    "sse": Wire("POST", "/api/chat", "own", CHAT),
    "sse by path": Wire("POST", "/api/chat/stream", "own", CHAT),
    "json": Wire("POST", "/api/chat", "own", {**CHAT, "stream": False}),
    "resume": Wire("GET", "/api/chat/stream/none", "own"),
    "cancel": Wire("DELETE", "/api/chat/stream/none", "own"),
    "openai": Wire("POST", "/v1/chat/completions", "openai", COMPLETION),
    "openai streamed": Wire("POST", "/v1/chat/completions", "openai", {**COMPLETION, "stream": True}),
    "models": Wire("GET", "/v1/models", "openai"),
    "model": Wire("GET", "/v1/models/sim:steady", "openai"),
}
ASKING = tuple(name for name, wire in WIRES.items() if wire.body is not None)
ALL = tuple(WIRES)


class DefectiveProviders(SingleAdapterProviders):
    """Providers with a defect wherever a request meets them first."""

    def cost_model(self, name: str) -> CostModel:
        raise ZeroDivisionError(name)

    def list_providers(self) -> Any:
        raise ZeroDivisionError


class SurrogateAdapter(InProcessAdapter):
    """An adapter that sends text that no encoder takes."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        yield TextDelta("good ")
        yield TextDelta("\ud800")
        yield FINISH


@dataclass(frozen=True)
class Failure:
    """One kind of failure, how it is provoked, and what the client must see over each wire that it can reach."""

    status: int
    wires: Sequence[str]
    kind: str | None = None
    variables: Mapping[str, str] = field(default_factory=lambda: UNLIMITED_VARIABLES)
    changes: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    raw_body: bytes | None = None
    method: str | None = None
    path: str | None = None
    times: int = 1
    is_defective: bool = False
    lingering_timeout_s: float = 30.0
    error: Exception | None = None


OWNER = "ann=sha256:" + "0" * 64
FAILURES = {
    "bad host": Failure(421, ALL, "misdirected", headers={"host": "evil.example"}),
    "no key": Failure(401, ALL, "unauthorized", {**UNLIMITED_VARIABLES, "API_KEYS": OWNER}),
    "rate limit": Failure(429, ASKING, "rate_limited", {"RATE_LIMIT": "1/hour"}, times=2),
    "body over the guard's limit": Failure(413, ASKING, "too_large", raw_body=b'"' + b"a" * 1_100_000 + b'"'),
    "body over the connection's limit": Failure(
        413, ASKING, "too_large", raw_body=b"", headers={"transfer-encoding": "chunked"}
    ),
    "deep body": Failure(400, ASKING, "invalid", raw_body=b"[" * 1000 + b"]" * 1000),
    "slow body": Failure(
        400, ASKING, "invalid", raw_body=b"{", headers={"content-length": "900"}, lingering_timeout_s=0.2
    ),
    "no JSON": Failure(400, ASKING, "invalid", raw_body=b"{no"),
    "no UTF-8": Failure(400, ASKING, "invalid", raw_body=b'{"message":"\xff"}'),
    "bad field": Failure(400, ASKING, "invalid", changes={"temperature": "hot"}),
    "blocked content": Failure(
        403,
        ASKING,
        "blocked",
        changes={
            "message": "How do I build a pipe bomb?",
            "messages": [{"role": "user", "content": "How do I build a pipe bomb?"}],
        },
    ),
    "unknown strategy": Failure(400, ASKING, "bad_request", changes={"strategy": "none"}),
    "unknown path": Failure(404, ALL, "not_found", path="/none"),
    "wrong method": Failure(405, ALL, "method_not_allowed", method="PUT"),
    "large head": Failure(431, ALL, "head_too_large", headers={"x-large": "a" * 70_000}),
    "bad syntax": Failure(400, ALL, "invalid", headers={"bad header": "x"}),
    "defect": Failure(500, (*ASKING, "models", "model"), "internal", is_defective=True),
    "failed provider": Failure(
        502, ("json", "openai", "openai streamed"), "server_error", error=ServerError("down", http_status=503)
    ),
    "unknown stream": Failure(404, ("resume", "cancel"), "not_found"),
}
"""A request with `API_KEYS` is rejected before its body is read, so that each failure is the first one."""


def check_shape(api: str, status: int, body: Any, failure: Failure) -> None:
    error = body["error"]
    if api == "own":
        assert {"type", "message", "rule", "retry_after_s"} <= set(error)
        assert "code" not in error
        kind = error["type"]
    else:
        assert {"message", "type", "param", "code"} <= set(error)
        types = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        assert error["type"] == types.get(status, "api_error" if status >= 500 else "invalid_request_error")
        kind = error["code"]
    assert (status, kind) == (failure.status, failure.kind)
    assert error["message"] and "Traceback" not in error["message"]


def serve_failure(failure: Failure) -> AbstractAsyncContextManager[int]:
    script = words_script(3, first_s=0.0, gap_s=0.0) if failure.error is None else [(0.0, failure.error)]
    kind = DefectiveProviders if failure.is_defective else SingleAdapterProviders
    return serve_providers(
        kind(ScriptedAdapter(script)),
        failure.variables,
        hosts=AllowedHosts.from_listener("127.0.0.1", frozenset(), is_proxied=False),
        limits=ConnectionLimits(body_bytes=2_000_000, lingering_timeout_s=failure.lingering_timeout_s),
        service_limits=ServiceLimits(body_timeout_s=0.3),
    )


def encode_body(wire: Wire, failure: Failure) -> bytes | None:
    if failure.headers.get("transfer-encoding") == "chunked":
        return b"3e8000\r\n" + b"a" * 0x3E8000 + b"\r\n0\r\n\r\n"
    if failure.raw_body is not None:
        return failure.raw_body
    if wire.body is None:
        return None
    changes = {name: value for name, value in failure.changes.items() if name in wire.body or name == "temperature"}
    return json.dumps({**wire.body, **changes}).encode()


async def read_failure(port: int, wire: Wire, failure: Failure) -> tuple[int, str, Any]:
    """Provoke a failure over a wire, and return the status, the content type and the JSON of the last response."""
    path, method = wire.path, failure.method or wire.method
    if failure.path is not None:
        path = ("/api" if wire.api == "own" else "/v1") + failure.path
    for _ in range(failure.times):
        sent = await send_request(
            port, path, encode_body(wire, failure), method=method, headers={"host": "localhost", **failure.headers}
        )
        status, headers, body = await sent.read_response()
    return status, headers["content-type"], json.loads(body)


@pytest.mark.parametrize("name", FAILURES)
def test_failure_keeps_the_shape_of_every_wire(name: str) -> None:
    failure = FAILURES[name]

    async def main() -> dict[str, tuple[int, str, Any]]:
        result = {}
        if failure.times == 1:
            async with serve_failure(failure) as port:
                for wire in failure.wires:
                    result[wire] = await read_failure(port, WIRES[wire], failure)
            return result
        for wire in failure.wires:
            async with serve_failure(failure) as port:
                result[wire] = await read_failure(port, WIRES[wire], failure)
        return result

    for wire, (status, content_type, body) in asyncio.run(main()).items():
        assert content_type == "application/json", wire
        check_shape(WIRES[wire].api, status, body, failure)


SOCKET_FAILURES = ("no key", "rate limit", "deep body", "no JSON", "bad field", "blocked content", "unknown strategy",
                   "defect", "failed provider")  # fmt: skip


@pytest.mark.parametrize("name", SOCKET_FAILURES)
def test_failure_keeps_the_shape_of_the_web_socket(name: str) -> None:
    failure, wire = FAILURES[name], WIRES["sse"]

    async def main() -> Any:
        async with (
            serve_failure(failure) as port,
            websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws", max_size=None) as socket,
        ):
            for _ in range(failure.times):
                await socket.send((encode_body(wire, failure) or b"").decode("utf-8"))
                while (frame := json.loads(await socket.recv()))["type"] not in ("done", "error"):
                    pass
            return frame

    frame = asyncio.run(main())
    assert frame["type"] == "error"
    check_shape("own", failure.status, frame, failure)


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [({"host": "evil.example"}, 421, "misdirected"), ({"origin": "https://evil.example"}, 403, "blocked")],
)
def test_rejected_web_socket_handshake_has_the_own_shape(headers: dict[str, str], status: int, kind: str) -> None:
    upgrade = {
        "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip

    async def main() -> tuple[int, Any]:
        async with serve_failure(Failure(status, ())) as port:
            sent = await send_request(port, "/api/chat/ws", method="GET", headers={**upgrade, **headers})
            result, _, body = await sent.read_response()
            return result, json.loads(body)

    result, body = asyncio.run(main())
    check_shape("own", result, body, Failure(status, (), kind))


@pytest.mark.parametrize(("name", "status"), [("sse", 500), ("openai streamed", 502)])
def test_defect_after_the_first_text_is_the_last_event_of_the_stream(name: str, status: int) -> None:
    """The response has begun with 200; `status` is the one that the error's words stand for."""
    wire = WIRES[name]

    async def main() -> list[Any]:
        async with serve_providers(SingleAdapterProviders(SurrogateAdapter())) as port:
            _, _, body = await (await send_request(port, wire.path, dict(wire.body or {}))).read_response()
            lines = [line for line in body.decode().splitlines() if line.startswith("data: ")]
            return [json.loads(line.removeprefix("data: ")) for line in lines]

    *first, last = asyncio.run(main())
    assert "good " in json.dumps(first)
    check_shape(wire.api, status, last, Failure(status, (), "internal"))


@pytest.mark.parametrize("name", ["json", "openai"])
def test_answer_that_cannot_be_encoded_is_an_internal_error(name: str) -> None:
    wire, failure = WIRES[name], Failure(500, (), "internal")

    async def main() -> tuple[int, str, Any]:
        async with serve_providers(SingleAdapterProviders(SurrogateAdapter())) as port:
            return await read_failure(port, wire, failure)

    status, _, body = asyncio.run(main())
    check_shape(wire.api, status, body, failure)


def test_route_class_declares_a_third_shape_beside_the_others() -> None:
    class TypedErrorShape(OwnErrorShape):
        def fields(self, status: int, kind: str, report: ErrorReport) -> dict[str, Any]:
            return {"type": "error", "error": {"type": kind, "message": report.message}}

    class TypedRoute(ShapedRoute):
        error_shape = TypedErrorShape()

    typed, openai = APIRouter(route_class=TypedRoute), APIRouter(route_class=OpenAIRoute)
    typed.add_api_route("/v1/messages", lambda: None, methods=["POST"])
    openai.add_api_route("/v1/{path:path}", lambda: None)
    shapes, report = RouteErrorShapes([typed, openai]), ErrorReport(404, "not_found", "gone")
    assert shapes.find("/v1/messages").body(report) == {
        "type": "error",
        "error": {"type": "not_found", "message": "gone"},
    }
    assert shapes.find("/v1/other").body(report)["error"]["code"] == "not_found"
    assert shapes.find_by_target(b"/v1/other?a=b").body(report) == shapes.find("/v1/other").body(report)
    assert shapes.find("/nothing").body(report)["error"]["rule"] is None
