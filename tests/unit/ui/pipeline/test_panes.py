"""Tests of one stream under several strategies: metrics of the panes, and buffering diagrams."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from streaming import strategies
from streaming.events import Finish, TextDelta, TimedEvent
from streaming.replay import replay
from ui.pipeline import buffering_diagram
from ui.pipeline.panes import Pane, PaneStats, gradio_update_size, replay_pane

STREAM = [*(TimedEvent(i * 0.02, TextDelta("word ")) for i in range(50)), TimedEvent(1.0, Finish("stop"))]


def feed_pane(name: str, events: list[TimedEvent] = STREAM) -> Pane:
    return replay_pane(events, strategies.parse(name).build())


def test_pane_delivers_same_as_replay() -> None:
    for name in (*strategies.EXAMPLES, "debounce:30ms"):
        expected = [
            (timed.at_s, len(timed.event.text))
            for timed in replay(STREAM, strategies.parse(name).build())
            if isinstance(timed.event, TextDelta)
        ]
        side = feed_pane(name)
        assert side.released == expected and side.ended
        assert side.text == "word " * 50


def test_pane_stats_trade_updates_for_delay() -> None:
    direct, batch, whole = (feed_pane(name).stats() for name in ("direct", "batch:100ms", "whole"))
    assert (direct.chunks, direct.updates) == (50, 50) and (direct.delay_mean_s, direct.delay_max_s) == (0.0, 0.0)
    assert whole.updates == 1 and whole.delay_max_s == 1.0
    assert direct.sent_bytes > 3 * batch.sent_bytes > 3 * whole.sent_bytes
    assert batch.delay_mean_s is not None and batch.delay_max_s is not None
    assert 0 < batch.delay_mean_s < batch.delay_max_s <= 0.1 + 1e-9


def test_pane_stats_before_text_have_unknown_delay() -> None:
    tally = Pane(strategies.parse("direct").build()).stats()
    assert (tally.chunks, tally.updates, tally.sent_bytes) == (0, 0, 0)
    assert tally.delay_mean_s is None and tally.delay_max_s is None


@given(some.text(max_size=50))
def test_gradio_update_size_grows_with_text(text: str) -> None:
    assert gradio_update_size(text) >= gradio_update_size("") + len(text)


def test_pane_holds_join_arrivals_to_releases() -> None:
    pane = feed_pane("batch:100ms")
    assert sum(chars for _, _, chars in pane.holds) == len(pane.text)
    assert {arrived_s for arrived_s, _, _ in pane.holds} == {at_s for at_s, _ in pane.arrived}
    assert {released_s for _, released_s, _ in pane.holds} == {at_s for at_s, _ in pane.released}


def test_buffering_diagrams_are_of_strategies_without_argument_or_with_interval() -> None:
    drawn = buffering_diagram.buffering_html(STREAM, 0.05)
    names = re.findall(r"<code>([^<]+)</code>", drawn)
    assert names == buffering_diagram.diagram_strategies(0.05) and "batch:50ms" in names and "pace:30tps" not in names
    assert drawn.count("<figure") == len(names) and drawn.count('class="sg-in"') == len(names) * 50
    ticks = re.findall(r'<i style="left:([\d.]+)%">([\d.]+) s</i>', drawn)
    assert len(ticks) == 5 * len(names) and all(
        float(left) / 100 * 1.6 == pytest.approx(float(at)) for left, at in ticks
    )


def test_buffering_diagrams_state_computed_metrics_of_each_strategy() -> None:
    drawn = buffering_diagram.buffering_html(STREAM, 0.1)
    result = re.findall(r"<code>([^<]+)</code><br><b>Computed</b> (\d+) updates? · [\d.]+ kB · delay mean (\d+)", drawn)
    updates = {name: int(count) for name, count, _ in result}
    delays = {name: int(ms) for name, _, ms in result}
    assert (updates["direct"], updates["batch:100ms"], updates["whole"]) == (50, 11, 1)
    assert updates["debounce:100ms"] == 1, "a stream that is never quiet for 100 ms is debounced to its limit"
    assert delays["direct"] == 0 < delays["batch:100ms"] < delays["whole"]


def test_buffering_diagram_puts_measured_beside_computed_metrics_of_same_strategy() -> None:
    measured = {"batch:100ms": PaneStats(50, 12, 4000, 0.061, 0.2)}
    drawn = buffering_diagram.buffering_html(STREAM, 0.1, measured)
    assert re.findall(r"<code>([^<]+)</code><br><b>Computed</b>[^<]*<br><b>Measured</b> ([^<]*)", drawn) == [
        ("batch:100ms", "12 updates · 4.0 kB · delay mean 61 ms, max 200 ms")
    ]


def test_buffering_diagrams_without_text_are_empty() -> None:
    assert buffering_diagram.buffering_html([TimedEvent(0.0, Finish("stop"))], 0.1) == ""
