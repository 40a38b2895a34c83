"""Diagrams of a received stream under several strategies: chunks in, buffer, updates out. No I/O.

Each strategy receives the recorded events from `streaming.replay`, whose output equals live delivery.
"""

from collections.abc import Iterator, Sequence
from html import escape

from streaming import strategies
from streaming.events import TextDelta, TimedEvent
from streaming.replay import replay
from streaming.strategies import Strategy
from ui import strings
from ui.pipeline.panes import gradio_update_size

_WIDTH, _LEFT = 560, 84
_ROW_Y = {"in": 16, "buffer": 42, "out": 68}
_SHOWN_S = 1.6
"""Length of the drawn part from the first chunk on, in seconds; a longer part would be unreadable."""


def diagram_strategies(interval_s: float) -> list[str]:
    """Return the names of the strategies to draw: those without an argument, and those with the interval."""
    kinds = strategies.STRATEGIES.values()
    return [with_interval(kind, interval_s * 1000) for kind in kinds if kind.argument in (None, strategies.INTERVAL)]


def with_interval(kind: strategies.StrategyKind, interval_ms: float) -> str:
    """Return a strategy's full name: with the interval if it takes one, else with its default argument."""
    return f"{kind.name}:{interval_ms:g}ms" if kind.argument is strategies.INTERVAL else kind.example


def buffering_svg(events: Sequence[TimedEvent], interval_s: float) -> str:
    """Render one diagram for each strategy; empty if the stream has no text."""
    if not any(isinstance(timed.event, TextDelta) for timed in events):
        return ""
    drawn = "".join(_render_diagram(events, strategies.parse(name).build()) for name in diagram_strategies(interval_s))
    return f'<div class="sg-pictures">{drawn}</div>'


def _render_diagram(events: Sequence[TimedEvent], strategy: Strategy) -> str:
    arrived = _text_sizes(events)
    released = _text_sizes(replay(events, strategy))
    holds = list(_match_held_runs(arrived, released))
    chars = sum(count for _, count in arrived)
    mean_s = sum((out_s - in_s) * count for in_s, out_s, count in holds) / chars
    sent = sum(gradio_update_size("x" * count) for _, count in released)
    words = strings.PICTURE.format(chunks=len(arrived), updates=len(released), sent=sent / 1000, delay_ms=mean_s * 1000)
    title = strategies.STRATEGIES[strategy.name.partition(":")[0]].title
    return (
        f'<figure class="sg-picture"><figcaption><strong>{escape(title)}</strong> <code>{escape(strategy.name)}</code>'
        f"<br>{escape(words)}</figcaption>{_render_svg(arrived, released, holds, f'{title}: {words}')}</figure>"
    )


def _text_sizes(events: "Sequence[TimedEvent] | Iterator[TimedEvent]") -> list[tuple[float, int]]:
    return [(timed.at_s, len(timed.event.text)) for timed in events if isinstance(timed.event, TextDelta)]


def _match_held_runs(
    arrived: list[tuple[float, int]], released: list[tuple[float, int]]
) -> Iterator[tuple[float, float, int]]:
    """Yield runs of characters as (arrival timestamp, release timestamp, number of characters)."""
    left = iter(released)
    out_s, room = next(left, (0.0, 0))
    for in_s, count in arrived:
        while count and room:
            taken = min(count, room)
            yield in_s, out_s, taken
            count, room = count - taken, room - taken
            if not room:
                out_s, room = next(left, (0.0, 0))


def _render_svg(
    arrived: list[tuple[float, int]],
    released: list[tuple[float, int]],
    holds: list[tuple[float, float, int]],
    label: str,
) -> str:
    start_s = arrived[0][0]

    def to_x(at_s: float) -> float:
        return _LEFT + min((at_s - start_s) / _SHOWN_S, 1.0) * (_WIDTH - _LEFT - 8)

    end_s = start_s + _SHOWN_S
    ticks = "".join(_render_tick("sg-in", to_x(at_s), "in") for at_s, _ in arrived if at_s <= end_s)
    ticks += "".join(_render_tick("sg-out", to_x(at_s), "out") for at_s, _ in released if at_s <= end_s)
    bars = "".join(
        f'<rect class="sg-held" x="{to_x(in_s):.1f}" y="{_ROW_Y["buffer"] - 5}" '
        f'width="{max(to_x(out_s) - to_x(in_s), 0.6):.1f}" '
        'height="10"/>'
        for in_s, out_s, _ in holds
        if in_s <= end_s
    )
    rows = "".join(f'<text x="0" y="{y + 4}">{escape(strings.ROWS[row])}</text>' for row, y in _ROW_Y.items())
    return f'<svg viewBox="0 0 {_WIDTH} 84" role="img" aria-label="{escape(label)}">{rows}{bars}{ticks}</svg>'


def _render_tick(kind: str, x: float, row: str) -> str:
    return f'<path class="{kind}" d="M{x:.1f} {_ROW_Y[row] - 8}v16"/>'
