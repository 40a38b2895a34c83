"""Diagrams of a received stream under several strategies: chunks received, buffer, UI updates. No I/O.

They are computed: each strategy receives the chunks again at the timestamps at which they arrived, as `Pane` counts
them for the measured panes above.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from streaming import strategies
from streaming.events import TextDelta, TimedEvent
from ui import strings
from ui.pipeline.panes import Pane, PaneStats, replay_pane

_WIDTH, _HEIGHT = 1000, 20
"""The coordinates of a row; the browser stretches it to the width that there is."""
_SHOWN_S = 1.6
"""Length of the drawn part from the first chunk on, in seconds; a longer part would be unreadable."""
_TICKS_S = (0.0, 0.4, 0.8, 1.2, 1.6)


def diagram_strategies(interval_s: float) -> list[str]:
    """Return the names of the strategies to draw: those without an argument, and those with the interval."""
    kinds = strategies.STRATEGIES.values()
    return [with_interval(kind, interval_s * 1000) for kind in kinds if kind.argument in (None, strategies.INTERVAL)]


def with_interval(kind: strategies.StrategyKind, interval_ms: float) -> str:
    """Return a strategy's full name: with the interval if it takes one, else with its default argument."""
    return f"{kind.name}:{interval_ms:g}ms" if kind.argument is strategies.INTERVAL else kind.example


def buffering_html(
    events: Sequence[TimedEvent], interval_s: float, measured: Mapping[str, PaneStats] | None = None
) -> str:
    """Render one diagram for each strategy; empty if the stream has no text.

    `measured` are the metrics of the panes by the full name of their strategy, to stand beside the computed ones.
    """
    if not any(isinstance(timed.event, TextDelta) for timed in events):
        return ""
    drawn = "".join(
        _render_diagram(events, name, (measured or {}).get(name)) for name in diagram_strategies(interval_s)
    )
    return f'<p class="sg-note">{escape(strings.PICTURES_NOTE)}</p><div class="sg-pictures">{drawn}</div>'


def describe_stats(stats: PaneStats) -> str:
    """Return updates, bytes and delays in words."""
    one, many = strings.UPDATES
    return strings.PICTURE.format(
        updates=one if stats.updates == 1 else many.format(count=stats.updates),
        sent=stats.sent_bytes / 1000,
        mean_ms=(stats.delay_mean_s or 0.0) * 1000,
        max_ms=(stats.delay_max_s or 0.0) * 1000,
    )


def _render_diagram(events: Sequence[TimedEvent], name: str, measured: PaneStats | None) -> str:
    pane = replay_pane(events, strategies.parse(name).build())
    title = strategies.STRATEGIES[name.partition(":")[0]].title
    lines = [(strings.COMPUTED, describe_stats(pane.stats()))]
    if measured is not None:
        lines.append((strings.MEASURED, describe_stats(measured)))
    words = "".join(f"<br><b>{escape(label)}</b> {escape(text)}" for label, text in lines)
    label = f"{title}: {describe_stats(pane.stats())}"
    caption = f"<strong>{escape(title)}</strong> <code>{escape(name)}</code>{words}"
    lanes = f'<div class="sg-lanes" role="img" aria-label="{escape(label)}">{_render_lanes(pane)}</div>'
    return f'<figure class="sg-picture"><figcaption>{caption}</figcaption>{lanes}</figure>'


def _render_lanes(pane: Pane) -> str:
    start_s = pane.arrived[0][0]
    drawings = {
        "in": _render_ticks("sg-in", (at_s - start_s for at_s, _ in pane.arrived)),
        "buffer": "".join(
            _render_hold(arrived_s - start_s, released_s - start_s) for arrived_s, released_s, _ in pane.holds
        ),
        "out": _render_ticks("sg-out", (at_s - start_s for at_s, _ in pane.released)),
    }
    lanes = "".join(
        f'<span>{escape(strings.ROWS[row])}</span><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none">'
        f"{drawing}</svg>"
        for row, drawing in drawings.items()
    )
    ticks = "".join(f'<i style="left:{at_s / _SHOWN_S:.2%}">{at_s:g} s</i>' for at_s in _TICKS_S)
    return f'{lanes}<span>{escape(strings.AXIS_FIRST_CHUNK)}</span><div class="sg-axis">{ticks}</div>'


def _to_x(at_s: float) -> float:
    return min(max(at_s / _SHOWN_S, 0.0), 1.0) * _WIDTH


def _render_ticks(kind: str, times_s: Iterator[float]) -> str:
    return "".join(f'<path class="{kind}" d="M{_to_x(at_s):.1f} 1v18"/>' for at_s in times_s if at_s <= _SHOWN_S)


def _render_hold(arrived_s: float, released_s: float) -> str:
    """Render the time for which characters were held; nothing beyond the drawn part."""
    if arrived_s > _SHOWN_S:
        return ""
    x = _to_x(arrived_s)
    return f'<rect class="sg-held" x="{x:.1f}" y="4" width="{max(_to_x(released_s) - x, 0.6):.1f}" height="12"/>'
