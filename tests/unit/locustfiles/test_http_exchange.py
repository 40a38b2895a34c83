"""One request over a timestamped socket, against a server that sends exactly what each test specifies."""

import importlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

import pytest

from streaming.clock import monotonic

answers = importlib.import_module("answer_record")
http_exchange = importlib.import_module("http_exchange")

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@contextmanager
def serve_parts(*parts: bytes) -> Iterator[tuple[SplitResult, list[bytes]]]:
    """Serve one connection: read the request, send the parts, close."""
    requests: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            data = b""
            while b"\r\n\r\n" not in data or (b"content-length" in data and not data.endswith(b"}")):
                data += connection.recv(65536)
            requests.append(data)
            for part in parts:
                connection.sendall(part)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield urlsplit(f"http://127.0.0.1:{listener.getsockname()[1]}"), requests
        finally:
            server.join(10)


def open_exchange(url: SplitResult, body: dict[str, Any] | None = None) -> Any:
    return http_exchange.HttpExchange(url, "/ask", body, {"x-client-request-id": "t"}, idle_s=10)


def test_exchange_sends_request_and_yields_timestamped_chunks() -> None:
    before_s = monotonic()
    with (
        serve_parts(HEAD, b"4\r\none,\r\n", b"3\r\ntwo\r\n0\r\n\r\n") as (url, requests),
        open_exchange(url, {"a": 1}) as exchange,
    ):
        parts = list(exchange.iter_chunks())
    after_s = monotonic()
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /ask HTTP/1.1\r\n") and b"x-client-request-id: t" in head
    assert json.loads(body) == {"a": 1}
    assert b"".join(part for _, part in parts) == b"one,two"
    moments = [before_s, exchange.socket.sent_s, *(at_s for at_s, _ in parts), after_s]
    assert moments == sorted(moments)
    assert exchange.complete and exchange.is_stream and exchange.status == 200


def test_truncated_body_is_not_complete() -> None:
    with serve_parts(HEAD, b"4\r\none,\r\n") as (url, _), open_exchange(url) as exchange:
        assert b"".join(part for _, part in exchange.iter_chunks()) == b"one,"
    assert not exchange.complete


def test_chunks_before_fault_are_kept() -> None:
    with serve_parts(HEAD, b"4\r\none,\r\n", b"no size\r\n") as (url, _), open_exchange(url) as exchange:
        assert b"".join(part for _, part in exchange.iter_chunks_safe()) == b"one,"
    assert isinstance(exchange.fault, http_exchange.HTTPParseError)


def test_open_connection_after_end_marker_is_not_waited_for() -> None:
    marker = b"data: [DONE]"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = urlsplit(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with open_exchange(url) as exchange, listener.accept()[0] as other:
            other.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + marker + b"\n\n")
            assert b"".join(part for _, part in exchange.iter_chunks_safe(marker)) == marker + b"\n\n"
    assert exchange.fault is None


def test_request_without_body_is_get() -> None:
    with serve_parts(b"HTTP/1.1 204 No Content\r\n\r\n") as (url, requests), open_exchange(url) as exchange:
        list(exchange.iter_chunks())
    assert requests[0].startswith(b"GET /ask HTTP/1.1\r\n")
    assert exchange.status == 204 and exchange.complete


def test_non_http_response_raises_known_error() -> None:
    with (
        serve_parts(b"SSH-2.0-something\r\n") as (url, _),
        open_exchange(url) as exchange,
        pytest.raises(http_exchange.ERRORS),
    ):
        list(exchange.iter_chunks())


def test_closed_port_raises_known_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = urlsplit(f"http://127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(http_exchange.ERRORS), open_exchange(url):
        pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError("reset"), "network"),
        (TimeoutError(), "idle_timeout"),
        (KeyError("content"), "protocol"),
        (json.JSONDecodeError("no JSON", "", 0), "protocol"),
    ],
)
def test_connection_error_is_recorded_with_type_and_message(error: Exception, kind: str) -> None:
    answer = answers.AnswerRecord("t", "sse", "p", "sim:steady", "direct", "2026-01-01", 0.0)
    assert isinstance(error, http_exchange.ERRORS)
    http_exchange.record_error(answer, 1.0, error)
    assert answer.error_type == kind and len(answer.error_message) > 4


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (429, b'{"error":{"type":"rate_limited","message":"wait","rule":"rate"}}', "rate: wait"),
        (401, b'{"error":{"type":"unauthorized","message":"no key"}}', "unauthorized: no key"),
        (404, b'{"detail":"no such model"}', "http_404: no such model"),
        (404, b'{"object":"error","message":"no model","type":"NotFoundError"}', "NotFoundError: no model"),
        (429, b'{"error":"slow down"}', "http_429: slow down"),
        (500, b'["odd"]', "http_500: response: status 500, not an event stream (b'[\"odd\"]')"),
        (502, b"<html>", "http_502: response: status 502, not an event stream (b'<html>')"),
        (200, b"<html>", "protocol: response: status 200, not an event stream (b'<html>')"),
    ],
)
def test_rejection_is_recorded_with_reason(status: int, body: bytes, reason: str) -> None:
    answer = answers.AnswerRecord("t", "sse", "p", "sim:steady", "direct", "2026-01-01", 0.0)
    http_exchange.record_rejection(answer, 1.0, status, body)
    assert (answer.failure_reason, answer.http_status) == (reason, status)


def test_rejection_404_of_resume_is_recorded_as_stream_gone() -> None:
    body = json.dumps({"error": {"type": "not_found", "message": "no such stream", "rule": None}}).encode()
    answer = answers.AnswerRecord("t", "sse", "p", "sim:steady", "direct", "2026-01-01", 0.0, resumed=1)
    http_exchange.record_rejection(answer, 1.0, 404, body)
    assert (answer.error_type, answer.outcome, answer.http_status) == ("stream_gone", "truncated", 404)


@pytest.mark.parametrize(
    ("head", "most"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", "64 MB"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", "16 MB"),
        (b"HTTP/1.1 500 Oh\r\n\r\n", "1 MB"),
    ],
    ids=["a stream", "a body", "an error"],
)
def test_endless_body_raises_limit_error(head: bytes, most: str) -> None:
    with serve_endless(head, b"A" * 1_000_000, 100) as url, open_exchange(url) as exchange:
        size = sum(len(part) for _, part in exchange.iter_chunks_safe())
    assert isinstance(exchange.fault, http_exchange.HTTPLimitError) and f"larger than {most}" in str(exchange.fault)
    assert size <= 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"", b"HTTP/1.1 103 Early\r\n\r\n"), (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000), (HEAD, b"0" * 9000)],
    ids=["interim heads", "a head", "a chunk size"],
)
def test_endless_framing_raises_limit_error(start: bytes, piece: bytes) -> None:
    with serve_endless(start, piece, 1000) as url, open_exchange(url) as exchange:
        assert b"".join(part for _, part in exchange.iter_chunks_safe()) == b""
    assert isinstance(exchange.fault, http_exchange.HTTPLimitError)


def test_socket_with_byte_allowance_raises_beyond_it() -> None:
    with (
        serve_endless(b"", b"A" * 1000, 1000) as url,
        http_exchange.GeventTimestampedSocket(url, idle_s=10) as exchange,
    ):
        exchange.sendall(b"\r\n\r\n")
        exchange.allow(2500)
        size = 0
        while size < 2500:
            size += len(exchange.recv())
        assert size == 2500
        with pytest.raises(http_exchange.ERRORS, match="larger than 2,500 bytes"):
            exchange.recv()
        exchange.allow(10)
        assert 0 < len(exchange.recv()) <= 10


@contextmanager
def serve_endless(start: bytes, piece: bytes, count: int) -> Iterator[SplitResult]:
    """Serve one connection: send `start`, then `piece` up to `count` times, until the client closes the connection."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            while b"\r\n\r\n" not in connection.recv(65536):
                pass
            connection.sendall(start)
            for _ in range(count):
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield urlsplit(f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.join(10)
