"""The decoder of OpenAI's Responses API: text, reasoning, refusals, ends and usage, for any split of the bytes."""

from typing import Any

import orjson
import pytest

from providers.decoding.openai_responses import make_decoder
from streaming.errors import (
    BillingError,
    ProtocolError,
    RateLimitError,
    ServerError,
    StreamError,
    TruncatedStreamError,
)
from streaming.events import Event, Finish, TextDelta, ThinkingDelta, Usage

CREATED = {"type": "response.created", "response": {"status": "in_progress"}}
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 12},
    "total_tokens": 31,
}
COUNTED = Usage(11, 20, 12, 4, cache_write_tokens=2)


def text(delta: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": delta, "output_index": 0}


def ended(status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{status}", "response": {"status": status, "usage": USAGE, **fields}}


def decode(data: bytes, piece_bytes: int, *, streamed: bool = True) -> tuple[list[Event], StreamError | None]:
    result, events = make_decoder(streamed=streamed), list[Event]()
    try:
        for start in range(0, len(data), piece_bytes):
            for event in result.feed(data[start : start + piece_bytes]):
                events.append(event)
        for event in result.flush():
            events.append(event)
    except StreamError as error:
        return events, error
    return events, None


def run(*events: dict[str, Any]) -> tuple[list[Event], StreamError | None]:
    """Return the outcome of a stream of these events, after checking that it is the same for several splits."""
    data = b"".join(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events)
    result = decode(data, len(data) or 1)
    for piece_bytes in (1, 7):
        events_again, error = decode(data, piece_bytes)
        assert events_again == result[0]
        assert type(error) is type(result[1])
    return result


def test_completed_stream_yields_text_usage_and_finish() -> None:
    events, error = run(CREATED, text("He"), text("llo"), ended())
    assert error is None
    assert events == [TextDelta("He"), TextDelta("llo"), COUNTED, Finish("stop", "completed")]


@pytest.mark.parametrize("kind", ["response.reasoning_summary_text.delta", "response.reasoning_text.delta"])
def test_reasoning_deltas_are_thinking(kind: str) -> None:
    events, _ = run({"type": kind, "delta": "let me see"}, text("x"), ended())
    assert events[:2] == [ThinkingDelta("let me see"), TextDelta("x")]


def test_refusal_is_shown_and_finishes_as_refused() -> None:
    events, error = run({"type": "response.refusal.delta", "delta": "I cannot."}, ended())
    assert error is None
    assert events[0] == TextDelta("I cannot.")
    assert events[-1] == Finish("stop", "completed", refused=True)


@pytest.mark.parametrize(("reason", "unified"), [("max_output_tokens", "length"), ("content_filter", "content_filter")])
def test_incomplete_response_with_a_known_reason_finishes(reason: str, unified: str) -> None:
    events, error = run(text("x"), ended("incomplete", incomplete_details={"reason": reason}))
    assert error is None
    last = events[-1]
    assert isinstance(last, Finish)
    assert (last.reason, last.raw) == (unified, reason)


@pytest.mark.parametrize("details", [None, {"reason": "steered"}, {}])
def test_incomplete_response_with_an_unknown_reason_raises_truncated_stream(details: dict[str, str] | None) -> None:
    events, error = run(text("x"), ended("incomplete", incomplete_details=details))
    assert isinstance(error, TruncatedStreamError)
    assert events[0] == TextDelta("x")


@pytest.mark.parametrize(
    ("code", "cls"),
    [("rate_limit_exceeded", RateLimitError), ("server_error", ServerError), ("insufficient_quota", BillingError)],
)
def test_failed_response_raises_the_vendors_error_and_keeps_its_usage(code: str, cls: type[StreamError]) -> None:
    events, error = run(text("x"), ended("failed", error={"code": code, "message": "THE-WORDS"}))
    assert type(error) is cls
    assert "THE-WORDS" in error.message
    assert events == [TextDelta("x"), COUNTED]


def test_error_event_raises_the_vendors_error() -> None:
    _, error = run(text("x"), {"type": "error", "code": "server_error", "message": "THE-WORDS"})
    assert isinstance(error, ServerError)
    assert "THE-WORDS" in error.message


def test_stream_without_a_last_event_raises_truncated_stream() -> None:
    events, error = run(CREATED, text("x"))
    assert isinstance(error, TruncatedStreamError)
    assert events == [TextDelta("x")]


def test_text_only_in_the_last_event_is_decoded() -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "whole"}]}]
    events, _ = run(CREATED, ended(output=output))
    assert events[0] == TextDelta("whole")


def test_whole_response_is_decoded_in_order() -> None:
    body = {
        "object": "response",
        "status": "completed",
        "usage": USAGE,
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "thought"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "an answer"}]},
        ],
    }
    events, error = decode(orjson.dumps(body), 1 << 20, streamed=False)
    assert error is None
    assert events == [ThinkingDelta("thought"), TextDelta("an answer"), COUNTED, Finish("stop", "completed")]


def test_whole_body_without_a_response_raises_protocol_error() -> None:
    _, error = decode(b'{"contentType": "application/json"}', 1 << 20, streamed=False)
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize(
    ("limit", "fields", "reason"),
    [
        (20, {}, "length"),
        (19, {}, "length"),
        (21, {}, "stop"),
        (None, {}, "stop"),
        (20, {"max_output_tokens": 20}, "stop"),
    ],
    ids=["all used", "more used", "less used", "no limit", "limit repeated by a server that says incomplete itself"],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_completed_response_that_used_up_its_limit_is_cut(
    limit: int | None, fields: dict[str, Any], reason: str, streamed: bool
) -> None:
    decoder = make_decoder(streamed=streamed, max_output_tokens=limit)
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Yes"}]}]
    event = ended(output=output, **fields)
    data = b"data: " + orjson.dumps(event) + b"\n\n" if streamed else orjson.dumps(event["response"])
    events = [*decoder.feed(data), *decoder.flush()]
    assert TextDelta("Yes") in events and events[-1] == Finish(reason, "completed")  # type: ignore[arg-type]
