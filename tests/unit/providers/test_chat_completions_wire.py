"""The chat-completions decoder, fed whole and byte by byte."""

import json
import time
from functools import partial
from typing import Any

import pytest

from providers.chat_completions_wire import decoder
from providers.wire import Decoder
from streaming.errors import (
    AuthError,
    BadRequest,
    BillingError,
    ProtocolError,
    RateLimited,
    ServerError,
    StreamError,
    TruncatedStream,
)
from streaming.events import Finish, FinishReason, TextDelta, ThinkingDelta, Usage
from tests.unit.providers.decoding import Outcome, assert_ends, decode, decode_both_ways, sse

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = "[DONE]"


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None, **more}]}


def run(*events: Any, **switches: bool) -> Outcome:
    return decode_both_ways(partial(decoder, **switches), sse(*events))


def test_a_plain_answer() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert run(ROLE, text("Hel"), text("lo"), STOP, {"choices": [], "usage": usage}, DONE) == (
        [TextDelta("Hel"), TextDelta("lo"), Usage(9, 5, 2, 4), Finish("stop", "stop")],
        None,
    )


def test_line_ends_comments_and_a_byte_order_mark_change_nothing() -> None:
    data = b"\xef\xbb\xbf: hello\r\n\r\n" + sse(ROLE, text("é"), STOP, DONE, end="\r\n") + b": bye\n\n"
    assert decode_both_ways(decoder, data) == ([TextDelta("é"), Finish("stop", "stop")], None)


def test_raw_characters_of_several_bytes_are_split_anywhere() -> None:
    data = b'data: {"choices":[{"index":0,"delta":{"content":"' + "🌍漢é".encode() + b'"}}]}\n\n' + sse(STOP)
    assert decode_both_ways(decoder, data) == ([TextDelta("🌍漢é"), Finish("stop", "stop")], None)


def test_halves_of_a_character_in_two_deltas_are_joined() -> None:
    events, error = run(text("a\ud83c"), text("\udf0db"), STOP, DONE)
    assert (events, error) == ([TextDelta("a"), TextDelta("🌍b"), Finish("stop", "stop")], None)


@pytest.mark.parametrize("half", ["first", "second"])
@pytest.mark.parametrize("after", ["b", "🌍"])
def test_a_lone_half_becomes_the_replacement_character(half: str, after: str) -> None:
    lone = {"first": "\ud83c", "second": "\udf0d"}[half]
    events, error = run(text(f"a{lone}"), text(after), STOP, DONE)
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert (said, events[-1], error) == (f"a\ufffd{after}", Finish("stop", "stop"), None)


def test_a_lone_half_at_the_end_is_not_lost() -> None:
    assert run(text("a\ud83c"), STOP) == ([TextDelta("a"), TextDelta("\ufffd"), Finish("stop", "stop")], None)


def test_think_tags_are_split_out_across_chunks() -> None:
    events, _ = run(text("<thi"), text("nk>deep</th"), text("ink>\n\nshallow"), STOP, think_tags=True)
    assert events == [ThinkingDelta("deep"), TextDelta("shallow"), Finish("stop", "stop")]


def test_think_tags_are_text_where_the_service_has_its_own_field() -> None:
    assert run(text("<think>x</think>"), STOP)[0][0] == TextDelta("<think>x</think>")


def test_text_held_back_for_a_tag_is_delivered_before_an_error() -> None:
    assert_ends(run(text("<thi"), think_tags=True), TruncatedStream, TextDelta("<thi"))
    assert_ends(run(text("<thi"), "{nonsense", think_tags=True), ProtocolError, TextDelta("<thi"))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_fields_are_thinking(field: str) -> None:
    thought = {"choices": [{"index": 0, "delta": {field: "hm", "content": None}}]}
    assert run(thought, text("yes"), STOP)[0] == [ThinkingDelta("hm"), TextDelta("yes"), Finish("stop", "stop")]


def test_content_in_parts() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "yes"},
    ]
    chunk = {"choices": [{"index": 0, "delta": {"content": parts}}]}
    assert run(chunk, STOP)[0] == [ThinkingDelta("hm"), TextDelta("yes"), Finish("stop", "stop")]


def test_a_refusal_is_shown_to_the_reader() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": None, "refusal": "I cannot."}}]}
    assert run(chunk, STOP)[0] == [TextDelta("I cannot."), Finish("stop", "stop", refused=True)]


def test_only_the_first_choice_is_read() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    assert run(other, text("yes"), other, STOP)[0] == [TextDelta("yes"), Finish("stop", "stop")]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "tool"),
        ("function_call", "tool"),
        ("eos_token", "stop"),
    ],
)
def test_finish_reasons(raw: str, reason: FinishReason) -> None:
    assert run(text("x", finish_reason=raw), DONE) == ([TextDelta("x"), Finish(reason, raw)], None)


def test_an_answer_that_ended_with_an_error_is_not_a_finished_one() -> None:
    assert "ended with an error" in assert_ends(
        run(text("x", finish_reason="error"), DONE), ServerError, TextDelta("x")
    )


def test_azure_names_what_its_filter_objected_to() -> None:
    results = {"hate": {"filtered": True, "severity": "high"}, "violence": {"filtered": False, "severity": "safe"}}
    checked = {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
    last = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter", "content_filter_results": results}]
    }
    assert run(checked, text("x"), last, DONE)[0] == [TextDelta("x"), Finish("content_filter", "content_filter (hate)")]


def test_a_clean_end_after_the_finish_reason_needs_no_marker() -> None:
    assert run(text("x"), STOP) == ([TextDelta("x"), Finish("stop", "stop")], None)


def test_end_without_finish_reason_or_marker_is_a_cut() -> None:
    assert_ends(run(ROLE, text("x")), TruncatedStream, TextDelta("x"))


def test_end_marker_after_content_ends_the_answer_without_a_reason() -> None:
    assert run(ROLE, text("x"), DONE) == ([TextDelta("x"), Finish("other")], None)


def test_end_marker_without_content_is_a_cut() -> None:
    assert_ends(run(ROLE, DONE), TruncatedStream)


def test_finish_reason_with_every_chunk_ends_the_answer_at_the_last() -> None:
    chunks = [{"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": "stop"}]} for part in "abc"]
    assert run(*chunks, DONE) == ([TextDelta("a"), TextDelta("b"), TextDelta("c"), Finish("stop", "stop")], None)


@pytest.mark.parametrize("raw", ["abort", "insufficient_system_resource", "pause_turn", "network_error"])
def test_finish_reason_on_no_list_of_successes_is_a_cut(raw: str) -> None:
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": raw}]}
    assert raw in assert_ends(run(text("x"), last, DONE), TruncatedStream, TextDelta("x"))


def test_empty_finish_reason_counts_only_in_a_chunk_of_its_own() -> None:
    with_text = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": ""}]}
    alone = {"choices": [{"index": 0, "delta": {}, "finish_reason": ""}]}
    assert_ends(run(with_text), TruncatedStream, TextDelta("x"))
    assert run(with_text, alone) == ([TextDelta("x"), Finish("other", "")], None)


def test_an_event_cut_in_its_middle_is_a_cut() -> None:
    data = sse(text("x")) + b'data: {"choices":[{"ind'
    assert_ends(decode_both_ways(decoder, data), TruncatedStream, TextDelta("x"))


def test_a_doubled_finish_is_harmless() -> None:
    assert run(text("x"), STOP, STOP, DONE, DONE) == ([TextDelta("x"), Finish("stop", "stop")], None)


def test_text_after_the_end_marker_is_an_error() -> None:
    assert "after the end" in assert_ends(run(text("x"), STOP, DONE, text("y")), ProtocolError, TextDelta("x"))


def test_text_after_a_finish_reason_makes_the_answer_unfinished() -> None:
    assert_ends(run(text("x"), STOP, text("y")), TruncatedStream, TextDelta("x"), TextDelta("y"))


def test_over_tells_that_the_end_marker_came() -> None:
    found: Decoder = decoder()
    assert list(found.feed(sse(text("x"), STOP))) == [TextDelta("x")]
    assert not found.over
    assert list(found.feed(sse(DONE))) == []
    assert found.over
    assert list(found.flush()) == [Finish("stop", "stop")]


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        ({"message": "Slow down.", "type": "rate_limit_error"}, RateLimited),
        ({"message": "Slow down.", "code": 429}, RateLimited),
        ({"message": "Slow down.", "code": "insufficient_quota"}, BillingError),
        ({"message": "Slow down.", "type": "server_error", "code": None}, ServerError),
        ({"message": "Slow down.", "code": 502}, ServerError),
        ({"message": "Slow down.", "code": "invalid_api_key"}, AuthError),
        ({"message": "Slow down.", "type": "invalid_request_error"}, BadRequest),
        ("Slow down.", ServerError),
    ],
)
def test_an_error_inside_the_stream(error: object, cls: type[StreamError]) -> None:
    message = assert_ends(run(text("x"), {"error": error}, text("y"), STOP), cls, TextDelta("x"))
    assert message == "the provider broke off with an error: Slow down"


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "nonsense",
        "[1]",
        '{"choices": 5}',
        '{"choices": ["x"]}',
        '{"choices": [{"delta": 5}]}',
        '{"choices": [{"index": 0, "delta": {"content": 5}}]}',
        '{"usage": "many"}',
        "[" * 100_000,
    ],
)
def test_what_is_not_the_wires_is_a_protocol_error_after_what_came_before(bad: str) -> None:
    data = sse(text("x"), bad, text("y"), STOP, DONE)
    events, error = decode(decoder(), [data])
    assert events == [TextDelta("x")]
    assert error is not None
    assert error[0] is ProtocolError
    assert len(error[1]) < 400 and "\n" not in error[1]


def test_bad_utf8_is_a_protocol_error_after_what_came_before() -> None:
    data = sse(text("x")) + b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n' + sse(STOP, DONE)
    assert_ends(decode_both_ways(decoder, data), ProtocolError, TextDelta("x"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"\r\n \n", "empty"),
        (b"<!DOCTYPE html><html><body>Bad gateway</body></html>", "web page"),
        (b"\xef\xbb\xbf \n<html>", "web page"),
        (json.dumps({"choices": [{"message": {"content": "x"}}]}).encode(), "in one piece"),
        (b"OK", "something else"),
        (b'{"error', "malformed JSON"),
    ],
)
def test_a_body_that_is_no_event_stream(body: bytes, words: str) -> None:
    assert words in assert_ends(decode_both_ways(decoder, body), ProtocolError)


def test_an_error_as_json_in_place_of_the_stream_is_that_error() -> None:
    body = json.dumps({"error": {"message": "Too fast", "type": "rate_limit_error"}}).encode()
    assert "Too fast" in assert_ends(decode_both_ways(decoder, body), RateLimited)


@pytest.mark.parametrize("body", [b": keep-alive\n\n: keep-alive\n\n", b'data: {"cho', b"event: x\n"])
def test_a_stream_cut_before_anything_came(body: bytes) -> None:
    assert_ends(decode_both_ways(decoder, body), TruncatedStream)


def test_thinking_is_zero_where_it_would_have_shown() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}
    assert run(text("x"), STOP, usage)[0][1] == Usage(1, 2, None)
    assert run(text("x"), STOP, usage, shows_thinking=True)[0][1] == Usage(1, 2, 0)
    assert run(thought, text("x"), STOP, usage, shows_thinking=True)[0][2] == Usage(1, 2, None)


def test_usage_that_is_no_number_is_unknown() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": True}}
    assert run(text("x"), STOP, usage)[0][1] == Usage(3, None)
    nothing = {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": "many"}}
    assert run(text("x"), STOP, nothing)[0] == [TextDelta("x"), Finish("stop", "stop")]


def test_a_repeated_usage_is_given_once() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert run(text("x"), STOP, usage, usage)[0].count(Usage(3, 4)) == 1


def test_a_big_event_takes_linear_time() -> None:
    def decoding_s(millions: int) -> float:
        data = sse(text("x" * millions * 1_000_000), STOP)
        started_s = time.process_time()
        events, error = decode(decoder(), [data[i : i + 16_384] for i in range(0, len(data), 16_384)])
        assert error is None
        assert isinstance(events[0], TextDelta) and len(events[0].text) == millions * 1_000_000
        return time.process_time() - started_s

    decoding_s(1)
    assert decoding_s(4) < 12 * max(min(decoding_s(1) for _ in range(3)), 0.002)


def whole(body: Any, **switches: bool) -> Outcome:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_both_ways(partial(decoder, streamed=False, **switches), data)


def test_a_whole_answer() -> None:
    message = {"role": "assistant", "content": "<think>hm</think>yes\ud83c", "refusal": None}
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    assert whole(body, think_tags=True) == (
        [ThinkingDelta("hm"), TextDelta("yes\ufffd"), Usage(1, 2), Finish("length", "length")],
        None,
    )


def test_a_whole_answer_of_nothing_has_no_delta() -> None:
    body = {"choices": [{"index": 0, "message": {"content": None}, "finish_reason": "tool_calls"}]}
    assert whole(body) == ([Finish("tool", "tool_calls")], None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", ProtocolError),
        (b"<html>", ProtocolError),
        (b'{"choices": [', ProtocolError),
        (b'{"a": "\xff"}', ProtocolError),
        ({"error": {"message": "x", "code": 503}}, ServerError),
        ({"choices": []}, ProtocolError),
        ({"contentType": "application/json", "pathname": "/x"}, ProtocolError),
    ],
)
def test_a_whole_body_that_is_no_answer(body: Any, error: type[StreamError]) -> None:
    assert_ends(whole(body), error)


def test_a_whole_answer_without_a_finish_reason_is_a_cut_that_keeps_its_text() -> None:
    assert_ends(whole({"choices": [{"index": 0, "message": {"content": "x"}}]}), TruncatedStream, TextDelta("x"))
