"""The Ollama decoder, fed whole and byte by byte."""

import json
from functools import partial
from typing import Any

import pytest

from providers.ollama_wire import decoder
from streaming.errors import ProtocolError, ServerError, TruncatedStream
from streaming.events import Finish, FinishReason, Notice, TextDelta, ThinkingDelta, Usage
from tests.unit.providers.decoding import Outcome, assert_ends, decode_both_ways, ndjson


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": content, **more}, "done": False}


def done(reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    reasoned = {} if reason is None else {"done_reason": reason}
    return {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, **reasoned, **more}


def run(*lines: Any) -> Outcome:
    return decode_both_ways(decoder, ndjson(*lines))


def test_a_plain_answer() -> None:
    assert run(text("Hel"), text("lo"), done(prompt_eval_count=9, eval_count=5)) == (
        [TextDelta("Hel"), TextDelta("lo"), Usage(9, 5, 0), Finish("stop", "stop")],
        None,
    )


def test_the_servers_own_timings_are_kept_in_seconds() -> None:
    last = done(eval_count=5, total_duration=1_500_000_000, eval_duration=250_000_000, load_duration="soon")
    events, _ = run(text("a"), last)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert (notice.kind, notice.detail) == ("timings", {"total_s": 1.5, "eval_s": 0.25})


def test_line_ends_empty_lines_and_a_missing_last_line_end_change_nothing() -> None:
    data = b"\r\n" + ndjson(text("é🌍")).replace(b"\n", b"\r\n\r\n") + ndjson(done()).rstrip()
    assert decode_both_ways(decoder, data) == ([TextDelta("é🌍"), Finish("stop", "stop")], None)


def test_thinking_in_its_own_field_or_in_tags() -> None:
    assert run(text("", thinking="hm"), text("yes"), done(prompt_eval_count=1, eval_count=2))[0] == [
        ThinkingDelta("hm"),
        TextDelta("yes"),
        Usage(1, 2, None),
        Finish("stop", "stop"),
    ]
    assert run(text("<thi"), text("nk>hm</think>yes"), done())[0][:2] == [ThinkingDelta("hm"), TextDelta("yes")]


@pytest.mark.parametrize(("raw", "reason"), [("stop", "stop"), ("length", "length"), (None, "stop")])
def test_finish_reasons(raw: str | None, reason: FinishReason) -> None:
    assert run(text("x"), done(raw)) == ([TextDelta("x"), Finish(reason, raw)], None)


def test_an_end_without_done_is_a_cut_unless_a_reason_came() -> None:
    assert_ends(run(text("x")), TruncatedStream, TextDelta("x"))
    assert run(text("x"), {**done(), "done": False}) == ([TextDelta("x"), Finish("stop", "stop")], None)


def test_a_line_cut_in_its_middle_is_a_cut() -> None:
    assert_ends(decode_both_ways(decoder, ndjson(text("x")) + b'{"message": {"con'), TruncatedStream, TextDelta("x"))
    assert_ends(decode_both_ways(decoder, ndjson(text("x")) + b'{"message": {}'), TruncatedStream, TextDelta("x"))


def test_a_doubled_finish_is_harmless() -> None:
    assert run(text("x"), done(), done()) == ([TextDelta("x"), Finish("stop", "stop")], None)


def test_text_after_the_end_is_never_a_success() -> None:
    assert_ends(run(text("x"), done(), text("y")), ProtocolError, TextDelta("x"))


def test_an_error_inside_the_stream() -> None:
    assert "out of memory" in assert_ends(run(text("x"), {"error": "out of memory"}), ServerError, TextDelta("x"))
    assert "out of memory" in assert_ends(decode_both_ways(decoder, b'{"error": "out of memory"}'), ServerError)


def test_halves_of_a_character_are_joined() -> None:
    assert run(text("\ud83c"), text("\udf0d"), done())[0][0] == TextDelta("🌍")


@pytest.mark.parametrize(
    "bad", [b"{", b"nonsense", b'{"message": 5}', b'{"message": {"content": 5}}', b'{"a": "\xff"}']
)
def test_what_is_not_the_wires_is_a_protocol_error_after_what_came_before(bad: bytes) -> None:
    assert_ends(
        decode_both_ways(decoder, ndjson(text("x")) + bad + b"\n" + ndjson(done())), ProtocolError, TextDelta("x")
    )


@pytest.mark.parametrize("body", [b"", b"\n\n", b"<html></html>", b"OK"])
def test_a_body_that_is_no_answer(body: bytes) -> None:
    assert_ends(decode_both_ways(decoder, body), ProtocolError)


def test_a_whole_answer() -> None:
    body = {"message": {"content": "<think>hm</think>yes"}, "done": True, "done_reason": "length", "eval_count": 4}
    data = json.dumps(body).encode()
    assert decode_both_ways(partial(decoder, streamed=False), data) == (
        [ThinkingDelta("hm"), TextDelta("yes"), Usage(None, 4), Finish("length", "length")],
        None,
    )


def test_a_whole_body_that_is_not_done_is_a_cut() -> None:
    data = json.dumps({"message": {"content": "x"}, "done": False}).encode()
    assert_ends(decode_both_ways(partial(decoder, streamed=False), data), TruncatedStream, TextDelta("x"))
