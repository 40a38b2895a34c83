"""Hostile requests: each is rejected in the service's error format, in bounded time."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
import websockets
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from tests.asgi_server import SingleAdapterProviders, serve_providers
from tests.integration.service_over_simulator import send_request
from tests.scripted_adapter import ScriptedAdapter, words_script

CHAT_BODY = {"message": "Name three colours.", "provider": "p", "strategy": "direct"}
QUESTION: dict[str, Any] = {"model": "p", "messages": [{"role": "user", "content": "a"}]}
CHAT, STREAM, COMPLETIONS = "/api/chat", "/api/chat/stream", "/v1/chat/completions"


def make_brief_adapter() -> ScriptedAdapter:
    return ScriptedAdapter(words_script(2, first_s=0.0, gap_s=0.0))


def check_no_server_error(
    operation: "schemathesis.APIOperation[Any, Any, Any, Any]",
    mode: schemathesis.GenerationMode,
    url: str,
    change: Callable[[Any], None],
) -> None:
    @hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check_case(case: Any) -> None:
        change(case.body)
        assert case.call(base_url=url).status_code < 500

    check_case()


def keep_body(body: Any) -> None:
    """Keep the generated body unchanged."""


def set_known_names(body: Any) -> None:
    body.update({"strategy": "direct", **({"provider": "p"} if "provider" in body else {})})


def test_openapi_generated_requests_never_cause_server_error() -> None:
    async def main() -> None:
        async with serve_providers(SingleAdapterProviders(make_brief_adapter())) as port:
            _, _, document = await (await send_request(port, "/openapi.json", method="GET")).read_response()
            await asyncio.to_thread(explore, json.loads(document), f"http://127.0.0.1:{port}")

    def explore(document: dict[str, Any], url: str) -> None:
        modes = schemathesis.GenerationMode
        results: Any = schemathesis.openapi.from_dict(document).get_all_operations()
        for operation in (result.ok() for result in results):
            check_no_server_error(operation, modes.POSITIVE, url, keep_body)
            if operation.method == "post":
                check_no_server_error(operation, modes.POSITIVE, url, set_known_names)
            if operation.method == "post" or ("{stream_id}" in operation.path and operation.method == "get"):
                check_no_server_error(operation, modes.NEGATIVE, url, keep_body)

    asyncio.run(main())


HOSTILE_TEXTS = [
    "\ud800",
    "a\udfffb",
    "\ud83d",
    "\x00",
    "a\r\nset-cookie: x=1",
    "\u202e",
    "\ufffe",
    "🏴" * 900,
    "${jndi:x}",
    "%0d%0a",
]
PLACES: list[tuple[str, Callable[[str], Any]]] = [
    (CHAT, lambda text: {**CHAT_BODY, "message": text}),
    (CHAT, lambda text: {**CHAT_BODY, "system": text}),
    (CHAT, lambda text: {**CHAT_BODY, "provider": text}),
    (CHAT, lambda text: {**CHAT_BODY, "provider": f"openai:{text}"}),
    (CHAT, lambda text: {**CHAT_BODY, "strategy": text}),
    (CHAT, lambda text: {**CHAT_BODY, text: 1}),
    (CHAT, lambda text: {"messages": [{"role": "user", "content": text}]}),
    (CHAT, lambda text: {"messages": [{"role": text, "content": "a"}]}),
    (STREAM, lambda text: {**CHAT_BODY, "message": text}),
    (COMPLETIONS, lambda text: {**QUESTION, "model": text}),
    (COMPLETIONS, lambda text: {**QUESTION, "messages": [{"role": "user", "content": text}]}),
    (COMPLETIONS, lambda text: {**QUESTION, "messages": [{"role": "user", "content": [{"type": text, "text": text}]}]}),
    (COMPLETIONS, lambda text: {**QUESTION, "user": text, text: text}),
    (COMPLETIONS, lambda text: {**QUESTION, "response_format": {"type": text}}),
]


def test_hostile_text_in_any_field_never_causes_server_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> set[int]:
        statuses = set()
        async with serve_providers(SingleAdapterProviders(make_brief_adapter())) as port:
            for path, body in PLACES:
                for text in HOSTILE_TEXTS:
                    status, headers, answer = await (await send_request(port, path, body(text))).read_response()
                    assert "set-cookie" not in headers
                    assert status in (200, 400), (path, body(text), answer)
                    statuses.add(status)
        return statuses

    assert asyncio.run(main()) == {200, 400}
    assert caplog.records == []


def test_hostile_text_over_websocket_never_causes_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> set[str]:
        result = set()
        async with serve_providers(SingleAdapterProviders(make_brief_adapter())) as port:
            for path, body in PLACES:
                for text in HOSTILE_TEXTS if path == CHAT else ():
                    async with websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as socket:
                        await socket.send(json.dumps(body(text)))
                        while (kind := json.loads(await socket.recv())["type"]) not in ("done", "error"):
                            pass
                        result.add(kind)
        return result

    assert asyncio.run(main()) == {"done", "error"}
    assert caplog.records == []


VALUES: dict[str, bytes] = {
    "deep": b'{"message": "a", "system": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and open": b"[" * 200_000,
    "huge number": b'{"message": "a", "max_tokens": ' + b"9" * 5000 + b"}",
    "huge exponent": b'{"message": "a", "temperature": 1e999999}',
    "NaN": b'{"message": "a", "temperature": NaN}',
    "infinity": b'{"message": "a", "temperature": -Infinity}',
    "not utf-8": b'{"message": "\xff\xfe\xfd"}',
    "a surrogate in utf-8": b'{"message": "\xed\xa0\x80"}',
    "utf-16": '{"message": "a", "colour": 1}'.encode("utf-16"),
    "a null byte": b'{"message": "a"}\x00',
    "many keys": json.dumps({f"k{n}": n for n in range(15_000)}).encode(),
    "a bare string": b'"a"',
    "nothing": b"",
}


@pytest.mark.parametrize("path", [CHAT, STREAM, COMPLETIONS])
def test_hostile_json_values_are_rejected_without_server_error(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serve_providers(SingleAdapterProviders(make_brief_adapter())) as port:
            for name, body in VALUES.items():
                status, _, answer = await (await send_request(port, path, body)).read_response()
                message = json.loads(answer)["error"]["message"]
                assert (status, "\n" in message, len(message) < 1000) == (400, False, True), (name, answer)

    asyncio.run(main())
    assert caplog.records == []
