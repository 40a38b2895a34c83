"""Charts as SVG, drawn when a report is written: sharp on every screen and on paper, some kilobytes each.

A chart is drawn twice, for screens and paper and for phones, each with text of readable size. Colours of text and grid
are the page's own, so that one drawing serves the light and the dark scheme. Points are one path per series.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluation.reports import formatting
from evaluation.reports.chart_kinds import PALETTE, BoxSeries, Chart, Series
from streaming.escaping import to_html

WIDTHS_PX = {"screen": 960, "phone": 350}
"""The width of each drawing in its own pixels, by the name of its place on the page."""
_ROW_PX = 50
_PLOT_PX = 300
_PHONE_PLOT_PX = 240
_TOP_PX = 26
_BOTTOM_PX = 46
_LEFT_PX = 52
_RIGHT_PX = 14
_CHARACTER_PX = 7.2
_MARKER_PX = 7


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear or logarithmic scale from values to pixels."""

    low: float
    high: float
    start_px: float
    end_px: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value, rounded to tenths of a pixel."""
        low, high, at = (math.log10(x) if self.is_log else x for x in (self.low, self.high, max(value, self._least)))
        return round(self.start_px + (at - low) / (high - low) * (self.end_px - self.start_px), 1)

    @property
    def _least(self) -> float:
        return self.low if self.is_log else -math.inf

    def ticks(self, most: int) -> list[float]:
        """Return at most `most` round values within the scale; a logarithmic one has 1, 2 and 5 of each power."""
        if self.is_log:
            return self._log_ticks(most)
        step = _round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 5), (1,)):
            found = [d * 10.0**power for power in powers for d in digits if self.low <= d * 10.0**power <= self.high]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]


def _round_step(least: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def draw_chart(chart: Chart, width_px: int) -> str:
    """Return a chart as an `svg` element."""
    rows = _row_names(chart)
    plot_px = len(rows) * _ROW_PX if rows else _PLOT_PX if width_px > WIDTHS_PX["phone"] else _PHONE_PLOT_PX
    left = _RIGHT_PX if rows else _LEFT_PX
    x = _x_scale(chart, left, width_px - _RIGHT_PX)
    height_px = _TOP_PX + plot_px + _BOTTOM_PX
    parts = [*_draw_x_axis(chart, x, plot_px, width_px)]
    if chart.kind == "box":
        parts += _draw_boxes(chart.series, x)
    elif rows:
        parts += _draw_rows(chart.series, rows, x)
    else:
        y = Scale(0, _largest(chart, "y") or 1.0, _TOP_PX + plot_px, _TOP_PX)
        parts += _draw_y_axis(chart, x, y)
        parts += (_draw_series(chart, series, x, y) for series in chart.series)
    return (
        f'<svg viewBox="0 0 {width_px} {height_px}" data-x="{_data(x)}" data-log="{int(x.is_log)}" '
        f'data-unit="{to_html(chart.x_title)}" aria-hidden="true">{"".join(parts)}</svg>'
    )


def has_rows(chart: Chart) -> bool:
    """Return whether the chart's places are names: one row below the other."""
    return bool(_row_names(chart))


def _row_names(chart: Chart) -> list[str]:
    if chart.kind == "box":
        return [series.box.place for series in chart.series if series.box is not None]
    names = (place for series in chart.series for place in series.y if isinstance(place, str))
    return list(dict.fromkeys(names))


def _x_scale(chart: Chart, start_px: float, end_px: float) -> Scale:
    values = _x_values(chart)
    if chart.log_x:
        known = [value for value in values if value > 0] or [1.0]
        low, high = min(known), max(known)
        return Scale(low / 1.15, high * 1.15, start_px, end_px, is_log=True)
    return Scale(0, max(values, default=1.0) * 1.04 or 1.0, start_px, end_px)


def _x_values(chart: Chart) -> list[float]:
    boxes = [point for series in chart.series if series.box is not None for point in series.box.points]
    return boxes + [value for series in chart.series for value in series.x]


def _largest(chart: Chart, axis: str) -> float:
    values = (value for series in chart.series for value in getattr(series, axis) if isinstance(value, (int, float)))
    return max(values, default=0.0) * 1.04


def _data(scale: Scale) -> str:
    return f"{scale.low:.6g},{scale.high:.6g},{scale.start_px:g},{scale.end_px:g}"


def _draw_x_axis(chart: Chart, x: Scale, plot_px: float, width_px: int) -> Iterator[str]:
    bottom = _TOP_PX + plot_px
    for value in x.ticks(max(3, int((x.end_px - x.start_px) / 70))):
        at, anchor = x(value), "middle"
        anchor = "end" if at > x.end_px - 12 else "start" if at < x.start_px + 12 else "middle"
        yield f'<path class="grid" d="M{at} {_TOP_PX}V{bottom}"/>'
        yield _text(at, bottom + 16, _tick_text(value), anchor)
    yield _text((x.start_px + x.end_px) / 2, bottom + 36, _fit(chart.x_title, width_px), "middle", "title")


def _draw_y_axis(chart: Chart, x: Scale, y: Scale) -> Iterator[str]:
    for value in y.ticks(6):
        at = y(value)
        yield f'<path class="grid" d="M{x.start_px} {at}H{x.end_px}"/>'
        yield _text(x.start_px - 6, at + 4, _tick_text(value), "end")
    yield _text(4, 13, chart.y_title, "start", "title")


def _tick_text(value: float) -> str:
    """Return a tick without trailing zeros: 1500, 0.2, 20k."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 6):g}"


def _text(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{to_html(words)}</text>'


def _fit(words: str, width_px: float) -> str:
    """Return text that fits into a width, shortened at its end if need be."""
    most = int(width_px / _CHARACTER_PX)
    return words if len(words) <= most else words[: most - 1] + "…"


def _colour(group: int) -> str:
    return PALETTE[group % len(PALETTE)]


def _draw_boxes(series: Sequence[Series], x: Scale) -> Iterator[str]:
    boxes = [(one.box, one.group) for one in series if one.box is not None]
    for row, (box, group) in enumerate(boxes):
        top = _TOP_PX + row * _ROW_PX
        yield from _draw_box(box, _colour(group), top, x)


def _draw_box(box: BoxSeries, colour: str, top: float, x: Scale) -> Iterator[str]:
    low, q1, median, q3, high = (x(value) for value in box.percentiles)
    middle = top + 32
    yield _text(x.start_px, top + 13, _fit(box.place, x.end_px - x.start_px), "start", "name")
    yield f'<g stroke="{colour}" fill="{colour}">'
    # The golden ratio spreads the points of a row evenly, in the same way in every report.
    spread = (middle + 18 * ((number * 0.618034) % 1 - 0.5) for number in range(len(box.points)))
    points = zip((x(value) for value in box.points), spread, strict=True)
    yield _marker_path(points, 4, 'opacity=".45"')
    yield f'<path d="M{low} {middle}H{q1}M{q3} {middle}H{high}" stroke-width="1.5"/>'
    numbers = "/".join(formatting.format_number(value) for value in box.percentiles)
    yield (
        f'<rect x="{q1}" y="{middle - 11}" width="{max(q3 - q1, 1):.1f}" height="22" fill-opacity=".25" rx="2">'
        f"<title>{to_html(box.place)}: p5/p25/p50/p75/p95 {numbers}</title></rect>"
    )
    yield f'<path d="M{median} {middle - 11}V{middle + 11}" stroke-width="3"/></g>'


def _marker_path(points: Iterator[tuple[float, float]], size_px: float, more: str = "") -> str:
    """Return points as one path of round dots: some ten bytes a point."""
    path = "".join(f"M{x:g} {y:.1f}h0" for x, y in points)
    return f'<path class="dots" d="{path}" stroke-width="{size_px:g}" {more}/>'


def _draw_rows(series: Sequence[Series], names: Sequence[str], x: Scale) -> Iterator[str]:
    """Yield points in rows by name; their areas are their sizes, and failed ones are crosses."""
    for row, name in enumerate(names):
        yield _text(x.start_px, _TOP_PX + row * _ROW_PX + 13, _fit(name, x.end_px - x.start_px), "start", "name")
    for one in series:
        colour = _colour(one.group)
        middles = [_TOP_PX + names.index(str(place)) * _ROW_PX + 32 for place in one.y]
        yield f'<g stroke="{colour}" fill="{colour}" data-group="{one.group}">'
        if one.failed:
            yield "".join(_cross(x(value), middle) for value, middle in zip(one.x, middles, strict=True))
        sizes = one.sizes or [0.0] * len(one.x)
        for value, middle, size in zip(one.x, middles, sizes, strict=True) if not one.failed else ():
            radius = min(max(7 * size**0.5, 3), 18)
            words = f"<title>{size:.2f} s of silence</title>" if size else ""
            yield f'<circle cx="{x(value)}" cy="{middle}" r="{radius:.1f}" fill-opacity=".4">{words}</circle>'
        yield "</g>"


def _cross(x: float, y: float) -> str:
    return f'<path d="M{x - 5:g} {y - 5}l10 10m0 -10l-10 10" stroke-width="2.5" fill="none"/>'


def _draw_series(chart: Chart, series: Series, x: Scale, y: Scale) -> str:
    colour = _colour(series.group)
    points = [(at, value) for at, value in zip(series.x, series.y, strict=True)]
    if chart.kind == "point":
        known = ((x(at), y(value)) for at, value in points if isinstance(value, (int, float)))
        dots = _marker_path(known, _MARKER_PX, 'opacity=".6"')
        return f'<g stroke="{colour}" data-group="{series.group}">{dots}</g>'
    path = _line_path(points, x, y, is_step=chart.is_step)
    dots = ""
    if chart.has_points:
        known = ((x(at), y(value)) for at, value in points if isinstance(value, (int, float)))
        dots = f'<g stroke="{colour}" data-group="{series.group}">{_marker_path(known, _MARKER_PX, "")}</g>'
    fill = f'fill="{colour}" fill-opacity=".12"' if chart.kind == "step" else 'fill="none"'
    if chart.kind == "step" and series.x:
        path += f"V{y(0)}H{x(series.x[0])}Z"
    return f'<path d="{path}" stroke="{colour}" stroke-width="1.8" {fill} data-group="{series.group}"/>{dots}'


def _line_path(points: Sequence[tuple[float, float | str | None]], x: Scale, y: Scale, *, is_step: bool) -> str:
    """Return lines through points; a None ends a line. Steps keep each value until the next point."""
    path, is_new = [], True
    for at, value in points:
        if not isinstance(value, (int, float)):
            is_new = True
            continue
        x_px, y_px = x(at), y(value)
        path.append(f"M{x_px:g} {y_px:g}" if is_new else f"H{x_px:g}V{y_px:g}" if is_step else f"L{x_px:g} {y_px:g}")
        is_new = False
    return "".join(path)
