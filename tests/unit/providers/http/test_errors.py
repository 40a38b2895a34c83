"""Errors from HTTP responses: their classes and messages, and the wait before a retry."""

import json
import socket
import ssl
from types import ModuleType

import httpx
import httpx2
import pytest

from providers.http.client import ServiceConfig
from providers.http.errors import ServiceLabels, error_from_response, parse_retry_after
from providers.http.transport_errors import close_reason_of, transport_error
from streaming.errors import (
    BadRequestError,
    ConnectTimeout,
    NetworkError,
    ProtocolError,
    ResponseTooLargeError,
    StreamError,
    TruncatedStreamError,
)
from streaming.http.close_reason import CloseReason
from streaming.limits import LimitExceededError

NAMES = ServiceLabels("OpenAI", "https://api.openai.com/v1", "OPENAI_API_KEY", "OPENAI_BASE_URL")


def error_message(status: int, body: object) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    return error_from_response(NAMES, "gpt-x", status, {}, text).message


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
def test_provider_message_is_passed_on_in_one_line(body: object, words: str) -> None:
    assert error_message(500, body) == f"OpenAI: server error (500): {words}"


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"error": {}}', '{"error": null}', '{"error": {"message": 5}}'])
def test_error_without_message_still_names_status(body: str) -> None:
    assert error_message(503, body).startswith("OpenAI: server error (503)")


def test_long_provider_message_is_shortened_to_printable_line() -> None:
    message = error_message(400, {"error": {"message": "x\u2028\x00\ud83c" * 5000}})
    assert len(message) < 400
    assert message.isprintable()
    message.encode()


def test_azure_content_filter_category_is_named() -> None:
    results = {"hate": {"filtered": True}, "violence": {"filtered": False}}
    error = {"code": "content_filter", "message": "Blocked.", "innererror": {"content_filter_result": results}}
    assert (
        error_message(400, {"error": error}) == "OpenAI: prompt rejected by the content filter for hate (400): Blocked"
    )


def test_error_message_names_what_to_check() -> None:
    assert error_message(401, "no").endswith("(check OPENAI_API_KEY)")
    assert "no model 'gpt-x' at https://api.openai.com/v1" in error_message(404, "no")
    assert "check OPENAI_BASE_URL" in error_message(307, "")


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
def test_parse_retry_after_reads_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers) == seconds


def chain_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("ConnectTimeout", "slow", CloseReason.CONNECT_TIMEOUT),
        ("ConnectError", "refused", CloseReason.UNREACHABLE),
        ("ProxyError", "407", CloseReason.UNREACHABLE),
        ("RemoteProtocolError", "Server disconnected without sending a response.", CloseReason.CLOSED),
        ("RemoteProtocolError", "peer closed connection in the middle of the body", CloseReason.CLOSED),
        ("RemoteProtocolError", "illegal status line", CloseReason.NOT_HTTP),
        ("DecodingError", "bad gzip", CloseReason.UNDECODABLE),
        ("LocalProtocolError", "illegal header", CloseReason.NOT_SENT),
        ("UnsupportedProtocol", "ftp", CloseReason.NOT_SENT),
        ("ReadError", "reset", CloseReason.RESET),
    ],
)
def test_library_exception_has_close_reason(library: ModuleType, name: str, words: str, reason: CloseReason) -> None:
    assert close_reason_of(vars(library)[name](words), library) is reason


def test_unknown_exception_counts_as_lost_connection() -> None:
    assert close_reason_of(ValueError("odd"), httpx2) is CloseReason.RESET


@pytest.mark.parametrize(
    ("reason", "fault", "cls", "words"),
    [
        (CloseReason.CONNECT_TIMEOUT, None, ConnectTimeout, "within 10 s"),
        (CloseReason.UNREACHABLE, ConnectionRefusedError(111, "Connect call failed"), NetworkError, "refused"),
        (CloseReason.UNREACHABLE, socket.gaierror(-2, "Name or service not known"), NetworkError, "not known"),
        (
            CloseReason.UNREACHABLE,
            chain_cause(httpx2.ConnectError("x"), ssl.SSLError(1, "certificate verify failed")),
            NetworkError,
            "verify failed",
        ),
        (CloseReason.CLOSED, None, NetworkError, "without a response"),
        (CloseReason.NOT_HTTP, ValueError("illegal status line"), ProtocolError, "not HTTP (illegal status line"),
        (CloseReason.UNDECODABLE, ValueError("bad gzip"), ProtocolError, "bad gzip"),
        (CloseReason.NOT_SENT, ValueError("illegal header"), BadRequestError, "illegal header"),
        (CloseReason.RESET, ValueError("odd"), NetworkError, "was lost (odd)"),
        (CloseReason.RESET, None, NetworkError, "was lost (it ended without an error"),
        (CloseReason.NOT_HTTP, LimitExceededError("a head of more than 64 kB"), ResponseTooLargeError, "64 kB"),
    ],
)
def test_close_reason_maps_to_error_class(
    reason: CloseReason, fault: Exception | None, cls: type[StreamError], words: str
) -> None:
    result = transport_error(reason, fault, ServiceConfig(NAMES), answered=False)
    assert type(result) is cls
    assert words in result.message


def test_unreachable_proxy_is_named_without_its_password() -> None:
    service = ServiceConfig(NAMES, proxy="http://user:secret@proxy.example:3128")
    refused = ConnectionRefusedError(111, "Connect call failed")
    message = transport_error(CloseReason.UNREACHABLE, refused, service, answered=False).message
    assert "through the proxy proxy.example:3128, which HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names" in message
    assert "secret" not in message and message.endswith("(Connection refused)")


def test_connection_closed_after_headers_is_truncated_answer() -> None:
    result = transport_error(CloseReason.CLOSED, None, ServiceConfig(NAMES), answered=True)
    assert isinstance(result, TruncatedStreamError)
