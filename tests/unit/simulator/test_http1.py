import pytest

from simulator.http1 import InvalidRequestError, Request, RequestReader, encode_chunk, encode_head
from streaming.errors import UsageError

PLAIN_REQUEST = b"POST /v1/x?a=1 HTTP/1.1\r\nHost: h\r\nX-Thing: Y\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}'
CHUNKED_REQUEST = (
    b"POST /v1/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{" + b'"a\r\n4\r\n":1}\r\n0\r\n\r\n'
)


def parse_request(data: bytes) -> Request:
    request = RequestReader().feed(data)
    assert request is not None
    return request


def test_reader_parses_request() -> None:
    request = parse_request(PLAIN_REQUEST)
    assert (request.method, request.target, request.path) == ("POST", "/v1/x?a=1", "/v1/x")
    assert (request.headers["x-thing"], request.fields()) == ("Y", {"a": 1})
    assert request.chunked and request.keep_open


@pytest.mark.parametrize("data", [PLAIN_REQUEST, CHUNKED_REQUEST])
def test_any_split_gives_same_request(data: bytes) -> None:
    reader = RequestReader()
    result = [request for byte in data if (request := reader.feed(bytes([byte]))) is not None]
    assert result == [parse_request(data)]


def test_pipelined_request_is_returned_by_next_call() -> None:
    reader = RequestReader()
    first, second, third = reader.feed(PLAIN_REQUEST + CHUNKED_REQUEST), reader.feed(b""), reader.feed(b"")
    assert first == parse_request(PLAIN_REQUEST) and second == parse_request(CHUNKED_REQUEST) and third is None


@pytest.mark.parametrize(
    ("start", "chunked", "keep_open"),
    [
        (b"GET / HTTP/1.1\r\nhost: h\r\n", True, True),
        (b"GET / HTTP/1.1\r\nhost: h\r\nconnection: Close\r\n", True, False),
        (b"GET / HTTP/1.0\r\n", False, False),
        (b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n", False, True),
    ],
)
def test_connection_header_decides_keep_alive(start: bytes, chunked: bool, keep_open: bool) -> None:
    request = parse_request(start + b"\r\n")
    assert (request.chunked, request.keep_open) == (chunked, keep_open)


def test_expect_continue_is_reported_once() -> None:
    reader = RequestReader()
    start, body = PLAIN_REQUEST.replace(b"Host", b"Expect: 100-continue\r\nHost").split(b"\r\n\r\n")
    assert reader.feed(start + b"\r\n\r\n") is None
    assert (reader.take_continue(), reader.take_continue()) == (True, False)
    request = reader.feed(body)
    assert request is not None and request.fields() == {"a": 1}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx: " + b"y" * 100_000, 431),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n", 400),
    ],
)
def test_invalid_request_is_rejected_with_status(data: bytes, status: int) -> None:
    with pytest.raises(InvalidRequestError) as excinfo:
        RequestReader().feed(data)
    assert excinfo.value.status == status


def test_oversized_body_is_rejected() -> None:
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 40000000\r\n\r\n")
    for _ in range(32):
        assert reader.feed(b"x" * 1_000_000) is None
    with pytest.raises(InvalidRequestError, match="larger than 32,000,000 bytes"):
        reader.feed(b"x")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"a"', b"\xff", b"[" * 100_000])
def test_non_object_body_is_rejected(body: bytes) -> None:
    request = Request("POST", "/", {}, body, True, True)
    with pytest.raises(UsageError, match="body"):
        request.fields()


def test_encode_head_and_chunk_produce_http_bytes() -> None:
    assert encode_head(529, [("a", "b")]) == b"HTTP/1.1 529 Overloaded\r\na: b\r\n\r\n"
    assert encode_chunk(b"x" * 17) == b"11\r\n" + b"x" * 17 + b"\r\n"
