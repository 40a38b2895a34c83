"""The chat-completions decoder, fed at once and byte by byte."""

import json
import time
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from providers.decoding.chat_completions import make_decoder, read_billed_usd
from providers.decoding.decoder import StreamDecoder
from streaming.errors import (
    AuthenticationError,
    BadRequestError,
    BillingError,
    ProtocolError,
    RateLimitError,
    ServerError,
    StreamError,
    TruncatedStreamError,
)
from streaming.events import Finish, FinishReason, TextDelta, ThinkingDelta, Usage
from tests.unit.providers.decoder_helpers import Outcome, assert_ends, decode, decode_both_ways, encode_sse

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = "[DONE]"


def text_chunk(content: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None, **more}]}


def decode_chunks(*events: Any, **switches: bool) -> Outcome:
    return decode_both_ways(partial(make_decoder, **switches), encode_sse(*events))


def test_decoder_reads_plain_answer() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert decode_chunks(ROLE, text_chunk("Hel"), text_chunk("lo"), STOP, {"choices": [], "usage": usage}, DONE) == (
        [TextDelta("Hel"), TextDelta("lo"), Usage(9, 5, 2, 4), Finish("stop", "stop")],
        None,
    )


def test_crlf_comments_and_bom_are_ignored() -> None:
    data = b"\xef\xbb\xbf: hello\r\n\r\n" + encode_sse(ROLE, text_chunk("é"), STOP, DONE, end="\r\n") + b": bye\n\n"
    assert decode_both_ways(make_decoder, data) == ([TextDelta("é"), Finish("stop", "stop")], None)


def test_multibyte_characters_split_anywhere_are_decoded() -> None:
    data = b'data: {"choices":[{"index":0,"delta":{"content":"' + "🌍漢é".encode() + b'"}}]}\n\n' + encode_sse(STOP)
    assert decode_both_ways(make_decoder, data) == ([TextDelta("🌍漢é"), Finish("stop", "stop")], None)


def test_split_surrogate_over_two_deltas_is_joined() -> None:
    events, error = decode_chunks(text_chunk("a\ud83c"), text_chunk("\udf0db"), STOP, DONE)
    assert (events, error) == ([TextDelta("a"), TextDelta("🌍b"), Finish("stop", "stop")], None)


@pytest.mark.parametrize("half", ["first", "second"])
@pytest.mark.parametrize("after", ["b", "🌍"])
def test_lone_surrogate_becomes_replacement_character(half: str, after: str) -> None:
    lone = {"first": "\ud83c", "second": "\udf0d"}[half]
    events, error = decode_chunks(text_chunk(f"a{lone}"), text_chunk(after), STOP, DONE)
    output = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert (output, events[-1], error) == (f"a\ufffd{after}", Finish("stop", "stop"), None)


def test_lone_surrogate_at_end_is_not_lost() -> None:
    assert decode_chunks(text_chunk("a\ud83c"), STOP) == (
        [TextDelta("a"), TextDelta("\ufffd"), Finish("stop", "stop")],
        None,
    )


def test_think_tags_across_chunks_become_thinking() -> None:
    events, _ = decode_chunks(
        text_chunk("<thi"), text_chunk("nk>deep</th"), text_chunk("ink>\n\nshallow"), STOP, think_tags=True
    )
    assert events == [ThinkingDelta("deep"), TextDelta("shallow"), Finish("stop", "stop")]


def test_think_tags_without_the_option_stay_text() -> None:
    assert decode_chunks(text_chunk("<think>x</think>"), STOP)[0][0] == TextDelta("<think>x</think>")


def test_text_held_for_tag_is_delivered_before_error() -> None:
    assert_ends(decode_chunks(text_chunk("<thi"), think_tags=True), TruncatedStreamError, TextDelta("<thi"))
    assert_ends(decode_chunks(text_chunk("<thi"), "{nonsense", think_tags=True), ProtocolError, TextDelta("<thi"))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_fields_become_thinking(field: str) -> None:
    thought = {"choices": [{"index": 0, "delta": {field: "hm", "content": None}}]}
    assert decode_chunks(thought, text_chunk("yes"), STOP)[0] == [
        ThinkingDelta("hm"),
        TextDelta("yes"),
        Finish("stop", "stop"),
    ]


def test_content_parts_become_thinking_and_text() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "yes"},
    ]
    chunk = {"choices": [{"index": 0, "delta": {"content": parts}}]}
    assert decode_chunks(chunk, STOP)[0] == [ThinkingDelta("hm"), TextDelta("yes"), Finish("stop", "stop")]


def test_refusal_field_becomes_text() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": None, "refusal": "I cannot."}}]}
    assert decode_chunks(chunk, STOP)[0] == [TextDelta("I cannot."), Finish("stop", "stop", refused=True)]


def test_choices_after_first_are_ignored() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    assert decode_chunks(other, text_chunk("yes"), other, STOP)[0] == [TextDelta("yes"), Finish("stop", "stop")]


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
def test_finish_reason_is_mapped(raw: str, reason: FinishReason) -> None:
    assert decode_chunks(text_chunk("x", finish_reason=raw), DONE) == ([TextDelta("x"), Finish(reason, raw)], None)


def test_error_finish_reason_raises_server_error() -> None:
    assert "ended with an error" in assert_ends(
        decode_chunks(text_chunk("x", finish_reason="error"), DONE), ServerError, TextDelta("x")
    )


def test_azure_content_filter_categories_are_named() -> None:
    results = {"hate": {"filtered": True, "severity": "high"}, "violence": {"filtered": False, "severity": "safe"}}
    checked = {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
    last = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter", "content_filter_results": results}]
    }
    assert decode_chunks(checked, text_chunk("x"), last, DONE)[0] == [
        TextDelta("x"),
        Finish("content_filter", "content_filter (hate)"),
    ]


def test_end_after_finish_reason_completes_without_marker() -> None:
    assert decode_chunks(text_chunk("x"), STOP) == ([TextDelta("x"), Finish("stop", "stop")], None)


def test_end_without_finish_reason_or_marker_raises_truncated_stream() -> None:
    assert_ends(decode_chunks(ROLE, text_chunk("x")), TruncatedStreamError, TextDelta("x"))


def test_end_marker_after_content_without_finish_reason_finishes_as_other() -> None:
    assert decode_chunks(ROLE, text_chunk("x"), DONE) == ([TextDelta("x"), Finish("other")], None)


def test_end_marker_without_content_raises_truncated_stream() -> None:
    assert_ends(decode_chunks(ROLE, DONE), TruncatedStreamError)


def test_finish_reason_in_every_chunk_finishes_at_the_last_one() -> None:
    chunks = [{"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": "stop"}]} for part in "abc"]
    assert decode_chunks(*chunks, DONE) == (
        [TextDelta("a"), TextDelta("b"), TextDelta("c"), Finish("stop", "stop")],
        None,
    )


@pytest.mark.parametrize("raw", ["abort", "insufficient_system_resource", "pause_turn", "network_error"])
def test_unknown_finish_reason_raises_truncated_stream(raw: str) -> None:
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": raw}]}
    assert raw in assert_ends(decode_chunks(text_chunk("x"), last, DONE), TruncatedStreamError, TextDelta("x"))


def test_empty_finish_reason_counts_only_in_an_otherwise_empty_chunk() -> None:
    with_text = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": ""}]}
    alone = {"choices": [{"index": 0, "delta": {}, "finish_reason": ""}]}
    assert_ends(decode_chunks(with_text), TruncatedStreamError, TextDelta("x"))
    assert decode_chunks(with_text, alone) == ([TextDelta("x"), Finish("other", "")], None)


def test_event_cut_in_the_middle_is_truncated() -> None:
    data = encode_sse(text_chunk("x")) + b'data: {"choices":[{"ind'
    assert_ends(decode_both_ways(make_decoder, data), TruncatedStreamError, TextDelta("x"))


def test_doubled_finish_is_ignored() -> None:
    assert decode_chunks(text_chunk("x"), STOP, STOP, DONE, DONE) == ([TextDelta("x"), Finish("stop", "stop")], None)


def test_text_after_the_end_marker_raises_protocol_error() -> None:
    assert "after the end" in assert_ends(
        decode_chunks(text_chunk("x"), STOP, DONE, text_chunk("y")), ProtocolError, TextDelta("x")
    )


def test_text_after_finish_reason_cancels_the_reason() -> None:
    assert_ends(
        decode_chunks(text_chunk("x"), STOP, text_chunk("y")), TruncatedStreamError, TextDelta("x"), TextDelta("y")
    )


def test_decoder_is_done_after_end_marker() -> None:
    result: StreamDecoder = make_decoder()
    assert list(result.feed(encode_sse(text_chunk("x"), STOP))) == [TextDelta("x")]
    assert not result.done
    assert list(result.feed(encode_sse(DONE))) == []
    assert result.done
    assert list(result.flush()) == [Finish("stop", "stop")]


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        ({"message": "Slow down.", "type": "rate_limit_error"}, RateLimitError),
        ({"message": "Slow down.", "code": 429}, RateLimitError),
        ({"message": "Slow down.", "code": "insufficient_quota"}, BillingError),
        ({"message": "Slow down.", "type": "server_error", "code": None}, ServerError),
        ({"message": "Slow down.", "code": 502}, ServerError),
        ({"message": "Slow down.", "code": "invalid_api_key"}, AuthenticationError),
        ({"message": "Slow down.", "type": "invalid_request_error"}, BadRequestError),
        ("Slow down.", ServerError),
    ],
)
def test_error_in_stream_maps_to_error_class(error: object, cls: type[StreamError]) -> None:
    message = assert_ends(decode_chunks(text_chunk("x"), {"error": error}, text_chunk("y"), STOP), cls, TextDelta("x"))
    assert message == "answer: ended by an error of the provider: Slow down"


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
def test_invalid_chunk_is_protocol_error_after_received_text(bad: str) -> None:
    data = encode_sse(text_chunk("x"), bad, text_chunk("y"), STOP, DONE)
    events, error = decode(make_decoder(), [data])
    assert events == [TextDelta("x")]
    assert error is not None
    assert error[0] is ProtocolError
    assert len(error[1]) < 400 and "\n" not in error[1]


def test_bad_utf8_is_protocol_error_after_received_text() -> None:
    data = (
        encode_sse(text_chunk("x"))
        + b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n'
        + encode_sse(STOP, DONE)
    )
    assert_ends(decode_both_ways(make_decoder, data), ProtocolError, TextDelta("x"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"\r\n \n", "empty"),
        (b"<!DOCTYPE html><html><body>Bad gateway</body></html>", "web page"),
        (b"\xef\xbb\xbf \n<html>", "web page"),
        (json.dumps({"choices": [{"message": {"content": "x"}}]}).encode(), "not streamed"),
        (b"OK", "not an answer"),
        (b'{"error', "malformed JSON"),
    ],
)
def test_non_stream_body_is_protocol_error(body: bytes, words: str) -> None:
    assert words in assert_ends(decode_both_ways(make_decoder, body), ProtocolError)


def test_json_error_in_place_of_stream_raises_it() -> None:
    body = json.dumps({"error": {"message": "Too fast", "type": "rate_limit_error"}}).encode()
    assert "Too fast" in assert_ends(decode_both_ways(make_decoder, body), RateLimitError)


@pytest.mark.parametrize("body", [b": keep-alive\n\n: keep-alive\n\n", b'data: {"cho', b"event: x\n"])
def test_stream_without_content_is_truncated(body: bytes) -> None:
    assert_ends(decode_both_ways(make_decoder, body), TruncatedStreamError)


def test_thinking_tokens_are_zero_if_service_shows_thinking() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}
    assert decode_chunks(text_chunk("x"), STOP, usage)[0][1] == Usage(1, 2, None)
    assert decode_chunks(text_chunk("x"), STOP, usage, shows_thinking=True)[0][1] == Usage(1, 2, 0)
    assert decode_chunks(thought, text_chunk("x"), STOP, usage, shows_thinking=True)[0][2] == Usage(1, 2, None)


def test_non_numeric_usage_is_unknown() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": True}}
    assert decode_chunks(text_chunk("x"), STOP, usage)[0][1] == Usage(3, None)
    nothing = {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": "many"}}
    assert decode_chunks(text_chunk("x"), STOP, nothing)[0] == [TextDelta("x"), Finish("stop", "stop")]


def test_repeated_usage_is_yielded_once() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert decode_chunks(text_chunk("x"), STOP, usage, usage)[0].count(Usage(3, 4)) == 1


def test_big_event_is_decoded_in_linear_time() -> None:
    def decoding_s(millions: int) -> float:
        data = encode_sse(text_chunk("x" * millions * 1_000_000), STOP)
        started_s = time.process_time()
        events, error = decode(make_decoder(), [data[i : i + 16_384] for i in range(0, len(data), 16_384)])
        assert error is None
        assert isinstance(events[0], TextDelta) and len(events[0].text) == millions * 1_000_000
        return time.process_time() - started_s

    decoding_s(1)
    assert decoding_s(4) < 12 * max(min(decoding_s(1) for _ in range(3)), 0.002)


def decode_body(body: Any, **switches: bool) -> Outcome:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_both_ways(partial(make_decoder, streamed=False, **switches), data)


def test_decoder_reads_whole_answer() -> None:
    message = {"role": "assistant", "content": "<think>hm</think>yes\ud83c", "refusal": None}
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    assert decode_body(body, think_tags=True) == (
        [ThinkingDelta("hm"), TextDelta("yes\ufffd"), Usage(1, 2), Finish("length", "length")],
        None,
    )


def test_empty_whole_answer_has_no_delta() -> None:
    body = {"choices": [{"index": 0, "message": {"content": None}, "finish_reason": "tool_calls"}]}
    assert decode_body(body) == ([Finish("tool", "tool_calls")], None)


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
def test_invalid_whole_body_raises(body: Any, error: type[StreamError]) -> None:
    assert_ends(decode_body(body), error)


def test_whole_answer_without_finish_reason_is_truncated_with_text() -> None:
    assert_ends(
        decode_body({"choices": [{"index": 0, "message": {"content": "x"}}]}), TruncatedStreamError, TextDelta("x")
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("guardrail_intervened", "content_filter"),
        ("MAX_TOKENS", "length"),
        ("model_context_window_exceeded", "length"),
        ("COMPLETE", "stop"),
    ],
)
def test_finish_reasons_of_other_vendors_are_known(raw: str, reason: str) -> None:
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": raw}
    events, error = decode(make_decoder(), [encode_sse({"choices": [choice]}, "[DONE]")])
    assert error is None
    assert isinstance(events[-1], Finish) and events[-1].reason == reason


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        ({"cost": 0.5}, "0.5"),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}, "0.51"),
        ({"cost": 0.01, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.5}}, "0.01"),
        ({"cost": 0.01, "is_byok": True, "cost_details": None}, "0.01"),
        ({"cost": "free"}, None),
    ],
)
def test_bill_with_a_key_of_the_callers_own_includes_the_upstreams(usage: dict[str, Any], usd: str | None) -> None:
    billed = read_billed_usd(usage)
    assert billed == (None if usd is None else Decimal(usd))
