import itertools
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import http_fuzz
from streaming import limits
from streaming.http.response_parser import HTTPLimitError, HTTPParseError, ResponseParser

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def chunked_response(*chunks: bytes, trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


def parse_in_pieces(data: bytes, cuts: list[int]) -> tuple[ResponseParser, bytes]:
    """Feed the bytes split at `cuts` and return the parser and the body."""
    reader = ResponseParser()
    places = [0, *sorted(cuts), len(data)]
    return reader, b"".join(reader.feed(data[start:end]) for start, end in itertools.pairwise(places))


RESPONSES = {
    "chunked": (
        chunked_response(b"data: 1\n\n", b"x" * 300, b"\r\n0\r\n\r\n"),
        b"data: 1\n\n" + b"x" * 300 + b"\r\n0\r\n\r\n",
    ),
    "trailer": (chunked_response(b"abc", trailer=b"X-Sum: 1\r\nX-More: 2\r\n"), b"abc"),
    "extension": (HEAD + b"transfer-encoding: Chunked\r\n\r\n3;name=value \r\nabc\r\n000\r\n\r\n", b"abc"),
    "bare line feeds": (b"HTTP/1.1 200\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n", b"abc"),
    "length": (HEAD + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "the same length twice": (HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "no body": (HEAD + b"Content-Length: 0\r\n\r\n", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + chunked_response(b"abc"),
        b"abc",
    ),
}


@pytest.mark.parametrize("name", RESPONSES)
@given(data=st.data())
def test_parser_any_split_returns_same_body(name: str, data: st.DataObject) -> None:
    raw, body = RESPONSES[name]
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=20))
    reader, result = parse_in_pieces(raw, cuts)
    assert (result, reader.complete) == (body, True)
    assert reader.flush()


@pytest.mark.parametrize("name", RESPONSES)
def test_parser_is_complete_exactly_at_last_byte(name: str) -> None:
    raw, _ = RESPONSES[name]
    reader = ResponseParser()
    done = []
    for i in range(len(raw)):
        reader.feed(raw[i : i + 1])
        done.append(reader.complete)
    assert done == [False] * (len(raw) - 1) + [True]


@given(chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8), cut=st.floats(0, 1))
def test_truncated_response_is_not_complete(chunks: list[bytes], cut: float) -> None:
    raw = chunked_response(*chunks)
    raw = raw[: int(cut * (len(raw) - 1))]
    reader, result = parse_in_pieces(raw, [])
    assert not reader.flush()
    assert b"".join(chunks).startswith(result)


def test_body_without_length_ends_with_connection() -> None:
    reader, result = parse_in_pieces(b"HTTP/1.0 200 OK\r\n\r\nall of this", [25])
    assert (result, reader.complete, reader.chunks) == (b"all of this", False, None)
    assert reader.flush() and reader.complete


def test_bytes_after_end_are_dropped() -> None:
    assert parse_in_pieces(chunked_response(b"abc") + b"HTTP/1.1 500 Oh\r\n\r\n", [])[1] == b"abc"
    assert parse_in_pieces(HEAD + b"Content-Length: 3\r\n\r\nabcdef", [])[1] == b"abc"


def test_parser_reads_head() -> None:
    reader, _ = parse_in_pieces(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3 \r\nVia: a\r\nvia: b\r\n\r\n", [])
    assert reader.head is not None
    assert reader.head.status == 429
    assert reader.head.headers == {"retry-after": "3", "via": "a, b"}


def test_parser_counts_chunks_touched_by_a_read() -> None:
    raw = chunked_response(b"aaaa", b"bbbb", b"cccc")
    start = raw.index(b"4\r\naaaa")
    reader = ResponseParser()
    counts = []
    for piece in (raw[: start + 5], raw[start + 5 : start + 14], raw[start + 14 :]):
        reader.feed(piece)
        counts.append(reader.chunks)
    assert counts == [1, 2, 2]


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-server\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"x" * 20_000,
    ],
)
def test_non_http_bytes_raise_parse_error(raw: bytes) -> None:
    with pytest.raises(HTTPParseError):
        parse_in_pieces(raw, [])
    with pytest.raises(HTTPParseError):
        parse_in_pieces(raw, list(range(0, len(raw), max(7, len(raw) // 500))))


def test_binary_body_is_unchanged() -> None:
    body = zlib.compress(bytes(range(256)))
    assert parse_in_pieces(chunked_response(body), [100])[1] == body


def header_lines(count: int) -> bytes:
    return b"".join(b"X-%d: a\r\n" % number for number in range(count))


TOO_LARGE = {
    "a head": HEAD + b"X: " + b"x" * limits.MAX_HEAD_BYTES + b"\r\n\r\n",
    "a head that does not end": HEAD + b"X: x\r\n" * limits.MAX_HEAD_BYTES,
    "header lines": HEAD + header_lines(limits.MAX_HEADER_LINES + 1) + b"\r\n",
    "interim heads": b"HTTP/1.1 103 Early Hints\r\n\r\n" * (limits.MAX_INTERIM_HEADS + 1) + chunked_response(b"abc"),
    "a chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 9000 + b"\r\n",
    "a chunk size that does not end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 9000,
    "a chunk extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"x" * 9000 + b"\r\nabc\r\n",
    "chunk extensions": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"x" * 8000 + b"\r\na\r\n") * 140,
    "a trailer": chunked_response(b"abc", trailer=b"X: " + b"x" * 9000 + b"\r\n"),
    "trailers": chunked_response(b"abc", trailer=(b"X: " + b"x" * 8000 + b"\r\n") * 13),
    "trailer lines": chunked_response(b"abc", trailer=header_lines(limits.MAX_HEADER_LINES + 1)),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_response_over_limit_any_split_is_rejected(name: str) -> None:
    raw = TOO_LARGE[name]
    for cuts in ([], list(range(1, len(raw), 7)), list(range(0, len(raw), 4096))):
        with pytest.raises(HTTPLimitError, match=r"(larger|longer|more) than"):
            parse_in_pieces(raw, cuts)


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"X: " + b"x" * (limits.MAX_HEAD_BYTES - len(HEAD) - 3) + b"\r\n\r\n",
        HEAD + header_lines(limits.MAX_HEADER_LINES - 1) + b"\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * limits.MAX_INTERIM_HEADS + HEAD + b"\r\n",
    ],
)
def test_response_at_limit_any_split_is_accepted(raw: bytes) -> None:
    for cuts in ([], list(range(1, len(raw)))):
        reader, _ = parse_in_pieces(raw, cuts)
        assert reader.head is not None


def test_head_fed_byte_by_byte_takes_linear_time() -> None:
    def reading_s(size: int) -> float:
        reader = ResponseParser()
        raw = HEAD + b"X: " + b"x" * size
        began_s = time.process_time()
        for place in range(len(raw)):
            reader.feed(raw[place : place + 1])
        return time.process_time() - began_s

    assert reading_s(80_000) < 24 * max(min(reading_s(10_000) for _ in range(3)), 0.002)


def test_folded_header_is_joined_with_space() -> None:
    reader, _ = parse_in_pieces(
        HEAD + b"X: a\r\n  b\r\n\tc\r\nTransfer-Encoding:\r\n chunked\r\n\r\n1\r\nz\r\n0\r\n\r\n", []
    )
    assert reader.head is not None
    assert (reader.head.headers["x"], reader.head.headers["transfer-encoding"]) == ("a b c", "chunked")
    assert reader.complete


@pytest.mark.parametrize("line", [b"X: a\rb", b"X: a\0", b"X: a\r\n b\0", b"X : a", b"Transfer-Encoding: ", b"X: a\r"])
def test_ambiguous_header_is_rejected(line: bytes) -> None:
    with pytest.raises(HTTPParseError):
        parse_in_pieces(HEAD + line + b"\r\n\r\n", [])


def test_fold_without_header_is_rejected() -> None:
    with pytest.raises(HTTPParseError):
        parse_in_pieces(b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n", [])


def test_chunk_extension_with_bare_carriage_return_is_rejected() -> None:
    with pytest.raises(HTTPParseError):
        parse_in_pieces(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n", [])


KEPT = b"Content-Length: 1\r\n"


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (HEAD + KEPT + b"\r\na", True),
        (chunked_response(b"abc"), True),
        (HEAD + KEPT + b"Connection: not-close\r\n\r\na", True),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" + KEPT + b"\r\na", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\n" + KEPT + b"\r\na", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (HEAD + KEPT + b"Connection: x, Close\r\n\r\na", False),
        (HEAD + KEPT + b"Connection: keep-alive\r\nConnection: close\r\n\r\na", False),
        (HEAD + KEPT + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", False),
        (HEAD + KEPT + b"\r\nab", False),
        (chunked_response(b"abc") + b"\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n0\r\n\r\n", False),
        (HEAD + b"\r\nuntil the end", False),
        (HEAD + b"Content-Length: 2\r\n\r\na", False),
    ],
)
def test_connection_after_response_is_reusable_only_if_unambiguous(raw: bytes, kept: bool) -> None:
    for cuts in ([], list(range(1, len(raw)))):
        reader, _ = parse_in_pieces(raw, cuts)
        reader.flush()
        assert reader.allows_reuse is kept


def test_mutated_response_any_split_has_same_result() -> None:
    result = http_fuzz.fuzz_reader(1500, seed=20)
    assert result.problems == []
    assert min(result.counts[kind] for kind in ("complete", "cut", "HTTPParseError", "HTTPLimitError")) > 50
