"""Tests of the state diagram."""

import re
from typing import get_args
from xml.etree import ElementTree

import pytest

from streaming.retry import TRANSITIONS, State
from ui import strings
from ui.pipeline.diagram_layouts import LANDSCAPE, PORTRAIT, DiagramLayout
from ui.pipeline.state_diagram import Passage, state_diagram_html

PAIRS = {(before, after) for (before, _), after in TRANSITIONS.items() if before != after}


def draw(*states: State, layout: DiagramLayout = LANDSCAPE) -> str:
    drawn = state_diagram_html([Passage(state) for state in states])
    found = re.search(rf'<svg class="sg-machine sg-{layout.name}".*?</svg>', drawn)
    assert found
    return found[0]


@pytest.mark.parametrize("state", get_args(State))
def test_diagram_marks_only_present_state(state: State) -> None:
    drawn = draw("idle", state)
    ElementTree.fromstring(f"<div>{drawn}</div>")
    present = re.findall(r'<g class="sg-present sg-at-(\w+)">.*?<text[^>]*>([^<]+)</text>', drawn)
    assert present == [(state, strings.STATES[state])]


@pytest.mark.parametrize("layout", [LANDSCAPE, PORTRAIT])
def test_diagram_has_one_arrow_and_one_reason_per_transition(layout: DiagramLayout) -> None:
    drawn = draw("idle", layout=layout)
    assert drawn.count("marker-end") == len(PAIRS)
    reasons = re.findall(r'class="sg-reason"[^>]*>([^<]+)<', drawn)
    assert sorted(reasons) == sorted(strings.TRANSITIONS[pair] for pair in PAIRS)


@pytest.mark.parametrize("layout", [LANDSCAPE, PORTRAIT])
def test_diagram_lines_are_horizontal_or_vertical(layout: DiagramLayout) -> None:
    paths = re.findall(r'<path d="(M[^"]+)" marker-end', draw("idle", layout=layout))
    assert len(paths) == len(PAIRS)
    assert all(re.fullmatch(r"M\d+ \d+([HV]\d+)+", path) for path in paths)


def test_diagram_highlights_visited_states() -> None:
    drawn = draw("idle", "streaming", "succeeded")
    assert drawn.count('class="sg-taken"') == 2
    assert drawn.count('class="sg-visited"') == 2


def test_diagram_highlights_only_taken_direction() -> None:
    there = draw("idle", "streaming", "retrying")
    and_back = draw("idle", "streaming", "retrying", "streaming")
    assert [there.count('class="sg-taken"'), and_back.count('class="sg-taken"')] == [2, 3]


def test_diagram_marks_way_to_failure_as_failed() -> None:
    drawn = draw("idle", "streaming", "failed")
    assert drawn.count('class="sg-taken sg-to-failed"') == 1 and "sg-present sg-at-failed" in drawn
    assert "sg-to-failed" not in draw("idle", "streaming", "succeeded")


def test_passages_have_their_reasons_in_order() -> None:
    drawn = state_diagram_html([Passage("idle"), Passage("streaming"), Passage("retrying", "a <b> & c")])
    items = re.findall(r"<li class=\"sg-at-(\w+)\"><strong>\w+</strong>([^<]*)</li>", drawn)
    assert items == [("idle", ""), ("streaming", ""), ("retrying", " a &lt;b&gt; &amp; c")]
