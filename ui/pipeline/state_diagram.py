"""The state machine of an answer as a diagram: all transitions with their reasons, the current state marked. No I/O.

Lines are straight. Those that end an answer share a rail for each ending, and lines cross at right angles only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from streaming.retry import TRANSITIONS, State
from ui import strings

_WIDTH, _HEIGHT = 900, 345
_BOXES: dict[State, tuple[int, int, int, int]] = {
    "idle": (10, 30, 100, 40),
    "streaming": (330, 15, 150, 70),
    "retrying": (330, 135, 150, 70),
    "fallback": (330, 255, 150, 70),
    "succeeded": (780, 8, 112, 40),
    "cancelled": (780, 150, 112, 40),
    "failed": (780, 292, 112, 40),
}
"""Left, top, width and height of each state's box."""
_ENDINGS: dict[State, tuple[int, int, int]] = {
    "succeeded": (-22, 660, 28),
    "cancelled": (0, 700, 170),
    "failed": (22, 740, 312),
}
"""For each ending: the height of its port at a box relative to the middle, the rail's x, and the height of its box."""
_INNER_PATHS: dict[tuple[State, State], str] = {
    ("idle", "streaming"): "M110 50H327",
    ("idle", "fallback"): "M60 70V312H327",
    ("streaming", "retrying"): "M375 85V132",
    ("retrying", "streaming"): "M435 135V88",
    ("retrying", "fallback"): "M375 205V252",
    ("fallback", "retrying"): "M435 255V208",
    ("streaming", "fallback"): "M330 72H300V268H327",
    ("fallback", "streaming"): "M330 290H180V28H327",
}
_INNER_LABELS: dict[tuple[State, State], tuple[int, int, str]] = {
    ("idle", "streaming"): (116, 44, "start"),
    ("idle", "fallback"): (66, 306, "start"),
    ("streaming", "retrying"): (488, 106, "start"),
    ("retrying", "streaming"): (488, 123, "start"),
    ("retrying", "fallback"): (488, 226, "start"),
    ("fallback", "retrying"): (488, 243, "start"),
    ("streaming", "fallback"): (294, 174, "end"),
    ("fallback", "streaming"): (174, 174, "end"),
}
"""Place and anchor of each reason; the reasons at the vertical arrows have an arrow of their own."""
_ARROW_MARKERS = "".join(
    f'<marker id="sg-tip{name}" class="sg-tip{name}" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" '
    'markerWidth="9" markerHeight="9" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
    for name in ("", "-taken", "-failed")
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A state that an answer has entered, and why, in words; the reason is empty where the diagram says it."""

    state: State
    reason: str = ""


def state_diagram_html(passages: Sequence[Passage]) -> str:
    """Render the state machine, and below it the states of the answer in order, the current one last."""
    visited = [passage.state for passage in passages]
    state, taken = visited[-1], {*pairwise(visited)}
    pairs = {(before, after): None for (before, _), after in TRANSITIONS.items() if before != after}
    # Those that were taken are drawn last, over those that share a part of their way.
    ordered = sorted(pairs, key=lambda pair: pair in taken)
    lines = "".join(_render_edge(before, after, taken=(before, after) in taken) for before, after in ordered)
    boxes = "".join(_render_state(name, present=name == state, visited=name in visited) for name in _BOXES)
    label = strings.MACHINE_LABEL.format(state=strings.STATES[state])
    return (
        f'<div class="sg-wide" tabindex="0"><svg class="sg-machine" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}" data-state="{state}"><defs>{_ARROW_MARKERS}</defs>{lines}{boxes}</svg></div>'
        f"{_render_passages(passages)}"
    )


def _render_state(name: State, *, present: bool, visited: bool) -> str:
    left, top, width, height = _BOXES[name]
    kind = f"sg-present sg-at-{name}" if present else "sg-visited" if visited else "sg-never"
    return (
        f'<g class="{kind}"><rect x="{left}" y="{top}" width="{width}" height="{height}" rx="9"/>'
        f'<text x="{left + width // 2}" y="{top + height // 2 + 5}" text-anchor="middle">'
        f"{escape(strings.STATES[name])}</text></g>"
    )


def _render_edge(before: State, after: State, *, taken: bool) -> str:
    """Render the arrow between two boxes with its reason."""
    if after in _ENDINGS:
        _, top, _, height = _BOXES[before]
        port, rail_x, end_y = _ENDINGS[after]
        left, y = _BOXES[before][0] + _BOXES[before][2], top + height // 2 + port
        path = f"M{left} {y}H{rail_x}V{end_y}H{_BOXES[after][0] - 3}"
        x, label_y, anchor = left + 8, y - 5, "start"
    else:
        path, (x, label_y, anchor) = _INNER_PATHS[before, after], _INNER_LABELS[before, after]
    kind = "sg-possible" if not taken else "sg-taken sg-to-failed" if after == "failed" else "sg-taken"
    tip = "" if not taken else "-failed" if after == "failed" else "-taken"
    return (
        f'<g class="{kind}"><path d="{path}" marker-end="url(#sg-tip{tip})"/>'
        f'<text class="sg-reason" x="{x}" y="{label_y}" text-anchor="{anchor}">'
        f"{escape(strings.TRANSITIONS[before, after])}</text></g>"
    )


def _render_passages(passages: Sequence[Passage]) -> str:
    items = "".join(
        f'<li class="sg-at-{passage.state}"><strong>{escape(strings.STATES[passage.state])}</strong>'
        f"{f' {escape(passage.reason)}' if passage.reason else ''}</li>"
        for passage in passages
    )
    return f'<ol class="sg-passages">{items}</ol>'
