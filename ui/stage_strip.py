"""The stages of one answer with the time that each took, and its figures as numbers that the browser fills in. No I/O.

The strip changes only when the stage does. What changes with every update, the clock and the metrics, is one short list
of texts, so that the text of an answer and its figures always arrive together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from streaming.meter import MeterReading
from streaming.thinking import Stage
from ui import html, strings

MAX_PAST_STAGES = 5
"""Number of passed stages that are shown; an answer that is retried passes many."""

CLOCK = 0
"""Index of the clock's text among the figures; a name and a source of each metric follow it."""


@dataclass(frozen=True, slots=True)
class PassedStage:
    """A stage that an answer has left, and how long it was in it."""

    stage: Stage
    duration_s: float


def format_duration(duration_s: float) -> str:
    """Format a duration: `40 ms`, `1.2 s`, `2 min 5 s`."""
    return f"{duration_s * 1000:.0f} ms" if duration_s < 1 else html.format_clock(duration_s)


def strip_html(
    passed: list[PassedStage], words: str, *, kind: str, extra: str = "", badge: str = "", left_s: float | None = None
) -> str:
    """Render the passed stages, and `words`: the current stage or the outcome.

    `kind` is as in `html.stage_html`; the clock runs while it is busy or coming. The browser counts `left_s` down.
    """
    steps = "".join(
        f"<li><span>{escape(strings.PASSED_STAGES[step.stage])}</span> <b>{format_duration(step.duration_s)}</b></li>"
        for step in passed[-MAX_PAST_STAGES:]
        if step.stage in strings.PASSED_STAGES
    )
    now = f"<strong>{escape(words)}</strong>"
    if kind in ("busy", "coming"):
        now += f' · <span class="sg-clock" data-figure="{CLOCK}"></span>'
    if left_s is not None:
        now += f' · <span class="sg-clock" data-left-s="{left_s:.0f}">{left_s:.0f} {escape(strings.LEFT)}</span>'
    if extra:
        now += f' · <span class="sg-extra">{escape(extra)}</span>'
    if badge:
        now += f' <span class="sg-fallback">{escape(badge)}</span>'
    return f'<ol class="sg-strip sg-{kind}">{steps}<li class="sg-now"><i aria-hidden="true"></i>{now}</li></ol>'


def meter_skeleton() -> str:
    """Render the row of metrics without values, which the browser fills in from the figures."""
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd title="{escape(hint)}"><span data-figure="{index}"></span> '
        f'<small data-figure="{index + 1}"></small></dd></div>'
        for index, (name, _, _, hint) in zip(range(1, 100, 2), html.meter_cells(None, ""), strict=False)
    )
    return f'<dl class="sg-meter" aria-label="{escape(strings.METER)}">{cells}</dl>'


def figures_html(reading: MeterReading | None, clock: str = "", no_price: str = strings.UNKNOWN_PRICE) -> str:
    """Return the texts of clock and metrics, joined by `|` in an attribute: all that changes with every update."""
    texts = [clock, *_cell_texts(reading, no_price)]
    return f'<i class="sg-figures" data-values="{escape("|".join(texts))}"></i>'


def _cell_texts(reading: MeterReading | None, no_price: str) -> Iterator[str]:
    for _, value, label, _ in html.meter_cells(reading, no_price):
        yield value
        yield label
