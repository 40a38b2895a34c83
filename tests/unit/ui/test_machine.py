"""The picture of the state machine."""

import re
from typing import get_args
from xml.etree import ElementTree

import pytest

from streaming.states import TRANSITIONS, State
from ui import machine, texts


@pytest.mark.parametrize("state", get_args(State))
def test_the_present_state_is_marked_and_no_other(state: State) -> None:
    drawn = machine.svg(["idle", state])
    ElementTree.fromstring(drawn)
    present = re.findall(r'<g class="sg-present">.*?<text[^>]*>([^<]+)</text>', drawn)
    assert present == [texts.STATES[state]]


def test_every_transition_of_the_table_has_its_arrow_and_there_is_no_other() -> None:
    pairs = {(before, after) for (before, _), after in TRANSITIONS.items() if before != after}
    assert machine.svg(["idle"]).count("marker-end") == len(pairs)


def test_what_was_gone_through_is_drawn_apart() -> None:
    drawn = machine.svg(["idle", "streaming", "succeeded"])
    assert drawn.count('class="sg-taken"') == 2
    assert drawn.count('class="sg-visited"') == 2


def test_only_the_direction_that_was_taken_is_marked() -> None:
    there = machine.svg(["idle", "streaming", "retrying"])
    and_back = machine.svg(["idle", "streaming", "retrying", "streaming"])
    assert [there.count('class="sg-taken"'), and_back.count('class="sg-taken"')] == [2, 3]
