"""The rules that every delivery strategy follows, and the specific behaviour of each strategy."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from streaming import strategies
from streaming.errors import UsageError
from streaming.events import (
    Failed,
    Finish,
    Grammar,
    Notice,
    TextDelta,
    ThinkingDelta,
    TimedEvent,
    Usage,
)
from streaming.replay import replay

NAMES = [*strategies.EXAMPLES, "batch:30ms", "debounce:7ms", "pace:2tps", "pace:500tps"]
STREAMS = 80
"""Streams that each law is tried on with every strategy: to draw one takes longer than all strategies take."""
END = Finish("stop", "stop")

texts = st.text(alphabet="ab \n.日本", min_size=1, max_size=12)
events = st.one_of(
    texts.map(TextDelta),
    texts.map(ThinkingDelta),
    st.just(Usage(1, 2)),
    st.just(Notice("retry", "again", {"delay_s": 1.0})),
)
gaps = st.one_of(st.just(0.0), st.floats(0, 0.3), st.floats(0, 12))


@st.composite
def event_streams(draw: st.DrawFn) -> list[TimedEvent]:
    at_s = draw(st.floats(0, 1e6))
    timed = []
    for event in draw(st.lists(events, max_size=30)):
        at_s += draw(gaps)
        timed.append(TimedEvent(at_s, event))
    end = END if draw(st.booleans()) else Failed("network", "lost")
    return [*timed, TimedEvent(at_s + draw(gaps), end)]


def run_strategy(name: str, source: list[TimedEvent]) -> list[TimedEvent]:
    return list(replay(source, strategies.parse(name).build()))


def join_text(timed: list[TimedEvent], kind: type[TextDelta] | type[ThinkingDelta] = TextDelta) -> str:
    return "".join(t.event.text for t in timed if isinstance(t.event, kind))


def char_times(timed: list[TimedEvent]) -> list[float]:
    return [t.at_s for t in timed if isinstance(t.event, (TextDelta, ThinkingDelta)) for _ in t.event.text]


def char_events(timed: list[TimedEvent]) -> list[tuple[type, str]]:
    return [(type(t.event), c) for t in timed if isinstance(t.event, (TextDelta, ThinkingDelta)) for c in t.event.text]


@given(event_streams())
@settings(max_examples=STREAMS)
def test_every_strategy_preserves_text_in_order(source: list[TimedEvent]) -> None:
    for name in NAMES:
        assert char_events(run_strategy(name, source)) == char_events(source), name


@given(event_streams())
@settings(max_examples=STREAMS)
def test_every_strategy_keeps_event_grammar(source: list[TimedEvent]) -> None:
    for name in NAMES:
        note(name)
        grammar = Grammar()
        delivered = run_strategy(name, source)
        for timed in delivered:
            grammar.feed(timed.event)
        grammar.end()
        assert delivered[-1].event == source[-1].event
        assert all(a.at_s <= b.at_s for a, b in pairwise(delivered))


@given(event_streams())
@settings(max_examples=STREAMS)
def test_every_strategy_holds_text_within_declared_limit(source: list[TimedEvent]) -> None:
    for name in NAMES:
        limit_s = strategies.parse(name).build().max_hold_s
        for arrived_s, left_s in zip(char_times(source), char_times(run_strategy(name, source)), strict=True):
            assert arrived_s <= left_s <= arrived_s + limit_s + 1e-6, name


@given(event_streams())
@settings(max_examples=STREAMS)
def test_every_strategy_passes_notices_and_usage_at_once(source: list[TimedEvent]) -> None:
    def side_events(timed: list[TimedEvent]) -> list[TimedEvent]:
        return [t for t in timed if isinstance(t.event, (Notice, Usage))]

    for name in NAMES:
        assert side_events(run_strategy(name, source)) == side_events(source), name


def steady_events(count: int, gap_s: float = 0.02, word: str = "word ") -> list[TimedEvent]:
    deltas = [TimedEvent(0.2 + i * gap_s, TextDelta(word)) for i in range(count)]
    return [*deltas, TimedEvent(deltas[-1].at_s, END)]


def test_direct_strategy_changes_nothing() -> None:
    source = steady_events(50)
    assert run_strategy("direct", source) == source


def test_whole_strategy_waits_for_end() -> None:
    source = steady_events(50)
    assert run_strategy("whole", source) == [TimedEvent(source[-1].at_s, TextDelta("word " * 50)), source[-1]]


def test_whole_strategy_delivers_text_before_failure() -> None:
    failed = TimedEvent(0.3, Failed("truncated", "cut"))
    assert run_strategy("whole", [TimedEvent(0.2, TextDelta("a")), failed]) == [TimedEvent(0.3, TextDelta("a")), failed]


def test_batch_strategy_delivers_first_text_at_once_then_per_interval() -> None:
    delivered = run_strategy("batch:100ms", steady_events(64))
    times = [t.at_s for t in delivered if isinstance(t.event, TextDelta)]
    assert times[0] == 0.2
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(times[:-1]))
    for start in times:
        assert sum(start <= t < start + 1 for t in times) <= 11
    assert isinstance(delivered[-1].event, Finish)


def test_batch_strategy_delivers_first_text_after_thinking_at_once() -> None:
    source = [TimedEvent(0.0, ThinkingDelta("hm")), TimedEvent(0.01, TextDelta("A")), TimedEvent(0.02, END)]
    assert run_strategy("batch:100ms", source)[1] == TimedEvent(0.01, TextDelta("A"))


def test_batch_strategy_after_pause_delivers_at_once() -> None:
    source = [TimedEvent(0.0, TextDelta("a")), TimedEvent(5.0, TextDelta("b")), TimedEvent(9.0, END)]
    assert run_strategy("batch:100ms", source)[1] == TimedEvent(5.0, TextDelta("b"))


def test_debounce_strategy_waits_for_silence() -> None:
    source = [TimedEvent(0.0, TextDelta("a")), TimedEvent(0.05, TextDelta("b")), TimedEvent(3.0, END)]
    assert run_strategy("debounce:100ms", source) == [TimedEvent(pytest.approx(0.15), TextDelta("ab")), source[-1]]  # type: ignore[arg-type] # approx stands for a float


def test_debounce_strategy_delivers_after_ten_intervals() -> None:
    times = [t.at_s for t in run_strategy("debounce:100ms", steady_events(200)) if isinstance(t.event, TextDelta)]
    assert times[0] == pytest.approx(1.2)
    assert max(b - a for a, b in pairwise(times)) <= 1.02 + 1e-9


def test_pace_strategy_keeps_speed_for_slow_text() -> None:
    source = [TimedEvent(i * 0.5, TextDelta("word word word ")) for i in range(6)]
    delivered = run_strategy("pace:30tps", [*source, TimedEvent(3.0, END)])
    times = [t.at_s for t in delivered if isinstance(t.event, TextDelta)]
    assert join_text(delivered) == join_text(source)
    assert times[1] - times[0] == pytest.approx(5 / 120)


def test_pace_strategy_releases_at_word_ends() -> None:
    source = [TimedEvent(i * 0.01, TextDelta(c)) for i, c in enumerate("one two three four ")]
    delivered = run_strategy("pace:30tps", [*source, TimedEvent(1.0, END)])
    assert all(t.event.text.endswith(" ") for t in delivered if isinstance(t.event, TextDelta))


def test_pace_strategy_spreads_burst_evenly_within_limit() -> None:
    delivered = run_strategy("pace:30tps", [TimedEvent(0.0, TextDelta("word " * 400)), TimedEvent(0.0, END)])
    times = [t.at_s for t in delivered if isinstance(t.event, TextDelta)]
    assert len(times) > 300
    assert 1.0 < times[-1] <= 2.0
    assert max(b - a for a, b in pairwise(times)) < 0.05


def test_pace_strategy_releases_unspaced_scripts() -> None:
    source = [TimedEvent(i * 0.1, TextDelta("日本語")) for i in range(5)]
    delivered = run_strategy("pace:30tps", [*source, TimedEvent(9.0, END)])
    assert len([t for t in delivered if isinstance(t.event, TextDelta)]) >= 5


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("batch", "batch:100ms"),
        ("batch:0.2s", "batch:200ms"),
        ("BATCH:50", "batch:50ms"),
        ("batch:", "batch:100ms"),
        ("debounce", "debounce:100ms"),
        ("pace", "pace:30tps"),
        ("pace:12.5", "pace:12.5tps"),
        ("direct", "direct"),
        (" whole ", "whole"),
    ],
)
def test_strategy_spec_has_canonical_name(written: str, canonical: str) -> None:
    assert str(strategies.parse(written)) == canonical


@pytest.mark.parametrize(
    "bad",
    ["", "bacth", "batch:x", "batch:0ms", "batch:nan", "batch:1e9s", "pace:0", "direct:5ms", "batch:-1", "pace:30ms"],
)
def test_invalid_strategy_name_is_rejected_with_advice(bad: str) -> None:
    with pytest.raises(UsageError, match=r"choose one of|needs a number|out of range"):
        strategies.parse(bad)


def test_strategy_spec_builds_new_instances() -> None:
    name = strategies.parse("batch")
    assert name.build() is not name.build()
    assert math.isinf(strategies.parse("whole").build().max_hold_s)
