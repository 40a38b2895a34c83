"""The size of a request, counted while it arrives."""

import pytest

from guard import RejectionError
from server.request_bounds import ConnectionLimits, RequestSize

LIMITS = ConnectionLimits(head_bytes=100, header_lines=3, body_bytes=50)


def make_request_size() -> RequestSize:
    size = RequestSize(LIMITS)
    size.begin()
    return size


def test_bytes_without_a_callback_are_counted() -> None:
    size = make_request_size()
    for _ in range(100):
        size.add_received(1)
        size.check_received()
    size.add_received(1)
    with pytest.raises(RejectionError) as refused:
        size.check_received()
    assert (refused.value.status, refused.value.rule) == (431, "request.head")


@pytest.mark.parametrize(("value", "is_accepted"), [(b"a" * 70, True), (b"a" * 71, False)])
def test_head_size_equals_bytes_sent(value: bytes, is_accepted: bool) -> None:
    sent = b"GET /path HTTP/1.1\r\nname: %b\r\n\r\n" % value
    assert (len(sent) <= LIMITS.head_bytes) is is_accepted
    size = make_request_size()
    size.add_header(b"name", value)
    if is_accepted:
        size.end_head(b"GET", b"/path")
    else:
        with pytest.raises(RejectionError):
            size.end_head(b"GET", b"/path")


def test_header_lines_and_trailers_are_counted_together() -> None:
    size = make_request_size()
    size.add_header(b"a", b"")
    size.add_header(b"b", b"")
    size.end_head(b"GET", b"/")
    size.begin_chunk()
    size.add_header(b"c", b"")
    with pytest.raises(RejectionError) as refused:
        size.add_header(b"d", b"")
    assert refused.value.status == 431


def test_body_is_not_counted_as_framing() -> None:
    size = make_request_size()
    for _ in range(5):
        size.add_received(10)
        size.add_body(10, is_accepted=True)
        size.check_received()
    with pytest.raises(RejectionError) as refused:
        size.add_body(1, is_accepted=True)
    assert (refused.value.status, refused.value.rule) == (413, "validation.size")


def test_unwanted_body_is_not_limited() -> None:
    size = make_request_size()
    size.add_received(1000)
    size.add_body(1000, is_accepted=False)
    size.check_received()


def test_framing_count_restarts_for_each_chunk_and_request() -> None:
    size = make_request_size()
    for begin in (size.begin_chunk, size.begin, size.begin_chunk):
        size.add_received(90)
        size.check_received()
        begin()
    size.check_received()
