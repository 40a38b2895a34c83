"""Traces: a written trace is read back unchanged, and an invalid line is reported with its number."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import trace
from streaming.errors import UsageError
from streaming.events import Failed, Finish, Notice, TextDelta, ThinkingDelta, TimedEvent, Usage

HEADER = {"provider": "sim", "model": "steady"}
EVENTS = (
    TimedEvent(0.1, Notice("connected", "here", {"delay_s": 1.0})),
    TimedEvent(0.2, ThinkingDelta("hm")),
    TimedEvent(0.2, TextDelta("Hallo 🌍\n\u2028")),
    TimedEvent(0.3, Usage(1, 2, None, 0)),
    TimedEvent(0.4, Finish("stop", "end_turn")),
)


def test_trace_round_trips() -> None:
    read = trace.loads(trace.dumps(HEADER, EVENTS))
    assert (read.header, read.events) == (HEADER, EVENTS)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.text(min_size=1)), max_size=10))
def test_trace_round_trips_any_text(pieces: list[tuple[float, str]]) -> None:
    times = sorted(round(at_s, 9) for at_s, _ in pieces)
    events = tuple(TimedEvent(at_s, TextDelta(text)) for at_s, (_, text) in zip(times, pieces, strict=True))
    assert trace.loads(trace.dumps({}, events)).events == events


def test_truncated_trace_reads_up_to_last_whole_line() -> None:
    text = trace.dumps(HEADER, EVENTS)
    assert trace.loads(text[:-10]).events == EVENTS[:-1]


def test_trace_round_trips_failures() -> None:
    events = (TimedEvent(0.0, Failed("network", "lost", 502)),)
    assert trace.loads(trace.dumps({}, events)).events == events


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "line 3: not JSON"),
        ("[1]", "line 3: not a JSON object"),
        ('{"at_s": 1, "type": "dance"}', "line 3: type 'dance' is unknown"),
        ('{"at_s": "1", "type": "text", "text": "a"}', "line 3: at_s is invalid"),
        ('{"at_s": true, "type": "text", "text": "a"}', "line 3: at_s is invalid"),
        ('{"at_s": 0.05, "type": "text", "text": "a"}', "line 3: at_s is invalid"),
        ('{"at_s": NaN, "type": "text", "text": "a"}', "line 3: at_s is invalid"),
        ('{"at_s": 1, "type": "text", "text": ""}', "line 3: text is missing"),
        ('{"at_s": 1, "type": "text"}', "line 3: text is missing"),
        ('{"at_s": 1, "type": "finish"}', "line 3: "),
        ('{"at_s": 1, "type": "text", "text": "a", "colour": "red"}', "line 3: .*colour"),
        ('{"at_s": 1, "type": ["text"]}', "line 3: type"),
        ('{"at_s": 1e300, "type": "text", "text": "a"}', "line 3: at_s is invalid"),
        ("[" * 100_000, "line 3: not JSON"),
        ('{"at_s": 1, "type": "usage", "output_tokens": -7}', "line 3: output_tokens cannot be -7"),
        ('{"at_s": 1, "type": "usage", "input_tokens": "many"}', "line 3: input_tokens cannot be 'many'"),
        ('{"at_s": 1, "type": "finish", "reason": "sausage"}', "line 3: reason cannot be 'sausage'"),
        ('{"at_s": 1, "type": "failed", "kind": 5, "message": "x"}', "line 3: kind cannot be 5"),
    ],
)
def test_invalid_trace_line_is_reported_with_number(line: str, says: str) -> None:
    first = json.dumps({"at_s": 0.1, "type": "text", "text": "a"})
    with pytest.raises(UsageError, match=says):
        trace.loads(f'{{"trace": 1}}\n{first}\n{line}\n', "my.jsonl")


def test_event_after_end_is_rejected() -> None:
    text = trace.dumps(HEADER, [*EVENTS, TimedEvent(0.5, TextDelta("more"))])
    with pytest.raises(UsageError, match="line 7: an event after the end"):
        trace.loads(text)


@pytest.mark.parametrize("text", ["", "\n", "{}\n", '{"trace": 2}\n', "PK\x03\x04"])
def test_non_trace_text_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match=r"my.jsonl, line 1: not"):
        trace.loads(text, "my.jsonl")
