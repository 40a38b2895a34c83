"""The state machine of an answer as a diagram: all transitions with their reasons, the current state marked. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from streaming.retry import TRANSITIONS, State
from ui import strings
from ui.pipeline.diagram_layouts import LANDSCAPE, PORTRAIT, DiagramLayout, Label


@dataclass(frozen=True, slots=True)
class Passage:
    """A state that an answer has entered, and why, in words; the reason is empty where the diagram says it."""

    state: State
    reason: str = ""


def state_diagram_html(passages: Sequence[Passage]) -> str:
    """Render the state machine, and below it the states of the answer in order, the current one last.

    The machine is drawn in two layouts; the style sheet shows the one that fits the window.
    """
    visited = [passage.state for passage in passages]
    machines = "".join(_render_machine(layout, visited) for layout in (LANDSCAPE, PORTRAIT))
    return f"{machines}{_render_passages(passages)}"


def _render_machine(layout: DiagramLayout, visited: Sequence[State]) -> str:
    state, taken = visited[-1], {*pairwise(visited)}
    pairs = {(before, after): None for (before, _), after in TRANSITIONS.items() if before != after}
    # Those that were taken are drawn last, over those that share a part of their way.
    ordered = sorted(pairs, key=lambda pair: pair in taken)
    lines = "".join(_render_edge(layout, before, after, taken=(before, after) in taken) for before, after in ordered)
    boxes = "".join(
        _render_state(layout, name, present=name == state, visited=name in visited) for name in layout.boxes
    )
    label = strings.MACHINE_LABEL.format(state=strings.STATES[state])
    return (
        f'<svg class="sg-machine sg-{layout.name}" viewBox="0 0 {layout.width} {layout.height}" role="img" '
        f'aria-label="{escape(label)}" data-state="{state}"><defs>{_render_tips(layout)}</defs>{lines}{boxes}</svg>'
    )


def _render_tips(layout: DiagramLayout) -> str:
    """Render the tips of the arrows. Those of a diagram that is not shown could not be used by the other one."""
    return "".join(
        f'<marker id="sg-tip-{layout.name}{kind}" class="sg-tip{kind}" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerUnits="userSpaceOnUse" markerWidth="9" markerHeight="9" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
        for kind in ("", "-taken", "-failed")
    )


def _render_state(layout: DiagramLayout, name: State, *, present: bool, visited: bool) -> str:
    left, top, width, height = layout.boxes[name]
    kind = f"sg-present sg-at-{name}" if present else "sg-visited" if visited else "sg-never"
    return (
        f'<g class="{kind}"><rect x="{left}" y="{top}" width="{width}" height="{height}" rx="9"/>'
        f'<text x="{left + width // 2}" y="{top + height // 2 + 5}" text-anchor="middle">'
        f"{escape(strings.STATES[name])}</text></g>"
    )


def _render_edge(layout: DiagramLayout, before: State, after: State, *, taken: bool) -> str:
    """Render the arrow between two boxes with its reason."""
    if after in layout.endings:
        left, top, width, height = layout.boxes[before]
        port, rail_x, end_y, end_x = layout.endings[after]
        x, y = left + width, top + height // 2 + port
        path, label = f"M{x} {y}H{rail_x}V{end_y}H{end_x}", Label(x + 8, y - 5)
    else:
        path, label = layout.paths[before, after], layout.labels[before, after]
    kind = "sg-possible" if not taken else "sg-taken sg-to-failed" if after == "failed" else "sg-taken"
    tip = "" if not taken else "-failed" if after == "failed" else "-taken"
    return (
        f'<g class="{kind}"><path d="{path}" marker-end="url(#sg-tip-{layout.name}{tip})"/>'
        f"{_render_label(label, strings.TRANSITIONS[before, after])}</g>"
    )


def _render_label(label: Label, text: str) -> str:
    turned = f' transform="rotate(-90 {label.x} {label.y})"' if label.is_upright else ""
    place = f'x="{label.x}" y="{label.y}" text-anchor="{label.anchor}"{turned}'
    return f'<text class="sg-reason" {place}>{escape(text)}</text>'


def _render_passages(passages: Sequence[Passage]) -> str:
    items = "".join(
        f'<li class="sg-at-{passage.state}"><strong>{escape(strings.STATES[passage.state])}</strong>'
        f"{f' {escape(passage.reason)}' if passage.reason else ''}</li>"
        for passage in passages
    )
    return f'<ol class="sg-passages">{items}</ol>'
