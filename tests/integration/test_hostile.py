"""Callers who mean no good: whatever comes is refused in the service's own words, in bounded time."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
import websockets
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from tests.integration.watched import request
from tests.playing import PlayingAdapter, words
from tests.serving import Played, serving

ASK = {"message": "Name three colours.", "provider": "p", "strategy": "direct"}
QUESTION: dict[str, Any] = {"model": "p", "messages": [{"role": "user", "content": "a"}]}
CHAT, STREAM, COMPLETIONS = "/api/chat", "/api/chat/stream", "/v1/chat/completions"


def brief() -> PlayingAdapter:
    return PlayingAdapter(words(2, first_s=0.0, gap_s=0.0))


def no_server_error(
    operation: "schemathesis.APIOperation[Any, Any, Any, Any]",
    mode: schemathesis.GenerationMode,
    url: str,
    change: Callable[[Any], None],
) -> None:
    @hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        change(case.body)
        assert case.call(base_url=url).status_code < 500

    check()


def unchanged(body: Any) -> None:
    """Leave what was generated."""


def with_names_that_exist(body: Any) -> None:
    body.update({"strategy": "direct", **({"provider": "p"} if "provider" in body else {})})


def test_nothing_that_the_description_allows_or_forbids_breaks_the_service() -> None:
    async def main() -> None:
        async with serving(Played(brief())) as port:
            _, _, document = await (await request(port, "/openapi.json", method="GET")).response()
            await asyncio.to_thread(explore, json.loads(document), f"http://127.0.0.1:{port}")

    def explore(document: dict[str, Any], url: str) -> None:
        modes = schemathesis.GenerationMode
        results: Any = schemathesis.openapi.from_dict(document).get_all_operations()
        for operation in (result.ok() for result in results):
            no_server_error(operation, modes.POSITIVE, url, unchanged)
            if operation.method == "post":
                no_server_error(operation, modes.POSITIVE, url, with_names_that_exist)
            if operation.method == "post" or ("{stream_id}" in operation.path and operation.method == "get"):
                no_server_error(operation, modes.NEGATIVE, url, unchanged)

    asyncio.run(main())


EVIL = [
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
    (CHAT, lambda text: {**ASK, "message": text}),
    (CHAT, lambda text: {**ASK, "system": text}),
    (CHAT, lambda text: {**ASK, "provider": text}),
    (CHAT, lambda text: {**ASK, "provider": f"openai:{text}"}),
    (CHAT, lambda text: {**ASK, "strategy": text}),
    (CHAT, lambda text: {**ASK, text: 1}),
    (CHAT, lambda text: {"messages": [{"role": "user", "content": text}]}),
    (CHAT, lambda text: {"messages": [{"role": text, "content": "a"}]}),
    (STREAM, lambda text: {**ASK, "message": text}),
    (COMPLETIONS, lambda text: {**QUESTION, "model": text}),
    (COMPLETIONS, lambda text: {**QUESTION, "messages": [{"role": "user", "content": text}]}),
    (COMPLETIONS, lambda text: {**QUESTION, "messages": [{"role": "user", "content": [{"type": text, "text": text}]}]}),
    (COMPLETIONS, lambda text: {**QUESTION, "user": text, text: text}),
    (COMPLETIONS, lambda text: {**QUESTION, "response_format": {"type": text}}),
]


def test_no_text_breaks_the_service_wherever_it_stands(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> set[int]:
        statuses = set()
        async with serving(Played(brief())) as port:
            for path, body in PLACES:
                for text in EVIL:
                    status, headers, answer = await (await request(port, path, body(text))).response()
                    assert "set-cookie" not in headers
                    assert status in (200, 400), (path, body(text), answer)
                    statuses.add(status)
        return statuses

    assert asyncio.run(main()) == {200, 400}
    assert caplog.records == []


def test_no_text_in_a_socket_breaks_the_service(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> set[str]:
        found = set()
        async with serving(Played(brief())) as port:
            for path, body in PLACES:
                for text in EVIL if path == CHAT else ():
                    async with websockets.connect(f"ws://127.0.0.1:{port}/api/chat/ws") as talk:
                        await talk.send(json.dumps(body(text)))
                        while (kind := json.loads(await talk.recv())["type"]) not in ("done", "error"):
                            pass
                        found.add(kind)
        return found

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
def test_no_value_breaks_the_service(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(Played(brief())) as port:
            for name, body in VALUES.items():
                status, _, answer = await (await request(port, path, body)).response()
                message = json.loads(answer)["error"]["message"]
                assert (status, "\n" in message, len(message) < 1000) == (400, False, True), (name, answer)

    asyncio.run(main())
    assert caplog.records == []
