"""A comparison of two runs as tables for the terminal, and as Markdown."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.table import Table

from evaluation.analysis.compare import CellKey, MetricChange, RunComparison
from evaluation.analysis.metric_names import SHARE_METRICS
from evaluation.reports import formatting, throughput
from evaluation.reports.verdict_text import format_share
from evaluation.scenario import display_name
from evaluation.schema import TRIAL_UNITS
from streaming.escaping import Escape, to_line, to_markdown

HEADER = ("provider", "strategy", "metric", "A", "B", "change, 95 % interval", "n", "verdict")
_COLOURS = {"better": "green", "worse": "red"}


def comparison_tables(comparison: RunComparison) -> Iterator[Table]:
    """Yield a table for each cell that both runs have, with one row for each metric."""
    for cell, changes in groupby(comparison.changes, key=lambda change: change.cell):
        table = Table(title=_cell_text(cell, to_line))
        table.add_column("metric")
        for heading in ("change, 95 % interval", "A", "B", "n"):
            table.add_column(heading, justify="right")
        table.add_column("verdict")
        for change in changes:
            _, _, metric, a, b, text, n, verdict = comparison_row(change, to_line)
            table.add_row(metric, text, a, b, n, verdict, style=_COLOURS.get(change.verdict))
        yield table


def comparison_row(change: MetricChange, escape: Escape) -> list[str]:
    """Return the cells of one row, with names escaped for the output format."""
    unit, scale = _metric_unit(change.metric)
    return [
        _provider_text(change.cell, escape),
        escape(change.cell.strategy),
        f"{change.metric.removesuffix('_s') if unit == 'ms' else change.metric}{f' ({unit})' if unit else ''}",
        formatting.format_number(change.a * scale),
        formatting.format_number(change.b * scale),
        _change_text(change),
        f"{change.n}{'' if change.paired else ' unpaired'}",
        change.verdict,
    ]


def _provider_text(cell: CellKey, escape: Escape) -> str:
    prompts = "" if cell.population == "all" else f", {cell.population} prompts"
    return f"{escape(display_name(cell.provider))}{prompts}"


def _change_text(change: MetricChange) -> str:
    """Return the difference with its interval: in per cent of A, of shares in percentage points."""
    if change.ratio is not None:
        ratio = change.ratio
        return formatting.format_change(ratio.ratio, ratio.low, ratio.high)
    if change.difference is None or change.low is None or change.high is None:
        return formatting.UNKNOWN
    low, high = (formatting.format_number(end * 100) for end in (change.low, change.high))
    return f"{change.difference * 100:+.1f} points [{low}, {high}]"


def comparison_notes(comparison: RunComparison, escape: Escape) -> Iterable[str]:
    """Yield the verdict, an explanation of the table, and what is not alike in the runs; names are escaped."""
    claims = [change for change in comparison.changes if change.comparisons]
    yield from (_claim_text(change, escape) for change in claims)
    if not comparison.changes:
        yield "Nothing is compared: the runs have no provider and strategy in common."
    else:
        yield _describe_table(claims)
    if comparison.differences:
        yield f"Not alike: {'; '.join(escape(difference) for difference in comparison.differences)}."
    for name, cells in (("A", comparison.only_a), ("B", comparison.only_b)):
        if cells:
            yield f"Only in {name}: {', '.join(_cell_text(cell, escape) for cell in cells)}."
    for line in throughput.describe_load_changes(comparison.loads, escape):
        yield f"{line}."


def _describe_table(claims: list[MetricChange]) -> str:
    return (
        f"Only {_metrics_text(claims)} makes claims: of comparisons of equal runs at most 1 in 20 names a difference. "
        "The other metrics are exploratory. Intervals cover the variation between trials, not a difference between the "
        "two occasions; differences below 1 ms or 2 % count as equal."
    )


def _metrics_text(claims: list[MetricChange]) -> str:
    return " and ".join(dict.fromkeys(formatting.metric_title(change.metric) for change in claims)) or "nothing"


def _claim_text(change: MetricChange, escape: Escape) -> str:
    where, metric = _cell_text(change.cell, escape), formatting.metric_title(change.metric)
    size = f"{metric} {_change_text(change)} ({change.n} {'pairs' if change.paired else 'trials, unpaired'})"
    if change.verdict in ("better", "worse"):
        return f"{where}: B is {change.verdict} than A: {size}{_tail_text(change)}."
    if change.verdict == "equal":
        return f"{where}: A and B are equal within the margin: {size}."
    return f"{where}: {change.verdict}: {size}{_power_text(change)}."


def _tail_text(change: MetricChange) -> str:
    if change.ratio is None or not change.ratio.rests_on_few_pairs:
        return ""
    return (
        f"; some slow trials make it: in the median pair it is {formatting.format_percent(change.ratio.median_ratio)}"
    )


def _power_text(change: MetricChange) -> str:
    first, second = change.failures
    if change.ratio is None or change.low is None:
        return ""
    if first.exceeds(second) or second.exceeds(first):
        return f"; failed: A {first.failed} of {first.trials}, B {second.failed} of {second.trials}"
    seen = change.ratio.smallest_effect(change.comparisons)
    more = change.ratio.more_prompts(change.comparisons)
    text = "" if seen is None else f"; a difference of {format_share(seen)} would be found in 80 % of cases"
    return text + (
        f", for 10 % {more} more {'pairs' if change.paired else 'prompts'} are needed" if text and more else ""
    )


def _cell_text(cell: CellKey, escape: Escape) -> str:
    return f"{_provider_text(cell, escape)} × {escape(cell.strategy)}"


def _metric_unit(metric: str) -> tuple[str, float]:
    if metric in SHARE_METRICS:
        return "% of trials", 100.0
    unit = TRIAL_UNITS.get(metric)
    return {"s": ("ms", 1000.0), "USD": ("USD per 1000", 1000.0)}.get(unit or "", ("", 1.0))


def comparison_markdown(comparison: RunComparison, a: str, b: str) -> str:
    """Return the comparison as a Markdown document."""
    lines = ["# Comparison", "", f"A = {to_markdown(a)}", "", f"B = {to_markdown(b)}", ""]
    lines += formatting.markdown_table(
        list(HEADER), (comparison_row(change, to_markdown) for change in comparison.changes), texts=3
    )
    return "\n".join([*lines, *_separated(comparison_notes(comparison, to_markdown))]) + "\n"


def _separated(notes: Iterable[str]) -> Iterator[str]:
    for note in notes:
        yield ""
        yield note
