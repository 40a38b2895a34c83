"""The decoder against the cases of the web-platform-tests (eventsource/format-*), at once and byte by byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import sse
from streaming.limits import MAX_EVENT_BYTES
from streaming.sse import Decoder, EventTooLargeError, ServerSentEvent

LONG = "x" * 2048
Expected = list[tuple[str, str]]

CASES: dict[str, tuple[bytes, Expected]] = {
    "bom": ("\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n".encode(), [("message", "1"), ("message", "3")]),
    "bom twice": ("\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n".encode(), [("message", "2"), ("message", "3")]),
    "comments": (
        f"data:1\r:\0\n:\r\ndata:2\n:{LONG}\rdata:3\n:data:fail\r:{LONG}\ndata:4\n\n".encode(),
        [("message", "1\n2\n3\n4")],
    ),
    "no final empty line": (b"retry:1000\ndata:test1\n\nid:test\ndata:test2", [("message", "test1")]),
    "field data": (b"data:\n\ndata\ndata\n\ndata:test", [("message", ""), ("message", "\n")]),
    "field event empty": (b"event: \ndata:data\n\n", [("message", "data")]),
    "field event": (b"event:test\ndata:x\n\ndata:x\n\n", [("test", "x"), ("message", "x")]),
    "field event discarded": (b"event:x\n\ndata:y\n\n", [("message", "y")]),
    "field parsing": (
        b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\r"
        b"data_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
        [("message", "\0\n 2\n1\n3\n\n4")],
    ),
    "field retry bogus": (b"retry:3000\nretry:1000x\ndata:x\n\n", [("message", "x")]),
    "field retry empty": (b"retry\ndata:test\n\n", [("message", "test")]),
    "field retry": (b"retry:03000\ndata:x\n\n", [("message", "x")]),
    "field unknown": (
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
        [("message", "test\n\ntest")],
    ),
    "leading space": (b"data:\ttest\rdata: \ndata:test\n\n", [("message", "\ttest\n\ntest")]),
    "newlines": (b"data:test\r\ndata\ndata:test\r\n\r\n", [("message", "test\n\ntest")]),
    "null character": (b"data:\0\n\n\n\n", [("message", "\0")]),
    "utf-8": ("data:ok…\n\n".encode(), [("message", "ok…")]),
    "bad utf-8 is replaced": (b"data:ok\xff\xfe\n\n", [("message", "ok\ufffd\ufffd")]),
    "cr ends a line at once": (b"data:a\r\r", [("message", "a")]),
    "crlf crlf": (b"data:a\r\n\r\ndata:b\r\n\r\n", [("message", "a"), ("message", "b")]),
    "only comments": (b":\n\n: keep-alive\n\n", []),
    "colon in the value": (b"data:a:b: c\n\n", [("message", "a:b: c")]),
    "one space only is taken": (b"data:  a\n\n", [("message", " a")]),
    "data after an empty event": (b"\n\n\ndata: x\n\n", [("message", "x")]),
}

IDS: dict[str, tuple[bytes, list[str]]] = {
    "persists": (b"id: 1\ndata: 1\n\ndata: 2\n\n", ["1", "1"]),
    "changes and persists": (b"id: 1\ndata: 1\n\nid: 2\ndata:2\n\ndata:3\n\n", ["1", "2", "2"]),
    "resets": (b"id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n", ["1", "", ""]),
    "resets without colon": (b"id: 1\ndata: 1\n\nid\ndata:2\n\n", ["1", ""]),
    "null is ignored": (b"id: \0\0\ndata: hello\n\n", [""]),
    "unicode": ("id: …\ndata: hello\n\n".encode(), ["…"]),
}


def decode_chunks(chunks: list[bytes]) -> tuple[list[ServerSentEvent], Decoder]:
    decoder = Decoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events + decoder.flush(), decoder


def split_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@pytest.mark.parametrize("split", [lambda data: [data], split_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", CASES)
def test_decoder_matches_web_platform_tests(name: str, split: object) -> None:
    data, expected = CASES[name]
    events, _ = decode_chunks(split(data))  # type: ignore[operator] # a parametrised callable
    assert [(e.event, e.data) for e in events] == expected


@pytest.mark.parametrize("split", [lambda data: [data], split_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", IDS)
def test_last_event_id_follows_specification(name: str, split: object) -> None:
    data, expected = IDS[name]
    events, decoder = decode_chunks(split(data))  # type: ignore[operator] # a parametrised callable
    assert [e.id for e in events] == expected
    assert decoder.last_event_id == expected[-1]


def test_id_without_empty_line_is_not_committed() -> None:
    _, decoder = decode_chunks([b"id:1\ndata:a\n\nid:2\ndata:b"])
    assert decoder.last_event_id == "1"


@pytest.mark.parametrize(("line", "seconds"), [(b"retry:03000", 3.0), (b"retry:10x", None), (b"retry", None)])
def test_retry_field_accepts_only_digits(line: bytes, seconds: float | None) -> None:
    events, decoder = decode_chunks([line + b"\ndata:x\n\ndata:y\n\n"])
    assert decoder.retry_s == seconds
    assert [e.retry_s for e in events] == [seconds, None]


def test_non_ascii_retry_is_ignored() -> None:
    _, decoder = decode_chunks(["retry:١٢\ndata:x\n\n".encode()])
    assert decoder.retry_s is None


def test_strict_decoder_raises_on_bad_utf8() -> None:
    with pytest.raises(UnicodeDecodeError):
        Decoder("strict").feed(b"data:\xff\n\n")
    decoder = Decoder("strict")
    decoder.feed(b"data:\xe2\x82")
    with pytest.raises(UnicodeDecodeError):
        decoder.flush()


@given(st.lists(st.sampled_from(sorted(CASES)), min_size=1, max_size=4), st.data())
def test_decoder_any_split_returns_same_events(names: list[str], data: st.DataObject) -> None:
    whole = b"".join(CASES[name][0] for name in names)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert decode_chunks(pieces)[0] == decode_chunks([whole])[0]


@given(st.text(), st.sampled_from([None, "usage"]), st.sampled_from([None, "s:1"]))
def test_encoded_event_round_trips(text: str, name: str | None, id: str | None) -> None:
    text = text.encode(errors="replace").decode()
    events, _ = decode_chunks([sse.comment("hi"), sse.encode(text, event=name, id=id)])
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    assert events == [ServerSentEvent(lines, name or "message", id or "")]


def test_json_payload_round_trips() -> None:
    fields = {"content": "line one\nline two\r\n  \u2028 ünï 🌍"}
    events, _ = decode_chunks(split_bytes(sse.encode(json.dumps(fields, ensure_ascii=False))))
    assert json.loads(events[0].data) == fields


@pytest.mark.parametrize("bad", [{"id": "a\nb"}, {"event": "a\rb"}, {"id": "a\0b"}])
def test_encode_rejects_line_breaks_in_fields(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="contains a line break"):
        sse.encode("x", **bad)


def test_long_line_is_decoded_in_linear_time() -> None:
    decoder = Decoder()
    piece = b"x" * 1000
    decoder.feed(b"data:")
    for _ in range(4000):
        assert decoder.feed(piece) == []
    (event,) = decoder.feed(b"\n\n")
    assert len(event.data) == 4_000_000


BIG = b"x" * MAX_EVENT_BYTES


@pytest.mark.parametrize(
    "tail",
    [
        b"data: " + BIG,
        b"data: " + BIG + b"\n\n",
        b"data: " + "\u20ac".encode() * (len(BIG) // 3) + b"\n\n",
        b"event: " + BIG,
        b":" + BIG + b"\n",
        b"data: " + BIG[:3_000_000] + b"\ndata: " + BIG[:3_000_000] + b"\n",
        b"data: xxxxx\n" * 400_000,
    ],
    ids=["a line", "a whole line", "more bytes than characters", "a name", "a comment", "two lines", "many lines"],
)
@pytest.mark.parametrize("step", [997, 65_536, 10**9])
def test_event_over_limit_raises_after_earlier_events(tail: bytes, step: int) -> None:
    raw, decoder = b"data: first\n\n" + tail, Decoder()
    result: list[ServerSentEvent] = []

    def feed_all() -> None:
        for start in range(0, len(raw), step):
            result.extend(decoder.feed(raw[start : start + step]))

    with pytest.raises(EventTooLargeError, match="larger than 4 MB") as excinfo:
        feed_all()
    assert [event.data for event in [*result, *excinfo.value.events]] == ["first"]


def test_many_events_below_limit_are_all_decoded() -> None:
    decoder, event = Decoder(), b"data: " + BIG[:3_000_000] + b"\n\n"
    assert sum(len(decoder.feed(event)) for _ in range(5)) == 5
    assert decoder.feed(b": comment\n" * 600_000) == []
