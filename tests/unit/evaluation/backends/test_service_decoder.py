"""Decoding of the service's transports: the same events and receipt on every transport."""

import json
from decimal import Decimal
from typing import Any

import pytest

from evaluation.backends.base import TrialRequest
from evaluation.backends.service_decoder import (
    ServiceCompletionDecoder,
    ServiceOutcome,
    ServiceSSEDecoder,
    ending_columns,
    receipt_from_service,
)
from evaluation.metrics.trial_metrics import TimedEvents
from streaming.errors import ProtocolError, StreamError, TruncatedStreamError
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, TimedEvent, Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import CostModel
from streaming.pipeline import Receipt
from tests.unit.evaluation.fake_backend import price_usage

USAGE: dict[str, Any] = {
    "input_tokens": 10, "output_tokens": 20, "thinking_tokens": 0, "cached_tokens": 0, "source": "counted",
}  # fmt: skip
RECEIPT_FIELDS: dict[str, Any] = {
    "usage": USAGE, "cost_usd": 0.5, "provider": "a:b", "attempts": 2, "delivered_chars": 3,
}  # fmt: skip
ERROR_FIELDS: dict[str, Any] = {
    "error": {"type": "truncated", "message": "cut", "upstream_status": 503},
    **RECEIPT_FIELDS,
}
REQUEST = ChatRequest((Message("user", "Why?"),))


def encode_events(*output: tuple[str, dict[str, Any] | str]) -> bytes:
    """Encode events as SSE, numbered from 1 as the service does."""
    result = ""
    for seq, (name, fields) in enumerate(output, start=1):
        data = fields if isinstance(fields, str) else json.dumps(fields)
        kind = "" if name == "chunk" else f"event: {name}\n"
        result += f"id: s:{seq}\n{kind}data: {data}\n\n"
    return result.encode()


CALL = TrialRequest("a:b", "direct", "sse", REQUEST)


def make_receipt(*events: Event, outcome: ServiceOutcome | None = None, cost_model: CostModel | None = None) -> Receipt:
    delivered = [TimedEvent(1.0 + place, event) for place, event in enumerate(events)]
    stamps = TimedEvents(0.5, None, delivered)
    return receipt_from_service(CALL, stamps, outcome or ServiceOutcome(), cost_model or CostModel())


def test_sse_decoder_yields_pipeline_events_and_receipt() -> None:
    notice = {"kind": "fallback", "message": "again", "to": "a:b", "error": "network"}
    data = encode_events(
        ("start", {"stream_id": "s"}), ("stage", {"stage": "waiting"}), ("fallback", notice),
        ("thinking", {"content": "hm"}), ("chunk", {"content": "Yes"}), ("usage", USAGE),
        ("finish", {"finish_reason": "length", **RECEIPT_FIELDS}),
        ("chunk", "[DONE]"),
    )  # fmt: skip
    reader = ServiceSSEDecoder()
    result = [event for place in range(len(data)) for event in reader.feed(data[place : place + 1])]
    kinds: list[type[Event]] = [Notice, ThinkingDelta, TextDelta, Usage, Finish]
    assert [type(event) for event in result] == kinds and result[-1] == Finish("length")
    assert reader.done and reader.outcome.receipt is not None and reader.outcome.failure is None
    came = make_receipt(*result, outcome=reader.outcome)
    assert (came.outcome, came.finish_reason, came.attempts, came.fell_back_to) == ("completed", "length", 2, "a:b")
    assert came.reading.usage == Usage(**USAGE) and came.delivered_chars == 3
    columns = ending_columns(came, reader.outcome)
    assert (columns["cost_usd"], columns["price_source"]) == (Decimal("0.5"), "the service")


def test_custom_price_overrides_service_cost() -> None:
    outcome = ServiceOutcome()
    outcome.read_body(json.dumps({"streamgauge": RECEIPT_FIELDS}))
    receipt = make_receipt(Finish("stop"), outcome=outcome, cost_model=CostModel(price=price_usage))
    columns = ending_columns(receipt, outcome)
    assert (columns["cost_usd"], columns["price_source"]) == (Decimal("0.00005"), "test")


@pytest.mark.parametrize(
    ("name", "fields", "failure", "outcome"),
    [
        ("error", ERROR_FIELDS, Failed("truncated", "cut", 503), "truncated"),
        (
            "error",
            {**ERROR_FIELDS, "error": {**ERROR_FIELDS["error"], "type": "slow"}},
            Failed("slow", "cut", 503),
            "failed",
        ),
        (
            "cancelled",
            {**RECEIPT_FIELDS, "stop_s": 0.1},
            Failed("cancelled", "the answer was stopped at the service"),
            "cancelled",
        ),
    ],
)
def test_failed_answer_keeps_service_error_type(
    name: str, fields: dict[str, Any], failure: Failed, outcome: str
) -> None:
    reader = ServiceSSEDecoder()
    with pytest.raises(StreamError):
        list(reader.feed(encode_events(("start", {"stream_id": "s"}), (name, fields))))
    events = reader.outcome.apply_to([TimedEvent(1.0, TextDelta("Ye")), TimedEvent(2.0, Failed("error", "cut"))])
    assert [timed.event for timed in events] == [TextDelta("Ye"), failure]
    came = receipt_from_service(CALL, TimedEvents(0.5, None, events), reader.outcome, CostModel())
    assert (came.outcome, came.error, came.attempts) == (outcome, failure, 2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id: s:1\ndata: {oops\n\n", "not JSON"),
        (b"id: s:1\ndata: {}\n\n", "invalid"),
        (b'id: s:1\ndata: {"content": "\xff"}\n\n', "not UTF-8"),
        (encode_events(("start", {"stream_id": "s"})) + b'id: s:3\ndata: {"content": "x"}\n\n', "events are missing"),
    ],
)
def test_invalid_service_stream_raises_with_reason(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        list(ServiceSSEDecoder().feed(data))


def test_truncated_service_stream_has_estimated_tokens() -> None:
    reader = ServiceSSEDecoder()
    assert list(reader.feed(encode_events(("start", {"stream_id": "s"}), ("chunk", {"content": "Yes!"})))) == [
        TextDelta("Yes!")
    ]
    with pytest.raises(TruncatedStreamError):
        list(reader.flush())
    came = make_receipt(TextDelta("Yes!"), Failed("truncated", "the stream ended"), outcome=reader.outcome)
    assert (came.outcome, came.reading.usage.output_tokens, came.reading.usage.source) == ("truncated", 1, "estimated")


def test_completion_decoder_yields_events_and_receipt() -> None:
    delta = {"choices": [{"index": 0, "delta": {"content": 'say "streamgauge" or "error"'}, "finish_reason": None}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 20}, "streamgauge": RECEIPT_FIELDS}
    data = b"".join(b"data: %b\n\n" % json.dumps(fields).encode() for fields in (delta, end, usage))
    reader = ServiceCompletionDecoder()
    result = [event for place in range(0, len(data), 7) for event in reader.feed(data[place : place + 7])]
    result += [*reader.feed(b"data: [DONE]\n\n"), *reader.flush()]
    assert result[0] == TextDelta('say "streamgauge" or "error"') and result[-1] == Finish("tool", "tool_calls")
    assert (
        reader.outcome.failure is None and reader.outcome.receipt is not None and reader.outcome.receipt.attempts == 2
    )
    assert make_receipt(*result, outcome=reader.outcome).reading.usage.source == "counted"


def test_openai_error_keeps_service_type_and_status() -> None:
    error = {"message": "cut", "type": "api_error", "param": None, "code": "truncated"}
    streamed, refused = ServiceCompletionDecoder(), ServiceOutcome()
    with pytest.raises(StreamError):
        list(streamed.feed(b"data: %b\n\n" % json.dumps({"error": error}).encode()))
    refused.read_body(json.dumps({"error": error, "streamgauge": RECEIPT_FIELDS}), 502)
    assert streamed.outcome.failure == Failed("truncated", "cut")
    assert refused.failure == Failed("truncated", "cut", 502) and refused.receipt is not None


@pytest.mark.parametrize("text", ["", "[]", "<html>", '{"error": "no"}', '{"error": {"message": "x"}}'])
def test_unusable_error_body_changes_nothing(text: str) -> None:
    outcome = ServiceOutcome()
    outcome.read_body(text, 500)
    assert outcome == ServiceOutcome()
