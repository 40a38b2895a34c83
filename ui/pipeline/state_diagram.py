"""The state machine of an answer as an SVG diagram: all transitions, with the current state marked. No I/O."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from streaming.retry import TRANSITIONS, State
from ui import strings

_WIDTH, _HEIGHT = 720, 250
_BOX_SIZE = (112, 38)
_STATE_POSITIONS: dict[State, tuple[int, int]] = {
    "idle": (70, 60),
    "streaming": (255, 60),
    "retrying": (450, 60),
    "fallback": (255, 190),
    "succeeded": (70, 190),
    "failed": (450, 190),
    "cancelled": (640, 125),
}
_ARROW_MARKER = (
    '<defs><marker id="sg-tip" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" markerWidth="9" '
    'markerHeight="9" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z"/></marker></defs>'
)


def state_diagram_svg(visited: Sequence[State]) -> str:
    """Render the state machine; `visited` are the answer's states in order, the current one last."""
    state, taken = visited[-1], {*pairwise(visited)}
    pairs = {(before, after): None for (before, _), after in TRANSITIONS.items() if before != after}
    lines = "".join(_render_arrow(before, after, (before, after) in taken) for before, after in pairs)
    boxes = "".join(_render_state(name, name == state, name in visited) for name in _STATE_POSITIONS)
    label = strings.MACHINE_LABEL.format(state=strings.STATES[state])
    return (
        f'<svg class="sg-machine" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}" '
        f'data-state="{state}">{_ARROW_MARKER}{lines}{boxes}</svg>'
    )


def _render_state(name: State, present: bool, visited: bool) -> str:
    x, y = _STATE_POSITIONS[name]
    width, height = _BOX_SIZE
    kind = "sg-present" if present else "sg-visited" if visited else "sg-never"
    left, top = x - width / 2, y - height / 2
    return (
        f'<g class="{kind}"><rect x="{left:g}" y="{top:g}" width="{width}" height="{height}" rx="9"/>'
        f'<text x="{x}" y="{y + 5}" text-anchor="middle">{escape(strings.STATES[name])}</text></g>'
    )


def _render_arrow(before: State, after: State, taken: bool) -> str:
    """Render an arrow between two boxes, curved so that opposite arrows do not overlap."""
    (x1, y1), (x2, y2) = _STATE_POSITIONS[before], _STATE_POSITIONS[after]
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    along, across = ((x2 - x1) / length, (y2 - y1) / length), (-(y2 - y1) / length, (x2 - x1) / length)
    start, end = _border_point(x1, y1, along), _border_point(x2, y2, (-along[0], -along[1]))
    shift = 7
    points = [(x + across[0] * shift, y + across[1] * shift) for x, y in (start, end)]
    middle = tuple(sum(axis) / 2 + across[i] * 12 for i, axis in enumerate(zip(*points, strict=True)))
    path = (
        f"M{points[0][0]:.0f} {points[0][1]:.0f}Q{middle[0]:.0f} {middle[1]:.0f} {points[1][0]:.0f} {points[1][1]:.0f}"
    )
    return f'<path class="{"sg-taken" if taken else "sg-possible"}" d="{path}" marker-end="url(#sg-tip)"/>'


def _border_point(x: float, y: float, towards: tuple[float, float]) -> tuple[float, float]:
    width, height = _BOX_SIZE[0] / 2 + 3, _BOX_SIZE[1] / 2 + 3
    scale = min(width / abs(towards[0]) if towards[0] else 1e9, height / abs(towards[1]) if towards[1] else 1e9)
    return x + towards[0] * scale, y + towards[1] * scale
