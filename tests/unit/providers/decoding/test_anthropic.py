"""The decoder of Anthropic's Messages API, fed at once and byte by byte."""

import json
from functools import partial
from typing import Any

import pytest

from providers.decoding.anthropic import make_decoder
from streaming.errors import ProtocolError, RateLimitError, ServerError, StreamError, TruncatedStreamError
from streaming.events import Finish, FinishReason, TextDelta, ThinkingDelta, Usage
from tests.unit.providers.decoder_helpers import Outcome, assert_ends, decode_both_ways

STOP = {"type": "message_stop"}


def start_event(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"role": "assistant", "content": [], "usage": usage}}


def block_start_event(kind: str = "text", **fields: str) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **fields}}


def text_delta_event(content: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": content}}


def message_delta_event(reason: str | None = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


def encode_wire(*events: dict[str, Any]) -> bytes:
    return "".join(f"event: {event.get('type')}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


def decode_events(*events: dict[str, Any]) -> Outcome:
    return decode_both_ways(make_decoder, encode_wire(*events))


def test_decoder_reads_plain_answer() -> None:
    events = (
        start_event(input_tokens=9, output_tokens=1),
        block_start_event(text=""),
        {"type": "ping"},
        text_delta_event("Hel"),
        text_delta_event("lo"),
    )
    end = ({"type": "content_block_stop", "index": 0}, message_delta_event(output_tokens=5), STOP)
    assert decode_events(*events, *end) == (
        [Usage(9), TextDelta("Hel"), TextDelta("lo"), Usage(9, 5, 0), Finish("stop", "end_turn")],
        None,
    )


def test_cached_tokens_are_included_in_input_tokens() -> None:
    first = start_event(input_tokens=3, cache_read_input_tokens=40, cache_creation_input_tokens=5, output_tokens=1)
    events, _ = decode_events(first, text_delta_event("x"), message_delta_event(output_tokens=2), STOP)
    assert events[0] == Usage(48, None, None, 40, cache_write_tokens=5)
    assert events[2] == Usage(48, 2, 0, 40, cache_write_tokens=5)


def test_tokens_cached_for_an_hour_are_counted_apart() -> None:
    kept = {"ephemeral_5m_input_tokens": 2000, "ephemeral_1h_input_tokens": 3000}
    first = start_event(input_tokens=3, cache_creation_input_tokens=5000, cache_creation=kept, output_tokens=1)
    events, _ = decode_events(first, text_delta_event("x"), message_delta_event(output_tokens=2), STOP)
    assert events[2] == Usage(5003, 2, 0, None, cache_write_tokens=5000, cache_write_1h_tokens=3000)


def test_last_reported_usage_wins() -> None:
    events, _ = decode_events(
        start_event(input_tokens=3), text_delta_event("x"), message_delta_event(input_tokens=7, output_tokens=2), STOP
    )
    assert events[2] == Usage(7, 2, 0)


def test_thinking_blocks_become_thinking_with_reported_tokens() -> None:
    thought = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}
    signed = {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "abc"}}
    events, _ = decode_events(
        block_start_event("thinking", thinking=""),
        thought,
        signed,
        text_delta_event("x"),
        message_delta_event(output_tokens=9),
        STOP,
    )
    assert events == [ThinkingDelta("hm"), TextDelta("x"), Usage(None, 9), Finish("stop", "end_turn")]
    details = {"thinking_tokens": 4}
    events, _ = decode_events(
        thought, text_delta_event("x"), message_delta_event(output_tokens=9, output_tokens_details=details), STOP
    )
    assert events[2] == Usage(None, 9, 4)


def test_redacted_thinking_leaves_tokens_unknown() -> None:
    events, _ = decode_events(
        block_start_event("redacted_thinking", data="abc"),
        text_delta_event("x"),
        message_delta_event(output_tokens=9),
        STOP,
    )
    assert events[1] == Usage(None, 9, None)


def test_block_start_text_is_kept_and_tool_input_ignored() -> None:
    tool = {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}}
    events, _ = decode_events(
        block_start_event(text="He"),
        text_delta_event("y"),
        block_start_event("tool_use", name="f"),
        tool,
        message_delta_event("tool_use"),
        STOP,
    )
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
def test_stop_reason_maps_to_finish_reason(raw: str, reason: FinishReason) -> None:
    assert decode_events(text_delta_event("x"), message_delta_event(raw), STOP) == (
        [TextDelta("x"), Finish(reason, raw)],
        None,
    )


def test_missing_event_names_and_unknown_types_are_tolerated() -> None:
    events = [text_delta_event("x"), {"type": "something_new", "text": "y"}, message_delta_event(), STOP]
    data = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events).encode()
    assert decode_both_ways(make_decoder, data) == ([TextDelta("x"), Finish("stop", "end_turn")], None)


def test_end_after_stop_reason_completes_without_marker() -> None:
    assert decode_events(text_delta_event("x"), message_delta_event()) == (
        [TextDelta("x"), Finish("stop", "end_turn")],
        None,
    )


@pytest.mark.parametrize("tail", [(), (message_delta_event(None),)])
def test_end_without_stop_reason_is_truncated(tail: tuple[dict[str, Any], ...]) -> None:
    assert_ends(decode_events(text_delta_event("x"), *tail), TruncatedStreamError, TextDelta("x"))


@pytest.mark.parametrize("tail", [(STOP,), (message_delta_event(None), STOP)])
def test_end_marker_after_content_without_stop_reason_finishes_as_other(tail: tuple[dict[str, Any], ...]) -> None:
    assert decode_events(text_delta_event("x"), *tail) == ([TextDelta("x"), Finish("other")], None)


def test_refusal_stop_reason_finishes_as_refused() -> None:
    assert decode_events(text_delta_event("x"), message_delta_event("refusal"), STOP)[0][-1] == Finish(
        "content_filter", "refusal", refused=True
    )


@pytest.mark.parametrize("raw", ["pause_turn", "something_new"])
def test_unknown_stop_reason_raises_truncated_stream(raw: str) -> None:
    assert raw in assert_ends(
        decode_events(text_delta_event("x"), message_delta_event(raw), STOP), TruncatedStreamError, TextDelta("x")
    )


def test_doubled_finish_is_ignored() -> None:
    assert decode_events(text_delta_event("x"), message_delta_event(), message_delta_event(), STOP, STOP) == (
        [TextDelta("x"), Finish("stop", "end_turn")],
        None,
    )


@pytest.mark.parametrize("between", [(message_delta_event(), STOP), (STOP,)])
def test_text_after_end_is_protocol_error(between: tuple[dict[str, Any], ...]) -> None:
    assert "after the end" in assert_ends(
        decode_events(text_delta_event("x"), *between, text_delta_event("y")), ProtocolError, TextDelta("x")
    )


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("overloaded_error", ServerError), ("rate_limit_error", RateLimitError), ("api_error", ServerError)],
)
def test_error_event_maps_to_error_class(kind: str, cls: type[StreamError]) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "Overloaded"}}
    assert "Overloaded" in assert_ends(decode_events(text_delta_event("x"), error), cls, TextDelta("x"))


def test_split_surrogate_is_joined() -> None:
    events, _ = decode_events(text_delta_event("\ud83c"), text_delta_event("\udf0d"), message_delta_event(), STOP)
    assert events[0] == TextDelta("🌍")


@pytest.mark.parametrize(
    "bad",
    [b"{", b'{"type": "content_block_delta", "delta": 5}', b'{"type": "message_start", "message": []}', b'"\xff"'],
)
def test_invalid_event_is_protocol_error_after_received_text(bad: bytes) -> None:
    data = encode_wire(text_delta_event("x")) + b"data: " + bad + b"\n\n" + encode_wire(message_delta_event(), STOP)
    assert_ends(decode_both_ways(make_decoder, data), ProtocolError, TextDelta("x"))


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"type": "message"}'])
def test_non_stream_body_is_protocol_error(body: bytes) -> None:
    assert_ends(decode_both_ways(make_decoder, body), ProtocolError)


def decode_body(body: dict[str, Any]) -> Outcome:
    return decode_both_ways(partial(make_decoder, streamed=False), json.dumps(body).encode())


def test_decoder_reads_whole_answer() -> None:
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"type": "message", "content": blocks, "stop_reason": "max_tokens"}
    assert decode_body({**body, "usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 2}}) == (
        [ThinkingDelta("hm"), TextDelta("ab"), Usage(5, 4, None, 2), Finish("length", "max_tokens")],
        None,
    )


def test_invalid_whole_body_raises() -> None:
    assert_ends(decode_body({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}), ServerError)
    assert_ends(decode_body({"type": "message", "content": "x", "stop_reason": "end_turn"}), ProtocolError)
    assert_ends(
        decode_body({"type": "message", "content": [{"type": "text", "text": "x"}]}),
        TruncatedStreamError,
        TextDelta("x"),
    )
