"""What the service's wires say, as events and as a receipt: the same whichever wire said it."""

import json
from decimal import Decimal
from typing import Any

import pytest

from evaluation import rows
from evaluation.service_answers import Arrived, ChatFrames, Completion, Told, ending, receipt
from streaming.errors import ProtocolError, StreamError, TruncatedStream
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Timed, Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Rates
from tests.unit.evaluation.asking import price

USAGE: dict[str, Any] = {
    "input_tokens": 10, "output_tokens": 20, "thinking_tokens": 0, "cached_tokens": 0, "source": "counted",
}  # fmt: skip
BILL: dict[str, Any] = {
    "usage": USAGE, "cost_usd": 0.5, "provider": "a:b", "attempts": 2, "delivered_chars": 3,
}  # fmt: skip
BROKEN: dict[str, Any] = {"error": {"type": "truncated", "message": "cut", "upstream_status": 503}, **BILL}
REQUEST = ChatRequest((Message("user", "Why?"),))


def frames(*said: tuple[str, dict[str, Any] | str]) -> bytes:
    """Give events as the service sends them, numbered from 1."""
    found = ""
    for seq, (name, fields) in enumerate(said, start=1):
        data = fields if isinstance(fields, str) else json.dumps(fields)
        kind = "" if name == "chunk" else f"event: {name}\n"
        found += f"id: s:{seq}\n{kind}data: {data}\n\n"
    return found.encode()


def arrived(*events: Event, told: Told | None = None) -> Arrived:
    delivered = [Timed(1.0 + place, event) for place, event in enumerate(events)]
    return Arrived(rows.Stamps(0.5, None, delivered), told or Told())


def test_an_event_stream_gives_the_pipelines_events_and_the_bill() -> None:
    notice = {"kind": "fallback", "message": "again", "to": "a:b", "error": "network"}
    data = frames(
        ("start", {"stream_id": "s"}), ("stage", {"stage": "waiting"}), ("fallback", notice),
        ("thinking", {"content": "hm"}), ("chunk", {"content": "Yes"}), ("usage", USAGE),
        ("finish", {"finish_reason": "length", **BILL}),
        ("chunk", "[DONE]"),
    )  # fmt: skip
    reader = ChatFrames()
    found = [event for place in range(len(data)) for event in reader.feed(data[place : place + 1])]
    kinds: list[type[Event]] = [Notice, ThinkingDelta, TextDelta, Usage, Finish]
    assert [type(event) for event in found] == kinds and found[-1] == Finish("length")
    assert reader.over and reader.told.bill is not None and reader.told.failure is None
    whole = arrived(*found, told=reader.told)
    came = receipt("a:b", REQUEST, whole, Rates())
    assert (came.outcome, came.finish_reason, came.attempts, came.fell_back_to) == ("completed", "length", 2, "a:b")
    assert came.reading.usage == Usage(**USAGE) and came.delivered_chars == 3
    columns = ending(came, reader.told)
    assert (columns["cost_usd"], columns["price_source"]) == (Decimal("0.5"), "the service")


def test_the_askers_own_price_wins_over_the_services() -> None:
    told = Told()
    told.read(json.dumps({"streamgauge": BILL}))
    columns = ending(receipt("a:b", REQUEST, arrived(Finish("stop"), told=told), Rates(price=price)), told)
    assert (columns["cost_usd"], columns["price_source"]) == (Decimal("0.00005"), "test")


@pytest.mark.parametrize(
    ("name", "fields", "failure", "outcome"),
    [
        ("error", BROKEN, Failed("truncated", "cut", 503), "truncated"),
        ("error", {**BROKEN, "error": {**BROKEN["error"], "type": "slow"}}, Failed("slow", "cut", 503), "failed"),
        (
            "cancelled",
            {**BILL, "stop_s": 0.1},
            Failed("cancelled", "the answer was stopped at the service"),
            "cancelled",
        ),
    ],
)
def test_what_broke_an_answer_is_in_the_services_own_word(
    name: str, fields: dict[str, Any], failure: Failed, outcome: str
) -> None:
    reader = ChatFrames()
    with pytest.raises(StreamError):
        list(reader.feed(frames(("start", {"stream_id": "s"}), (name, fields))))
    events = reader.told.ended([Timed(1.0, TextDelta("Ye")), Timed(2.0, Failed("error", "cut"))])
    assert [timed.event for timed in events] == [TextDelta("Ye"), failure]
    came = receipt("a:b", REQUEST, Arrived(rows.Stamps(0.5, None, events), reader.told), Rates())
    assert (came.outcome, came.error, came.attempts) == (outcome, failure, 2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id: s:1\ndata: {oops\n\n", "not JSON"),
        (b"id: s:1\ndata: {}\n\n", "cannot be read"),
        (b'id: s:1\ndata: {"content": "\xff"}\n\n', "not UTF-8"),
        (frames(("start", {"stream_id": "s"})) + b'id: s:3\ndata: {"content": "x"}\n\n', "something is lost"),
    ],
)
def test_what_is_not_the_services_wire_is_named(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        list(ChatFrames().feed(data))


def test_bytes_that_merely_stop_are_a_cut_answer_whose_tokens_are_counted_here() -> None:
    reader = ChatFrames()
    assert list(reader.feed(frames(("start", {"stream_id": "s"}), ("chunk", {"content": "Yes!"})))) == [
        TextDelta("Yes!")
    ]
    with pytest.raises(TruncatedStream):
        list(reader.flush())
    cut = arrived(TextDelta("Yes!"), Failed("truncated", "the stream ended"), told=reader.told)
    came = receipt("a:b", REQUEST, cut, Rates())
    assert (came.outcome, came.reading.usage.output_tokens, came.reading.usage.source) == ("truncated", 1, "estimated")


def test_a_completion_has_the_adapters_events_and_the_bill_beside_the_usage() -> None:
    delta = {"choices": [{"index": 0, "delta": {"content": 'say "streamgauge" or "error"'}, "finish_reason": None}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 20}, "streamgauge": BILL}
    data = b"".join(b"data: %b\n\n" % json.dumps(fields).encode() for fields in (delta, end, usage))
    reader = Completion()
    found = [event for place in range(0, len(data), 7) for event in reader.feed(data[place : place + 7])]
    found += [*reader.feed(b"data: [DONE]\n\n"), *reader.flush()]
    assert found[0] == TextDelta('say "streamgauge" or "error"') and found[-1] == Finish("tool", "tool_calls")
    assert reader.told.failure is None and reader.told.bill is not None and reader.told.bill.attempts == 2
    assert receipt("a:b", REQUEST, arrived(*found, told=reader.told), Rates()).reading.usage.source == "counted"


def test_an_error_in_openais_shape_keeps_the_services_word_and_status() -> None:
    error = {"message": "cut", "type": "api_error", "param": None, "code": "truncated"}
    streamed, refused = Completion(), Told()
    with pytest.raises(StreamError):
        list(streamed.feed(b"data: %b\n\n" % json.dumps({"error": error}).encode()))
    refused.read(json.dumps({"error": error, "streamgauge": BILL}), 502)
    assert streamed.told.failure == Failed("truncated", "cut")
    assert refused.failure == Failed("truncated", "cut", 502) and refused.bill is not None


@pytest.mark.parametrize("text", ["", "[]", "<html>", '{"error": "no"}', '{"error": {"message": "x"}}'])
def test_what_says_nothing_changes_nothing(text: str) -> None:
    told = Told()
    told.read(text, 500)
    assert told == Told()
