"""The Messages decoder, fed whole and byte by byte."""

import json
from functools import partial
from typing import Any

import pytest

from providers.anthropic_wire import decoder
from streaming.errors import ProtocolError, RateLimited, ServerError, StreamError, TruncatedStream
from streaming.events import Finish, FinishReason, TextDelta, ThinkingDelta, Usage
from tests.unit.providers.decoding import Outcome, assert_ends, decode_both_ways

STOP = {"type": "message_stop"}


def start(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "m", "role": "assistant", "content": [], "usage": usage}}


def block(kind: str = "text", **fields: str) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **fields}}


def text(content: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": content}}


def stopped(reason: str | None = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


def wire(*events: dict[str, Any]) -> bytes:
    return "".join(f"event: {event.get('type')}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


def run(*events: dict[str, Any]) -> Outcome:
    return decode_both_ways(decoder, wire(*events))


def test_a_plain_answer() -> None:
    events = (start(input_tokens=9, output_tokens=1), block(text=""), {"type": "ping"}, text("Hel"), text("lo"))
    end = ({"type": "content_block_stop", "index": 0}, stopped(output_tokens=5), STOP)
    assert run(*events, *end) == (
        [Usage(9), TextDelta("Hel"), TextDelta("lo"), Usage(9, 5, 0), Finish("stop", "end_turn")],
        None,
    )


def test_cached_tokens_are_part_of_the_input() -> None:
    first = start(input_tokens=3, cache_read_input_tokens=40, cache_creation_input_tokens=5, output_tokens=1)
    events, _ = run(first, text("x"), stopped(output_tokens=2), STOP)
    assert events[0] == Usage(48, None, None, 40, cache_write_tokens=5)
    assert events[2] == Usage(48, 2, 0, 40, cache_write_tokens=5)


def test_the_last_counts_win() -> None:
    events, _ = run(start(input_tokens=3), text("x"), stopped(input_tokens=7, output_tokens=2), STOP)
    assert events[2] == Usage(7, 2, 0)


def test_thinking_blocks_are_thinking_and_their_tokens_are_as_reported() -> None:
    thought = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}
    signed = {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "abc"}}
    events, _ = run(block("thinking", thinking=""), thought, signed, text("x"), stopped(output_tokens=9), STOP)
    assert events == [ThinkingDelta("hm"), TextDelta("x"), Usage(None, 9), Finish("stop", "end_turn")]
    details = {"thinking_tokens": 4}
    events, _ = run(thought, text("x"), stopped(output_tokens=9, output_tokens_details=details), STOP)
    assert events[2] == Usage(None, 9, 4)


def test_hidden_thinking_leaves_its_tokens_unknown() -> None:
    events, _ = run(block("redacted_thinking", data="abc"), text("x"), stopped(output_tokens=9), STOP)
    assert events[1] == Usage(None, 9, None)


def test_a_block_may_start_with_text_and_tools_say_nothing() -> None:
    tool = {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}}
    events, _ = run(block(text="He"), text("y"), block("tool_use", name="f"), tool, stopped("tool_use"), STOP)
    assert events == [TextDelta("He"), TextDelta("y"), Finish("tool", "tool_use")]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool"),
    ],
)
def test_finish_reasons(raw: str, reason: FinishReason) -> None:
    assert run(text("x"), stopped(raw), STOP) == ([TextDelta("x"), Finish(reason, raw)], None)


def test_the_events_names_are_not_needed_and_unknown_kinds_are_passed_over() -> None:
    events = [text("x"), {"type": "something_new", "text": "y"}, stopped(), STOP]
    data = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events).encode()
    assert decode_both_ways(decoder, data) == ([TextDelta("x"), Finish("stop", "end_turn")], None)


def test_a_clean_end_after_the_stop_reason_needs_no_marker() -> None:
    assert run(text("x"), stopped()) == ([TextDelta("x"), Finish("stop", "end_turn")], None)


@pytest.mark.parametrize("tail", [(), (stopped(None),)])
def test_an_end_without_a_stop_reason_is_a_cut(tail: tuple[dict[str, Any], ...]) -> None:
    assert_ends(run(text("x"), *tail), TruncatedStream, TextDelta("x"))


@pytest.mark.parametrize("tail", [(STOP,), (stopped(None), STOP)])
def test_end_marker_after_content_ends_the_answer_without_a_reason(tail: tuple[dict[str, Any], ...]) -> None:
    assert run(text("x"), *tail) == ([TextDelta("x"), Finish("other")], None)


def test_refusal_finishes_an_answer_that_the_model_declined() -> None:
    assert run(text("x"), stopped("refusal"), STOP)[0][-1] == Finish("content_filter", "refusal", refused=True)


@pytest.mark.parametrize("raw", ["pause_turn", "something_new"])
def test_stop_reason_on_no_list_of_successes_is_a_cut(raw: str) -> None:
    assert raw in assert_ends(run(text("x"), stopped(raw), STOP), TruncatedStream, TextDelta("x"))


def test_a_doubled_finish_is_harmless() -> None:
    assert run(text("x"), stopped(), stopped(), STOP, STOP) == ([TextDelta("x"), Finish("stop", "end_turn")], None)


@pytest.mark.parametrize("between", [(stopped(), STOP), (STOP,)])
def test_text_after_the_end_is_never_a_success(between: tuple[dict[str, Any], ...]) -> None:
    assert "after the end" in assert_ends(run(text("x"), *between, text("y")), ProtocolError, TextDelta("x"))


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("overloaded_error", ServerError), ("rate_limit_error", RateLimited), ("api_error", ServerError)],
)
def test_an_error_inside_the_stream(kind: str, cls: type[StreamError]) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "Overloaded"}}
    assert "Overloaded" in assert_ends(run(text("x"), error), cls, TextDelta("x"))


def test_halves_of_a_character_are_joined() -> None:
    events, _ = run(text("\ud83c"), text("\udf0d"), stopped(), STOP)
    assert events[0] == TextDelta("🌍")


@pytest.mark.parametrize(
    "bad",
    [b"{", b'{"type": "content_block_delta", "delta": 5}', b'{"type": "message_start", "message": []}', b'"\xff"'],
)
def test_what_is_not_the_wires_is_a_protocol_error_after_what_came_before(bad: bytes) -> None:
    data = wire(text("x")) + b"data: " + bad + b"\n\n" + wire(stopped(), STOP)
    assert_ends(decode_both_ways(decoder, data), ProtocolError, TextDelta("x"))


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"type": "message"}'])
def test_a_body_that_is_no_event_stream(body: bytes) -> None:
    assert_ends(decode_both_ways(decoder, body), ProtocolError)


def whole(body: dict[str, Any]) -> Outcome:
    return decode_both_ways(partial(decoder, streamed=False), json.dumps(body).encode())


def test_a_whole_answer() -> None:
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"type": "message", "content": blocks, "stop_reason": "max_tokens"}
    assert whole({**body, "usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 2}}) == (
        [ThinkingDelta("hm"), TextDelta("ab"), Usage(5, 4, None, 2), Finish("length", "max_tokens")],
        None,
    )


def test_a_whole_body_that_is_no_answer() -> None:
    assert_ends(whole({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}), ServerError)
    assert_ends(whole({"type": "message", "content": "x", "stop_reason": "end_turn"}), ProtocolError)
    assert_ends(whole({"type": "message", "content": [{"type": "text", "text": "x"}]}), TruncatedStream, TextDelta("x"))
