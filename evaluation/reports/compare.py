"""A comparison of two runs as a table for the terminal, and as Markdown."""

from collections.abc import Iterable

from rich.table import Table

from evaluation.analysis.compare import RESOLUTION_S, SHARE_METRICS, Comparison, MetricChange
from evaluation.analysis.statistics import MIN_TRIALS, NO_DIFFERENCE_TEXT, Estimate
from evaluation.escaping import Escape, to_line, to_markdown
from evaluation.reports import formatting
from evaluation.scenario import display_name
from evaluation.schema import TRIAL_UNITS

HEADER = ("provider", "strategy", "metric", "A", "B", "B − A, 95 % interval", "change", "n", "verdict")
_COLOURS = {"better": "green", "worse": "red"}


def comparison_table(comparison: Comparison, a: str, b: str) -> Table:
    """Return a table with one row for each metric of each cell that both runs have."""
    table = Table(title=f"A = {to_line(a)}   B = {to_line(b)}")
    for place, heading in enumerate(HEADER):
        table.add_column(heading, justify="left" if place < 3 or place == len(HEADER) - 1 else "right")
    for change in comparison.changes:
        table.add_row(*comparison_row(change, to_line), style=_COLOURS.get(change.verdict))
    return table


def comparison_row(change: MetricChange, escape: Escape) -> list[str]:
    """Return the cells of one row, with names escaped for the output format."""
    unit, scale = _metric_unit(change.metric)
    percent = change.percent
    return [
        escape(display_name(change.provider)),
        escape(change.strategy),
        f"{change.metric.removesuffix('_s') if unit == 'ms' else change.metric}{f' ({unit})' if unit else ''}",
        formatting.format_number(change.a * scale),
        formatting.format_number(change.b * scale),
        formatting.format_interval(_scale_estimate(change.difference, scale), in_ms=False),
        formatting.UNKNOWN if percent is None else f"{percent:+.1f} %",
        f"{change.difference.n}{'' if change.paired else ' unpaired'}",
        change.verdict,
    ]


def comparison_notes(comparison: Comparison, escape: Escape) -> Iterable[str]:
    """Yield an explanation of the table, and the cells that could not be compared; names are escaped."""
    different = [
        change
        for change in comparison.changes
        if change.verdict not in (NO_DIFFERENCE_TEXT,) and change.difference.low is not None
    ]
    tested = sum(change.difference.low is not None for change in comparison.changes)
    yield (
        f"{len(different)} of {tested} comparisons differ by more than their noise; by chance alone about "
        f"{tested / 20:.1f} would. Intervals need {MIN_TRIALS} pairs or trials and cover the variation between trials, "
        "not a difference between the two occasions. Latencies that differ by less than "
        f"{formatting.format_ms(RESOLUTION_S)} ms count as equal, which is the resolution of the instrument."
    )
    for name, cells in (("A", comparison.only_a), ("B", comparison.only_b)):
        if cells:
            yield f"Only in {name}: {', '.join(f'{escape(display_name(p))} × {escape(s)}' for p, s in cells)}."


def _metric_unit(metric: str) -> tuple[str, float]:
    if metric in SHARE_METRICS:
        return "% of trials", 100.0
    unit = TRIAL_UNITS.get(metric)
    return {"s": ("ms", 1000.0), "USD": ("USD per 1000", 1000.0)}.get(unit or "", ("", 1.0))


def _scale_estimate(estimate: Estimate, scale: float) -> Estimate:
    value, low, high = (None if x is None else x * scale for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(estimate.n, value, low, high)


def comparison_markdown(comparison: Comparison, a: str, b: str) -> str:
    """Return the comparison as a Markdown document."""
    lines = ["# Comparison", "", f"A = {to_markdown(a)}", "", f"B = {to_markdown(b)}", ""]
    lines += formatting.markdown_table(
        list(HEADER), (comparison_row(change, to_markdown) for change in comparison.changes), texts=3
    )
    lines += ["", *comparison_notes(comparison, to_markdown)]
    return "\n".join(lines) + "\n"
