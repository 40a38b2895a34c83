"""What a browser painted, as a section and a chart of the report: each strategy's delay up to the screen."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from evaluation.analysis import statistics
from evaluation.analysis.summary import Group
from evaluation.reports import formatting
from evaluation.reports.chart_kinds import BOX_NOTE, Chart, box, known_values, sampling_note
from evaluation.scenario import display_name

TIMESTAMP_SOURCES = ("service", "browser")
"""The `stamp_source` of answers that a browser read: their error is that of painting, not of sockets."""
_COLUMNS = (
    ("first painted text ms", "painted_ttft_s", True),
    ("delay: strategy ms", "delay_mean_s", True),
    ("painting ms", "paint_delay_mean_s", True),
    ("to the screen ms", "total_delay_mean_s", True),
    ("longest painted gap ms", "painted_gap_max_s", True),
    ("frames dropped", "frames_dropped", False),
    ("main thread busy", "main_thread_busy", False),
    ("key press to screen ms", "key_delay_s", True),
    ("Stop to screen ms", "stop_painted_s", True),
)


def painting_table(groups: Sequence[Group]) -> Iterator[str]:
    """Yield the table as Markdown lines; nothing if no browser read an answer."""
    shown = [group for group in groups if group.median("painted_ttft_s").n or group.median("stop_painted_s").n]
    columns = [column for column in _COLUMNS if any(group.median(column[1]).n for group in shown)]
    if not shown:
        return
    rows = [
        [display_name(group.name), group.strategy, *(_cell(group, name, in_ms=in_ms) for _, name, in_ms in columns)]
        for group in shown
    ]
    yield from formatting.markdown_table(["provider", "strategy", *(title for title, _, _ in columns)], rows, texts=2)
    yield ""
    yield (
        "Medians over completed trials, of Stop over stopped ones; delays are means over the characters of an answer. "
        "Strategy: from the arrival of a character from the provider until it leaves the strategy; painting: from "
        "there, through the service, the wire and the page, until the frame with it is presented; their sum is the "
        "delay to the screen. Without the service's own times, painting counts from the arrival at the browser."
    )


def _cell(group: Group, name: str, *, in_ms: bool) -> str:
    value = group.median(name)
    return formatting.format_interval(value, in_ms=in_ms) if value.n else formatting.UNKNOWN


def painting_error_lines(facts: Mapping[str, Any], trials: pd.DataFrame) -> Iterator[str]:
    """Yield a report's lines on the error of what was painted; nothing if no browser read an answer."""
    measured = [entry["painting"] for entry in facts.get("instrument", []) if entry.get("painting")]
    for painting in measured[-1:]:
        for frames_per_s, cases in groupby(painting["seen"], key=lambda one: one.get("frames_per_s", 60.0)):
            seen = "; ".join(
                f"{formatting.format_ms(one['known_delay_s'])} ms of known delay were seen as "
                f"{formatting.format_ms(one['median_s'])} ms (p95 {formatting.format_ms(one['p95_s'])} ms)"
                for one in cases
            )
            frame = f"{frames_per_s:g} frames/s, a frame takes {formatting.format_ms(1 / frames_per_s)} ms"
            yield f"- error of the painted times at {frame}: {seen}"
    clock_s, check_s = trials["clock_error_s"].dropna(), trials["frame_check_s"].dropna()
    if len(clock_s):
        yield (
            f"- the browser's clock is that of this process within {formatting.format_ms(clock_s.max())} ms, by marks "
            "between two readings"
        )
    fade_s = trials["fade_in_s"].max()
    if fade_s > 0:
        yield (
            f"- the page fades its text in over up to {formatting.format_ms(fade_s)} ms: text counts as painted at the "
            "start, however faint it is"
        )
    if len(check_s):
        yield (
            "- the trace's frames against a message from the frame's own callback: median difference "
            f"{formatting.format_ms(check_s.median())} ms"
        )


def painting_charts(done: pd.DataFrame, names: Sequence[str], strategies: Sequence[str]) -> Iterator[Chart]:
    """Yield a chart for each provider that a browser read, since the providers' streams are not alike.

    It shows the delay in the strategy and to the screen, a box for each strategy and end, and beside the name of the
    second what it cost the page: medians of the frames dropped and of the main thread's busy share.
    """
    painted = done[done["total_delay_mean_s"].notna()]
    read = [name for name in names if (painted["name"] == name).any()]
    for number, name in enumerate(read, start=1):
        yield _painting_chart(painted[painted["name"] == name], name, number, strategies)


def _painting_chart(painted: pd.DataFrame, name: str, number: int, strategies: Sequence[str]) -> Chart:
    series, words, counts = [], [], []
    for strategy in strategies:
        cell = painted[painted["strategy"] == strategy]
        if not len(cell):
            continue
        for group, (end, column) in enumerate((("delivered", "delay_mean_s"), ("painted", "total_delay_mean_s"))):
            values = known_values(cell[column]) * 1000
            place = f"{strategy}, {end}" if end == "delivered" else f"{strategy}, {end}; {_page_text(cell, 'dropped')}"
            series.append(box(end, group, place, values))
            counts.append(len(values))
        words.append(f"{strategy} {_delay_text(cell)}, {_page_text(cell, 'frames dropped')}")
    return Chart(
        f"painting-{number}",
        f"Delay until text is delivered, and until it is painted: {display_name(name)}",
        "box",
        "mean delay of an answer in ms",
        "",
        series,
        f"Medians, from the arrival from the provider: {'; '.join(words)}.",
        BOX_NOTE + sampling_note(series, counts),
    )


def _delay_text(cell: pd.DataFrame) -> str:
    delivered, painted = (
        formatting.format_ms(statistics.column_median(cell, name).value)
        for name in ("delay_mean_s", "total_delay_mean_s")
    )
    return f"{delivered} ms delivered, {painted} ms painted"


def _page_text(cell: pd.DataFrame, what: str) -> str:
    dropped = formatting.exact(statistics.column_median(cell, "frames_dropped").value)
    busy = statistics.column_median(cell, "main_thread_busy").value
    return f"{dropped} {what}, {formatting.UNKNOWN if busy is None else f'{busy * 100:.0f} %'} busy"
