"""The service over real sockets: responses, rejections, and that a disconnect stops the provider."""

import asyncio
import json
from typing import Any

import pytest

from providers import ProviderRegistry
from settings import Settings
from streaming.errors import ServerError
from streaming.events import Notice, TextDelta, ThinkingDelta
from tests.asgi_server import (
    HttpReply,
    SingleAdapterProviders,
    open_request,
    post_and_read,
    serve_providers,
    wait_until,
)
from tests.integration.service_over_simulator import scrape_metrics, send_request
from tests.scripted_adapter import FINISH, ScriptedAdapter, ScriptStep, words_script

CHAT_BODY = {"message": "Name three colours.", "strategy": "direct"}


def post_chat(adapter: ScriptedAdapter, body: dict[str, Any] | bytes = CHAT_BODY, path: str = "/api/chat") -> HttpReply:
    async def main() -> HttpReply:
        async with serve_providers(SingleAdapterProviders(adapter)) as port:
            return await post_and_read(port, body, path)

    return asyncio.run(main())


def test_sse_sends_text_as_data_lines_and_done_last() -> None:
    reply = post_chat(ScriptedAdapter(words_script(5, first_s=0.0, gap_s=0.0)))
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
    text = [json.loads(e.data)["content"] for e in reply.sse_events() if e.event == "message" and e.data != "[DONE]"]
    assert text == ["w0 ", "w1 ", "w2 ", "w3 ", "w4 "]
    assert b'data: {"content":"w0 "}\n\n' in reply.body
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_sse_sends_text_while_provider_is_silent() -> None:
    async def main() -> None:
        adapter = ScriptedAdapter([(0.0, TextDelta("now ")), *SILENT_SCRIPT])
        async with serve_providers(SingleAdapterProviders(adapter)) as port:
            reader, writer = await open_request(port, CHAT_BODY)
            async with asyncio.timeout(120):
                await reader.readuntil(b'"content":"now "')
            assert adapter.open == 1
            writer.transport.abort()

    asyncio.run(main())


def test_sse_events_have_ordered_ids_and_start_names_stream() -> None:
    events = post_chat(ScriptedAdapter([(0.0, Notice("connected", "")), *words_script(3)])).sse_events()
    stream_id = json.loads(events[0].data)["stream_id"]
    assert len(stream_id) >= 20
    assert [e.id for e in events] == [f"{stream_id}:{n}" for n in range(1, len(events) + 1)]
    assert [e.event for e in events] == [
        "start", "stage", "stage", "message", "message", "message", "usage", "stage", "finish", "message"
    ]  # fmt: skip


def test_finish_event_has_reason_usage_and_null_unknown_cost() -> None:
    events = post_chat(ScriptedAdapter(words_script(3))).sse_events()
    (finish,) = [json.loads(e.data) for e in events if e.event == "finish"]
    assert (finish["finish_reason"], finish["cost_usd"]) == ("stop", None)
    assert finish["usage"] == {
        "input_tokens": 4, "output_tokens": 3, "thinking_tokens": None, "cached_tokens": None,
        "cache_write_tokens": None, "source": "reported",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([(0.0, TextDelta("part")), (0.0, ServerError("down", http_status=503))], "server_error"),
        ([(0.0, TextDelta("part"))], "truncated"),
    ],
)
def test_failed_answer_ends_with_error_event_and_no_done(script: list[ScriptStep], kind: str) -> None:
    events = post_chat(ScriptedAdapter(script)).sse_events()
    assert json.loads(events[-1].data)["error"]["type"] == kind
    assert events[-1].event == "error"
    assert json.loads(events[-1].data)["delivered_chars"] == 4
    assert "[DONE]" not in [e.data for e in events]
    assert "finish" not in [e.event for e in events]


def test_thinking_is_sent_as_thinking_events() -> None:
    events = post_chat(
        ScriptedAdapter([(0.0, ThinkingDelta("hm")), (0.0, TextDelta("yes")), (0.0, FINISH)])
    ).sse_events()
    assert [json.loads(e.data) for e in events if e.event == "thinking"] == [{"content": "hm"}]


def test_requested_strategy_is_applied() -> None:
    adapter = ScriptedAdapter(words_script(20, first_s=0.0, gap_s=0.01))
    events = post_chat(adapter, {"message": "x", "strategy": "whole"}).sse_events()
    text = [json.loads(e.data)["content"] for e in events if e.event == "message" and e.data != "[DONE]"]
    assert text == ["".join(f"w{i} " for i in range(20))]


def test_conversation_and_settings_reach_adapter() -> None:
    adapter = ScriptedAdapter(words_script(1))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    post_chat(adapter, {"messages": turns, "system": "be brief", "temperature": 0.5, "max_tokens": 7})
    (request,) = adapter.requests
    assert [(m.role, m.content) for m in request.messages] == [
        ("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c")
    ]  # fmt: skip
    assert (request.temperature, request.max_tokens, request.streamed, request.model) == (0.5, 7, True, "m")


def test_request_without_streaming_returns_json() -> None:
    adapter = ScriptedAdapter([(0.1, TextDelta("red, green, blue")), (0.0, FINISH)])
    reply = post_chat(adapter, {"message": "x", "stream": False})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json()["content"] == "red, green, blue"
    assert (reply.json()["finish_reason"], reply.json()["cost_usd"]) == ("stop", None)
    assert reply.json()["usage"]["source"] == "estimated"
    assert not adapter.requests[0].streamed


def test_failed_json_answer_returns_502_with_partial_content() -> None:
    reply = post_chat(ScriptedAdapter([(0.0, TextDelta("part"))]), {"message": "x", "stream": False})
    assert reply.status == 502
    assert (reply.json()["error"]["type"], reply.json()["content"]) == ("truncated", "part")


def test_stream_path_streams_regardless_of_body() -> None:
    reply = post_chat(ScriptedAdapter(words_script(1)), {"message": "x", "stream": False}, "/api/chat/stream")
    assert reply.body.endswith(b"data: [DONE]\n\n")


DEEP_BODY = b'{"message": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
REJECTED_BODIES: dict[str, tuple[bytes, str]] = {
    "empty message": (b'{"message": "  "}', "no text"),
    "no message": (b"{}", "message"),
    "both": (b'{"message": "a", "messages": [{"role": "user", "content": "a"}]}', "both set"),
    "no messages": (b'{"messages": []}', "no text"),
    "last turn is not the user's": (b'{"messages": [{"role": "assistant", "content": "a"}]}', "last message"),
    "unknown role": (b'{"messages": [{"role": "king", "content": "a"}]}', "role"),
    "wrong type": (b'{"message": 5}', "message"),
    "not an object": (b"[1]", ""),
    "not json": (b"{", "JSON"),
    "nothing": (b"", ""),
    "bad utf-8": (b'{"message": "\xff\xfe"}', ""),
    "half a surrogate": (b'{"message": "\\ud800"}', "surrogate"),
    "deep": (DEEP_BODY, ""),
    "unknown field": (b'{"message": "a", "colour": "red"}', "colour"),
    "temperature": (b'{"message": "a", "temperature": 3}', "temperature"),
    "temperature NaN": (b'{"message": "a", "temperature": NaN}', "temperature"),
    "max_tokens": (b'{"message": "a", "max_tokens": 0}', "max_tokens"),
    "unknown strategy": (b'{"message": "a", "strategy": "bacth"}', "choose one of"),
    "unknown provider": (b'{"message": "a", "provider": "opneai:x"}', "opneai"),
    "unknown profile": (b'{"message": "a", "provider": "sim:nothing"}', "steady"),
    "a key is missing": (b'{"message": "a", "provider": "openai:gpt-6.1-terra"}', "OPENAI_API_KEY"),
    "a file of the server's": (b'{"message": "a", "provider": "local, replay:/etc/passwd"}', "not offered"),
    "provider with half a surrogate": (b'{"message": "a", "provider": "\\ud800"}', "surrogate"),
}


@pytest.mark.parametrize("name", REJECTED_BODIES)
def test_invalid_body_is_rejected_with_one_line_message(name: str) -> None:
    body, says = REJECTED_BODIES[name]

    async def main() -> HttpReply:
        async with serve_providers(_ColdProviders(Settings())) as port:
            return await post_and_read(port, body)

    reply = asyncio.run(main())
    assert reply.status == 400
    message = reply.json()["error"]["message"]
    assert says in message
    assert message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"{", "body.json"),
        (b'{"message": "\xff\xfe"}', "body.json"),
        (b'{"message": "a", "max_tokens": ' + b"9" * 5000 + b"}", "body.json"),
        (b'{"message": "\\ud800"}', "validation.unicode"),
        (b'{"\\ud800": "a"}', "validation.unicode"),
        (b'{"message": 5}', "body.fields"),
        (b'{"message": "a", "colour": "red"}', "body.fields"),
        (DEEP_BODY, "validation.depth"),
    ],
)
def test_rejected_body_names_rule_and_counts_in_metrics(body: bytes, rule: str) -> None:
    async def main() -> tuple[HttpReply, dict[str, float]]:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(1)))) as port:
            return await post_and_read(port, body), await scrape_metrics(port)

    reply, figures = asyncio.run(main())
    assert (reply.status, reply.json()["error"]["type"], reply.json()["error"]["rule"]) == (400, "invalid", rule)
    assert figures[f'streamgauge_refusals_total{{rule="{rule}"}}'] == 1


def test_number_of_thousands_of_digits_is_named() -> None:
    async def main() -> HttpReply:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(1)))) as port:
            return await post_and_read(port, b'{"message": "a", "max_tokens": ' + b"9" * 5000 + b"}")

    message = asyncio.run(main()).json()["error"]["message"]
    assert message == "the body: a number has thousands of digits (send a shorter one)"


def test_service_describes_its_api_without_another_site() -> None:
    async def main() -> list[tuple[int, Any, bytes]]:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(1)))) as port:
            paths = ("/openapi.json", "/docs", "/redoc")
            return [await (await send_request(port, path, method="GET")).read_response() for path in paths]

    described, *pages = asyncio.run(main())
    assert described[0] == 200 and "/api/chat/stream" in json.loads(described[2])["paths"]
    assert [status for status, _, _ in pages] == [404, 404]


def test_listed_origin_gets_cors_headers_and_retry_after() -> None:
    origin = {"origin": "https://listed.example"}
    expected = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-os",
    }

    async def main() -> tuple[Any, Any]:
        variables = {"ALLOWED_ORIGINS": "https://listed.example", "RATE_LIMIT": "1/minute"}
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(1))), variables) as port:
            path = "/v1/chat/completions"
            before = await (
                await send_request(port, path, method="OPTIONS", headers={**origin, **expected})
            ).read_response()
            await (await send_request(port, "/api/chat", CHAT_BODY, headers=origin)).read_response()
            return before, await (await send_request(port, "/api/chat", CHAT_BODY, headers=origin)).read_response()

    (status, allowed, _), (refused, headers, _) = asyncio.run(main())
    assert (status, "x-stainless-os" in allowed["access-control-allow-headers"]) == (200, True)
    assert (refused, headers["access-control-allow-origin"]) == (429, "https://listed.example")
    assert headers["access-control-expose-headers"].lower() == "retry-after" and int(headers["retry-after"]) > 0


class _ColdProviders(ProviderRegistry):
    def preload_local_model(self) -> None:
        """Do nothing: rejections need no model."""


def test_form_content_type_is_rejected_asking_for_json() -> None:
    async def main() -> HttpReply:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(1)))) as port:
            return await post_and_read(port, b'{"message": "a"}', content_type="application/x-www-form-urlencoded")

    reply = asyncio.run(main())
    assert reply.status == 400
    assert "application/json" in reply.json()["error"]["message"]


SILENT_SCRIPT: list[ScriptStep] = [(60.0, TextDelta("late"))]


@pytest.mark.parametrize("body", [CHAT_BODY, {**CHAT_BODY, "stream": False}], ids=["sse", "json"])
@pytest.mark.parametrize(
    "script",
    [SILENT_SCRIPT, [*words_script(3)[:3], *SILENT_SCRIPT], [(0.02, TextDelta("x"))] * 2000],
    ids=["before the first token", "in a silence", "mid-stream"],
)
def test_client_disconnect_stops_provider(body: dict[str, Any], script: list[ScriptStep]) -> None:
    """The scripts take 40 s and more; `benchmarks.page_stop` measures how soon the provider's work ends."""

    async def main() -> None:
        adapter = ScriptedAdapter(script)
        async with serve_providers(SingleAdapterProviders(adapter)) as port:
            _, writer = await open_request(port, body)
            await wait_until(
                lambda: adapter.open == 1 and adapter.given >= sum(delay_s < 1 for delay_s, _ in script[:3])
            )
            writer.transport.abort()
            await wait_until(lambda: adapter.open == 0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_line", "status", "allow"),
    [
        ("GET /api/chat", 405, "POST"),
        ("DELETE /api/chat/stream", 405, "POST"),
        ("GET /api/nothing", 404, None),
        ("POST /api/chat/stream/s", 405, "GET, DELETE"),
        ("PUT /v1/models", 405, "GET, HEAD"),
        ("DELETE /v1/models/sim:steady", 405, "GET, HEAD"),
        ("GET /api/chat/ws", 426, None),
        ("GET /v1", 404, None),
        ("GET /api", 404, None),
        ("HEAD /healthz", 200, None),
        ("HEAD /metrics", 200, None),
        ("HEAD /v1/models", 200, None),
        ("HEAD /v1/models/sim:steady", 200, None),
        ("PUT /healthz", 405, "GET"),
    ],
)
def test_unknown_path_or_method_is_rejected_in_error_shape(request_line: str, status: int, allow: str | None) -> None:
    async def main() -> bytes:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(1)))) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{request_line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            raw = await reader.read()
            writer.close()
            await writer.wait_closed()
            return raw

    head, _, body = asyncio.run(main()).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    if status >= 400:
        shape = (
            ("message", "type", "param", "code")
            if "/v1/" in request_line
            else ("type", "message", "rule", "retry_after_s")
        )
        assert set(json.loads(body)["error"]) == set(shape)
    if allow:
        assert f"allow: {allow}".lower() in head.decode().lower()


def test_concurrent_readers_each_get_own_stream() -> None:
    async def main() -> list[HttpReply]:
        async with serve_providers(SingleAdapterProviders(ScriptedAdapter(words_script(10)))) as port:
            return await asyncio.gather(*(post_and_read(port, CHAT_BODY) for _ in range(40)))

    replies = asyncio.run(main())
    assert all(r.body.endswith(b"data: [DONE]\n\n") for r in replies)
    assert len({r.sse_events()[0].data for r in replies}) == 40
