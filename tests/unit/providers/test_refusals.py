"""What a status means, what a person is told, and how long to wait."""

import json
import socket
import ssl

import pytest

from providers.refusals import Names, refusal, retry_after_s
from providers.upstream import Service, proxy_for, transport_error
from settings import Settings
from streaming.errors import BadRequest, NetworkError, ProtocolError, StreamError

NAMES = Names("OpenAI", "https://api.openai.com/v1", "OPENAI_API_KEY", "OPENAI_BASE_URL")


def told(status: int, body: object) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    return refusal(NAMES, "gpt-x", status, {}, text).message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "No such\nthing.", "type": "t"}}, "No such thing"),
        ({"error": "No such thing"}, "No such thing"),
        ({"message": "No such thing"}, "No such thing"),
        ({"detail": "No such thing"}, "No such thing"),
        ({"type": "error", "error": {"type": "overloaded_error"}}, "overloaded_error"),
        ("No such thing", "No such thing"),
        ("<html><body>x</body></html>", "a web page, not an API"),
    ],
)
def test_the_vendors_own_words_are_passed_on_in_one_line(body: object, words: str) -> None:
    assert told(500, body) == f"OpenAI failed (500): {words}"


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"error": {}}', '{"error": null}', '{"error": {"message": 5}}'])
def test_a_refusal_without_words_is_told_all_the_same(body: str) -> None:
    assert told(503, body).startswith("OpenAI failed (503)")


def test_long_words_are_shortened_and_cannot_break_the_line() -> None:
    message = told(400, {"error": {"message": "x\u2028\x00\ud83c" * 5000}})
    assert len(message) < 400
    assert message.isprintable()
    message.encode()


def test_azures_filter_is_named() -> None:
    results = {"hate": {"filtered": True}, "violence": {"filtered": False}}
    error = {"code": "content_filter", "message": "Blocked.", "innererror": {"content_filter_result": results}}
    assert told(400, {"error": error}) == "OpenAI: the content filter refused the prompt for hate (400): Blocked"


def test_what_to_check_is_said() -> None:
    assert told(401, "no").endswith("check OPENAI_API_KEY")
    assert "no model 'gpt-x', or https://api.openai.com/v1 is not its address" in told(404, "no")
    assert "check OPENAI_BASE_URL" in told(307, "")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
        (
            {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"},
            30.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


class RemoteProtocolError(Exception):
    """Named as in both HTTP libraries, which are told apart by nothing else."""


class ConnectError(Exception):
    pass


class DecodingError(Exception):
    pass


class LocalProtocolError(Exception):
    pass


def because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cls", "words"),
    [
        (because(ConnectError("x"), ConnectionRefusedError(111, "Connect call failed")), NetworkError, "refused"),
        (because(ConnectError("x"), socket.gaierror(-2, "Name or service not known")), NetworkError, "not known"),
        (because(ConnectError("x"), ssl.SSLError(1, "certificate verify failed")), NetworkError, "verify failed"),
        (RemoteProtocolError("Server disconnected without a response"), NetworkError, "without an answer"),
        (RemoteProtocolError("illegal status line"), ProtocolError, "not HTTP"),
        (DecodingError("bad gzip"), ProtocolError, "bad gzip"),
        (LocalProtocolError("illegal header"), BadRequest, "illegal header"),
        (ValueError("odd"), NetworkError, "was lost: odd"),
    ],
)
def test_a_connections_faults(error: Exception, cls: type[StreamError], words: str) -> None:
    found = transport_error(error, Service(NAMES), answered=False)
    assert type(found) is cls
    assert words in found.message


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        ("https://api.openai.com/v1", {}, None),
        ("https://api.openai.com/v1", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.openai.com/v1", {"http_proxy": "http://p:1"}, None),
        ("https://api.openai.com/v1", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.openai.com/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x.org, .openai.com"}, None),
        ("https://api.openai.com/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ai.com"}, "http://p:1"),
        ("https://api.openai.com/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://127.0.0.1:8080/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("localhost:11434", {"HTTP_PROXY": "http://p:1"}, None),
    ],
)
def test_the_proxy_is_what_the_settings_name(url: str, variables: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, Settings(variables)) == proxy
