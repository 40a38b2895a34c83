"""Four pictures of buffering, drawn from a stream that was really received: chunks in, buffer, updates out. Pure.

Each strategy gets the recorded events by `streaming.replay`, which gives the same as live delivery.
"""

from collections.abc import Iterator, Sequence
from html import escape

from streaming import strategies
from streaming.events import TextDelta, Timed
from streaming.replay import replay
from streaming.strategies import Strategy
from ui import texts
from ui.sides import update_bytes

_WIDTH, _LEFT = 560, 84
_ROWS = {"in": 16, "buffer": 42, "out": 68}
_SHOWN_S = 1.6
"""So much of the stream is drawn, from its first chunk on: more would be a grey band."""


def names(interval_s: float) -> tuple[str, str, str, str]:
    """Give the four strategies that are drawn, at an interval."""
    written = f"{interval_s * 1000:g}ms"
    return "direct", f"debounce:{written}", f"batch:{written}", "whole"


def pictures(events: Sequence[Timed], interval_s: float) -> str:
    """Draw what each of the four strategies makes of a stream; empty before any text has come."""
    if not any(isinstance(timed.event, TextDelta) for timed in events):
        return ""
    drawn = "".join(_figure(events, strategies.parse(name).make()) for name in names(interval_s))
    return f'<div class="sg-pictures">{drawn}</div>'


def _figure(events: Sequence[Timed], strategy: Strategy) -> str:
    arrived = _texts(events)
    released = _texts(replay(events, strategy))
    holds = list(_held(arrived, released))
    chars = sum(count for _, count in arrived)
    mean_s = sum((out_s - in_s) * count for in_s, out_s, count in holds) / chars
    sent = sum(update_bytes("x" * count) for _, count in released)
    words = texts.PICTURE.format(chunks=len(arrived), updates=len(released), sent=sent / 1000, delay_ms=mean_s * 1000)
    title = texts.PICTURES.get(strategy.name.partition(":")[0], strategy.name)
    return (
        f'<figure class="sg-picture"><figcaption><strong>{escape(title)}</strong> <code>{escape(strategy.name)}</code>'
        f"<br>{escape(words)}</figcaption>{_svg(arrived, released, holds, f'{title}: {words}')}</figure>"
    )


def _texts(events: "Sequence[Timed] | Iterator[Timed]") -> list[tuple[float, int]]:
    return [(timed.at_s, len(timed.event.text)) for timed in events if isinstance(timed.event, TextDelta)]


def _held(arrived: list[tuple[float, int]], released: list[tuple[float, int]]) -> Iterator[tuple[float, float, int]]:
    """Give runs of characters with the moments of their arrival and of their going on."""
    left = iter(released)
    out_s, room = next(left, (0.0, 0))
    for in_s, count in arrived:
        while count and room:
            taken = min(count, room)
            yield in_s, out_s, taken
            count, room = count - taken, room - taken
            if not room:
                out_s, room = next(left, (0.0, 0))


def _svg(
    arrived: list[tuple[float, int]],
    released: list[tuple[float, int]],
    holds: list[tuple[float, float, int]],
    label: str,
) -> str:
    start_s = arrived[0][0]

    def x(at_s: float) -> float:
        return _LEFT + min((at_s - start_s) / _SHOWN_S, 1.0) * (_WIDTH - _LEFT - 8)

    end_s = start_s + _SHOWN_S
    ticks = "".join(_tick("sg-in", x(at_s), "in") for at_s, _ in arrived if at_s <= end_s)
    ticks += "".join(_tick("sg-out", x(at_s), "out") for at_s, _ in released if at_s <= end_s)
    bars = "".join(
        f'<rect class="sg-held" x="{x(in_s):.1f}" y="{_ROWS["buffer"] - 5}" width="{max(x(out_s) - x(in_s), 0.6):.1f}" '
        'height="10"/>'
        for in_s, out_s, _ in holds
        if in_s <= end_s
    )
    rows = "".join(f'<text x="0" y="{y + 4}">{escape(texts.ROWS[row])}</text>' for row, y in _ROWS.items())
    return f'<svg viewBox="0 0 {_WIDTH} 84" role="img" aria-label="{escape(label)}">{rows}{bars}{ticks}</svg>'


def _tick(kind: str, x: float, row: str) -> str:
    return f'<path class="{kind}" d="M{x:.1f} {_ROWS[row] - 8}v16"/>'
