"""Tests of the state diagram."""

import re
from typing import get_args
from xml.etree import ElementTree

import pytest

from streaming.retry import TRANSITIONS, State
from ui import strings
from ui.pipeline import state_diagram


@pytest.mark.parametrize("state", get_args(State))
def test_diagram_marks_only_present_state(state: State) -> None:
    drawn = state_diagram.state_diagram_svg(["idle", state])
    ElementTree.fromstring(drawn)
    present = re.findall(r'<g class="sg-present">.*?<text[^>]*>([^<]+)</text>', drawn)
    assert present == [strings.STATES[state]]


def test_diagram_has_one_arrow_per_transition() -> None:
    pairs = {(before, after) for (before, _), after in TRANSITIONS.items() if before != after}
    assert state_diagram.state_diagram_svg(["idle"]).count("marker-end") == len(pairs)


def test_diagram_highlights_visited_states() -> None:
    drawn = state_diagram.state_diagram_svg(["idle", "streaming", "succeeded"])
    assert drawn.count('class="sg-taken"') == 2
    assert drawn.count('class="sg-visited"') == 2


def test_diagram_highlights_only_taken_direction() -> None:
    there = state_diagram.state_diagram_svg(["idle", "streaming", "retrying"])
    and_back = state_diagram.state_diagram_svg(["idle", "streaming", "retrying", "streaming"])
    assert [there.count('class="sg-taken"'), and_back.count('class="sg-taken"')] == [2, 3]
