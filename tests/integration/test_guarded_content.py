"""The content rules over real sockets: default and strict validation, and secrets in answers."""

import asyncio
import json
from collections.abc import Mapping

import pytest

import app
from streaming.events import TextDelta
from tests.asgi_server import UNLIMITED_VARIABLES, HttpReply, SingleAdapterProviders, post_and_read, serve_providers
from tests.scripted_adapter import FINISH, ScriptedAdapter

SCRIPT = "Why does <script>alert(1)</script> not run, and is ' OR 1=1 -- dangerous?"
SECRET = "correct-horse-battery-staple"


def ask(message: str, variables: Mapping[str, str], adapter: ScriptedAdapter | None = None) -> HttpReply:
    played = SingleAdapterProviders(adapter or ScriptedAdapter([(0.0, TextDelta("yes")), (0.0, FINISH)]))

    async def main() -> HttpReply:
        async with serve_providers(played, {**UNLIMITED_VARIABLES, **variables}) as port:
            return await post_and_read(port, {"message": message, "strategy": "direct"})

    return asyncio.run(main())


def test_question_about_code_is_answered_by_default() -> None:
    for message in (SCRIPT, (SCRIPT + "\n") * 400):
        assert ask(message, {}).status == 200


@pytest.mark.parametrize(
    ("message", "off", "rule"),
    [
        (SCRIPT, "", "validation.script"),
        (SCRIPT, "script", "validation.sql"),
        ("a" * 4_001, "script,sql", "validation.length"),
    ],
)
def test_strict_validation_rejection_names_rule(message: str, off: str, rule: str) -> None:
    reply = ask(message, {"VALIDATION": "strict", "VALIDATION_OFF": off})
    assert (reply.status, json.loads(reply.body)["error"]["rule"]) == (400, rule)
    assert ask(message, {"VALIDATION": "strict", "VALIDATION_OFF": "script,sql,length"}).status == 200


def test_environment_secret_is_redacted_from_answer() -> None:
    pieces = [SECRET[i : i + 3] for i in range(0, len(SECRET), 3)]
    adapter = ScriptedAdapter([*((0.0, TextDelta(piece)) for piece in ["It is ", *pieces, "."]), (0.0, FINISH)])
    reply = ask("What is it?", {"SOME_PASSWORD": SECRET}, adapter)
    result = [event.data for event in reply.sse_events() if event.event == "message"]
    assert "".join(json.loads(data)["content"] for data in result[:-1]) == "It is [removed]."


def test_invalid_validation_value_stops_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VALIDATION", "stern")
    assert app.main(["--no-ui", "--port", "0"]) == 2
    assert capsys.readouterr().err == "error: VALIDATION: 'stern' cannot be used (write default or strict)\n"
