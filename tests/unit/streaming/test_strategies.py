"""The laws of delivery over every strategy, and what each one promises on its own."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
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
    Timed,
    Usage,
)
from streaming.replay import replay

NAMES = [*strategies.EXAMPLES, "batch:30ms", "debounce:7ms", "pace:2tps", "pace:500tps"]
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
def streams(draw: st.DrawFn) -> list[Timed]:
    at_s = draw(st.floats(0, 1e6))
    timed = []
    for event in draw(st.lists(events, max_size=30)):
        at_s += draw(gaps)
        timed.append(Timed(at_s, event))
    end = END if draw(st.booleans()) else Failed("network", "lost")
    return [*timed, Timed(at_s + draw(gaps), end)]


def run(name: str, source: list[Timed]) -> list[Timed]:
    return list(replay(source, strategies.parse(name).make()))


def text(timed: list[Timed], kind: type[TextDelta] | type[ThinkingDelta] = TextDelta) -> str:
    return "".join(t.event.text for t in timed if isinstance(t.event, kind))


def char_times(timed: list[Timed]) -> list[float]:
    return [t.at_s for t in timed if isinstance(t.event, (TextDelta, ThinkingDelta)) for _ in t.event.text]


def content(timed: list[Timed]) -> list[tuple[type, str]]:
    return [(type(t.event), c) for t in timed if isinstance(t.event, (TextDelta, ThinkingDelta)) for c in t.event.text]


@pytest.mark.parametrize("name", NAMES)
@given(streams())
def test_text_is_preserved_and_in_order(name: str, source: list[Timed]) -> None:
    assert content(run(name, source)) == content(source)


@pytest.mark.parametrize("name", NAMES)
@given(streams())
def test_the_grammar_holds(name: str, source: list[Timed]) -> None:
    grammar = Grammar()
    delivered = run(name, source)
    for timed in delivered:
        grammar.feed(timed.event)
    grammar.end()
    assert delivered[-1].event == source[-1].event
    assert all(a.at_s <= b.at_s for a, b in pairwise(delivered))


@pytest.mark.parametrize("name", NAMES)
@given(streams())
def test_nothing_leaves_early_or_is_held_longer_than_declared(name: str, source: list[Timed]) -> None:
    limit_s = strategies.parse(name).make().max_hold_s
    for arrived_s, left_s in zip(char_times(source), char_times(run(name, source)), strict=True):
        assert arrived_s <= left_s <= arrived_s + limit_s + 1e-6


@pytest.mark.parametrize("name", NAMES)
@given(streams())
def test_notices_and_usage_pass_at_once(name: str, source: list[Timed]) -> None:
    def passing(timed: list[Timed]) -> list[Timed]:
        return [t for t in timed if isinstance(t.event, (Notice, Usage))]

    assert passing(run(name, source)) == passing(source)


def steady(count: int, gap_s: float = 0.02, word: str = "word ") -> list[Timed]:
    deltas = [Timed(0.2 + i * gap_s, TextDelta(word)) for i in range(count)]
    return [*deltas, Timed(deltas[-1].at_s, END)]


def test_direct_is_the_identity() -> None:
    source = steady(50)
    assert run("direct", source) == source


def test_whole_waits_for_the_end() -> None:
    source = steady(50)
    assert run("whole", source) == [Timed(source[-1].at_s, TextDelta("word " * 50)), source[-1]]


def test_whole_gives_what_arrived_before_a_failure() -> None:
    failed = Timed(0.3, Failed("truncated", "cut"))
    assert run("whole", [Timed(0.2, TextDelta("a")), failed]) == [Timed(0.3, TextDelta("a")), failed]


def test_batch_gives_the_first_text_at_once_then_one_update_an_interval_then_the_rest() -> None:
    delivered = run("batch:100ms", steady(64))
    times = [t.at_s for t in delivered if isinstance(t.event, TextDelta)]
    assert times[0] == 0.2
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(times[:-1]))
    for start in times:
        assert sum(start <= t < start + 1 for t in times) <= 11
    assert isinstance(delivered[-1].event, Finish)


def test_batch_shows_the_first_answer_text_at_once_after_thinking() -> None:
    source = [Timed(0.0, ThinkingDelta("hm")), Timed(0.01, TextDelta("A")), Timed(0.02, END)]
    assert run("batch:100ms", source)[1] == Timed(0.01, TextDelta("A"))


def test_batch_after_a_pause_waits_no_longer() -> None:
    source = [Timed(0.0, TextDelta("a")), Timed(5.0, TextDelta("b")), Timed(9.0, END)]
    assert run("batch:100ms", source)[1] == Timed(5.0, TextDelta("b"))


def test_debounce_waits_for_silence() -> None:
    source = [Timed(0.0, TextDelta("a")), Timed(0.05, TextDelta("b")), Timed(3.0, END)]
    assert run("debounce:100ms", source) == [Timed(pytest.approx(0.15), TextDelta("ab")), source[-1]]  # type: ignore[arg-type] # approx stands for a float


def test_debounce_gives_in_after_ten_times_its_wait() -> None:
    times = [t.at_s for t in run("debounce:100ms", steady(200)) if isinstance(t.event, TextDelta)]
    assert times[0] == pytest.approx(1.2)
    assert max(b - a for a, b in pairwise(times)) <= 1.02 + 1e-9


def test_pace_keeps_its_speed_when_text_comes_slowly_enough() -> None:
    source = [Timed(i * 0.5, TextDelta("word word word ")) for i in range(6)]
    delivered = run("pace:30tps", [*source, Timed(3.0, END)])
    times = [t.at_s for t in delivered if isinstance(t.event, TextDelta)]
    assert text(delivered) == text(source)
    assert times[1] - times[0] == pytest.approx(5 / 120)


def test_pace_releases_at_word_ends() -> None:
    source = [Timed(i * 0.01, TextDelta(c)) for i, c in enumerate("one two three four ")]
    delivered = run("pace:30tps", [*source, Timed(1.0, END)])
    assert all(t.event.text.endswith(" ") for t in delivered if isinstance(t.event, TextDelta))


def test_pace_spreads_a_whole_answer_evenly_within_its_limit() -> None:
    delivered = run("pace:30tps", [Timed(0.0, TextDelta("word " * 400)), Timed(0.0, END)])
    times = [t.at_s for t in delivered if isinstance(t.event, TextDelta)]
    assert len(times) > 300
    assert 1.0 < times[-1] <= 2.0
    assert max(b - a for a, b in pairwise(times)) < 0.05


def test_pace_does_not_wait_for_spaces_where_a_script_has_none() -> None:
    source = [Timed(i * 0.1, TextDelta("日本語")) for i in range(5)]
    delivered = run("pace:30tps", [*source, Timed(9.0, END)])
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
def test_names(written: str, canonical: str) -> None:
    assert str(strategies.parse(written)) == canonical


@pytest.mark.parametrize(
    "bad",
    ["", "bacth", "batch:x", "batch:0ms", "batch:nan", "batch:1e9s", "pace:0", "direct:5ms", "batch:-1", "pace:30ms"],
)
def test_bad_names_say_what_to_write(bad: str) -> None:
    with pytest.raises(UsageError, match=r"choose one of|needs a number|out of range"):
        strategies.parse(bad)


def test_each_answer_gets_a_machine_of_its_own() -> None:
    name = strategies.parse("batch")
    assert name.make() is not name.make()
    assert math.isinf(strategies.parse("whole").make().max_hold_s)
