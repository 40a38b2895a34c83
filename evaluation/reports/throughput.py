"""Throughput and goodput of each provider at each level of the load, for the report, the terminal and JSON."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from evaluation.analysis.throughput import LoadChange, LoadLevel
from evaluation.metrics.load import LOAD_METRIC_BY_NAME, LOAD_METRICS, MIN_ANSWERS
from evaluation.reports import formatting
from evaluation.reports.verdict_text import format_share
from evaluation.scenario import display_name
from evaluation.schema import atomic_write
from streaming.escaping import Escape, to_markdown

LEVELS_FILE = "levels.csv"
_LATENCIES = ("ttft_s", "e2e_s")
_HEADER = (
    "provider", "load", "completed", *(metric.title for metric in LOAD_METRICS), "TTFT p50 ms", "whole answer p50 ms",
    "not completed",
)  # fmt: skip


def write_levels(folder: Path, levels: Sequence[LoadLevel]) -> None:
    """Write a row for each provider and level to `levels.csv`. Raises OSError."""
    rows = [level.as_dict() for level in levels]
    if rows:
        with atomic_write(folder / LEVELS_FILE) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False, float_format="%.12g", encoding="utf-8")


def throughput_table(levels: Sequence[LoadLevel]) -> Iterator[str]:
    """Yield the table as Markdown lines, with an explanation; a metric that is unknown for all is left out."""
    if not levels:
        return
    rows = [_make_row(level) for level in levels]
    shown = [place for place, _ in enumerate(_HEADER) if any(row[place] != formatting.UNKNOWN for row in rows)]
    header = [_HEADER[place] for place in shown]
    yield from formatting.markdown_table(header, ([row[place] for place in shown] for row in rows), texts=2)
    yield ""
    yield " ".join(_iter_notes(levels))


def _make_row(level: LoadLevel) -> list[str]:
    approximate = "≈ " if level.is_estimated else ""
    cells = []
    for metric in LOAD_METRICS:
        text = formatting.format_interval(level.estimate(metric.name), in_ms=False)
        cells.append(approximate + text if "token" in metric.title and text != formatting.UNKNOWN else text)
    cells += [formatting.format_interval(level.median_s(column), in_ms=True) for column in _LATENCIES]
    lost = [_outcome_text(*pair) for pair in level.outcome_shares().items() if pair[0] != "completed"]
    counts = f"{level.completed} of {level.trials}"
    name = to_markdown(display_name(level.name))
    return [name, level.level_text, counts, *cells, "; ".join(lost) or formatting.UNKNOWN]


def _outcome_text(outcome: str, share: tuple[float, float, float]) -> str:
    """Return an outcome's share with Wilson's interval: `failed 4 % [1, 12]`."""
    value, low, high = share
    return f"{outcome} {format_share(value)} [{low * 100:.0f}, {high * 100:.0f}]"


def _iter_notes(levels: Sequence[LoadLevel]) -> Iterator[str]:
    yield (
        "What was delivered a second, of all strategies, transports and efforts of a provider together; an answer "
        "counts for the share of its delivery, first token to end, that lies within the window."
    )
    cut = [level for level in levels if level.is_cut]
    if cut:
        seconds = ", ".join(dict.fromkeys(formatting.format_number(level.window_s) for level in cut))
        yield (
            "Warm-up (until each stream, or the first request of an open loop, has ended its first answer) and "
            f"cool-down (from the first end that no start follows) are left out; {seconds} s are left."
        )
    if len(cut) < len(levels):
        whole = "" if not cut else " where there are too few answers to cut, or one stream alone"
        yield f"The window is from the first start to the last end{whole}."
    if any(level.estimate("throughput").low is not None for level in levels):
        yield (
            "Brackets of rates are 95 % intervals by Student's t over ten slices of the time, from "
            f"{MIN_ANSWERS} answers on."
        )
    if any(level.value("goodput") is not None for level in levels):
        yield "Goodput: answers that met every objective, each by its own values."
    if any(level.outcome_shares().keys() - {"completed"} for level in levels):
        yield "Shares of what was not completed have Wilson's intervals."
    if any(level.is_estimated for level in levels):
        yield "≈: the tokens of some answers are estimated."


def describe_levels(levels: Sequence[LoadLevel]) -> Iterator[str]:
    """Yield a line for each level, for the terminal."""
    for level in levels:
        parts = [
            f"{formatting.format_interval(level.estimate(metric.name), in_ms=False)} {metric.title}"
            for metric in LOAD_METRICS
            if level.value(metric.name) is not None and metric.name != "total_throughput"
        ]
        yield f"{display_name(level.name)}, {level.level_text}: {', '.join(parts) or 'nothing delivered'}"


def describe_load_changes(changes: Sequence[LoadChange], escape: Escape) -> Iterator[str]:
    """Yield a line for each change of throughput or goodput, for the terminal."""
    for name, load, metric, a, b, change in (_change_row(change, escape) for change in changes):
        yield f"{name}, {load}: {metric} {a} in A, {b} in B: {change} (exploratory)"


def _change_row(change: LoadChange, escape: Escape) -> list[str]:
    values = [formatting.format_number(value) for value in (change.a, change.b)]
    ratio = formatting.format_change(change.ratio, change.low, change.high)
    title = LOAD_METRIC_BY_NAME[change.metric].title
    return [escape(display_name(change.name)), change.level_text, title, *values, ratio]
