"""The Ollama decoder, fed at once and byte by byte."""

import json
from functools import partial
from typing import Any

import pytest

from providers.decoding.ollama import make_decoder
from streaming.errors import ProtocolError, ServerError, TruncatedStreamError
from streaming.events import Finish, FinishReason, Notice, TextDelta, ThinkingDelta, Usage
from tests.unit.providers.decoder_helpers import Outcome, assert_ends, decode_both_ways, encode_ndjson


def text_line(content: str, **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **more}, "done": False}


def done_line(reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    reasoned = {} if reason is None else {"done_reason": reason}
    return {"message": {"role": "assistant", "content": ""}, "done": True, **reasoned, **more}


def decode_lines(*lines: Any) -> Outcome:
    return decode_both_ways(make_decoder, encode_ndjson(*lines))


def test_decoder_reads_plain_answer() -> None:
    assert decode_lines(text_line("Hel"), text_line("lo"), done_line(prompt_eval_count=9, eval_count=5)) == (
        [TextDelta("Hel"), TextDelta("lo"), Usage(9, 5, 0), Finish("stop", "stop")],
        None,
    )


def test_server_timings_are_kept_in_seconds() -> None:
    last = done_line(eval_count=5, total_duration=1_500_000_000, eval_duration=250_000_000, load_duration="soon")
    events, _ = decode_lines(text_line("a"), last)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert (notice.kind, notice.detail) == ("timings", {"total_s": 1.5, "decode_s": 0.25})


def test_crlf_empty_lines_and_missing_last_newline_are_tolerated() -> None:
    data = b"\r\n" + encode_ndjson(text_line("é🌍")).replace(b"\n", b"\r\n\r\n") + encode_ndjson(done_line()).rstrip()
    assert decode_both_ways(make_decoder, data) == ([TextDelta("é🌍"), Finish("stop", "stop")], None)


def test_thinking_is_read_from_field_or_tags() -> None:
    assert decode_lines(text_line("", thinking="hm"), text_line("yes"), done_line(prompt_eval_count=1, eval_count=2))[
        0
    ] == [
        ThinkingDelta("hm"),
        TextDelta("yes"),
        Usage(1, 2, None),
        Finish("stop", "stop"),
    ]
    assert decode_lines(text_line("<thi"), text_line("nk>hm</think>yes"), done_line())[0][:2] == [
        ThinkingDelta("hm"),
        TextDelta("yes"),
    ]


@pytest.mark.parametrize(("raw", "reason"), [("stop", "stop"), ("length", "length"), (None, "stop")])
def test_done_reason_maps_to_finish_reason(raw: str | None, reason: FinishReason) -> None:
    assert decode_lines(text_line("x"), done_line(raw)) == ([TextDelta("x"), Finish(reason, raw)], None)


def test_end_without_done_or_reason_raises_truncated_stream() -> None:
    assert_ends(decode_lines(text_line("x")), TruncatedStreamError, TextDelta("x"))
    assert decode_lines(text_line("x"), {**done_line(), "done": False}) == (
        [TextDelta("x"), Finish("stop", "stop")],
        None,
    )


def test_line_cut_in_the_middle_is_truncated() -> None:
    assert_ends(
        decode_both_ways(make_decoder, encode_ndjson(text_line("x")) + b'{"message": {"con'),
        TruncatedStreamError,
        TextDelta("x"),
    )
    assert_ends(
        decode_both_ways(make_decoder, encode_ndjson(text_line("x")) + b'{"message": {}'),
        TruncatedStreamError,
        TextDelta("x"),
    )


def test_doubled_finish_is_ignored() -> None:
    assert decode_lines(text_line("x"), done_line(), done_line()) == ([TextDelta("x"), Finish("stop", "stop")], None)


def test_text_after_end_is_protocol_error() -> None:
    assert_ends(decode_lines(text_line("x"), done_line(), text_line("y")), ProtocolError, TextDelta("x"))


def test_error_line_raises_server_error() -> None:
    assert "out of memory" in assert_ends(
        decode_lines(text_line("x"), {"error": "out of memory"}), ServerError, TextDelta("x")
    )
    assert "out of memory" in assert_ends(decode_both_ways(make_decoder, b'{"error": "out of memory"}'), ServerError)


def test_split_surrogate_is_joined() -> None:
    assert decode_lines(text_line("\ud83c"), text_line("\udf0d"), done_line())[0][0] == TextDelta("🌍")


@pytest.mark.parametrize(
    "bad", [b"{", b"nonsense", b'{"message": 5}', b'{"message": {"content": 5}}', b'{"a": "\xff"}']
)
def test_invalid_line_is_protocol_error_after_received_text(bad: bytes) -> None:
    assert_ends(
        decode_both_ways(make_decoder, encode_ndjson(text_line("x")) + bad + b"\n" + encode_ndjson(done_line())),
        ProtocolError,
        TextDelta("x"),
    )


@pytest.mark.parametrize("body", [b"", b"\n\n", b"<html></html>", b"OK"])
def test_non_stream_body_is_protocol_error(body: bytes) -> None:
    assert_ends(decode_both_ways(make_decoder, body), ProtocolError)


def test_decoder_reads_whole_answer() -> None:
    body = {"message": {"content": "<think>hm</think>yes"}, "done": True, "done_reason": "length", "eval_count": 4}
    data = json.dumps(body).encode()
    assert decode_both_ways(partial(make_decoder, streamed=False), data) == (
        [ThinkingDelta("hm"), TextDelta("yes"), Usage(None, 4), Finish("length", "length")],
        None,
    )


def test_whole_body_without_done_is_truncated() -> None:
    data = json.dumps({"message": {"content": "x"}, "done": False}).encode()
    assert_ends(decode_both_ways(partial(make_decoder, streamed=False), data), TruncatedStreamError, TextDelta("x"))
