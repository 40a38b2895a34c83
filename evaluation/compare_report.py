"""A comparison in words: a table for the terminal, and Markdown."""

from collections.abc import Iterable

from rich.table import Table

from evaluation import wording
from evaluation.compare import RESOLUTION_S, SHARES, Change, Comparison
from evaluation.escaping import Escape, to_line, to_markdown
from evaluation.record import TRIAL_UNITS
from evaluation.scenario import label
from evaluation.statistics import FEWEST, NOISE, Estimate

HEADER = ("provider", "strategy", "metric", "A", "B", "B − A, 95 % interval", "change", "n", "verdict")
_COLOURS = {"better": "green", "worse": "red"}


def table(comparison: Comparison, a: str, b: str) -> Table:
    """Give a line for each metric of each cell that both runs have."""
    found = Table(title=f"A = {to_line(a)}   B = {to_line(b)}")
    for place, heading in enumerate(HEADER):
        found.add_column(heading, justify="left" if place < 3 or place == len(HEADER) - 1 else "right")
    for change in comparison.changes:
        found.add_row(*row(change, to_line), style=_COLOURS.get(change.verdict))
    return found


def row(change: Change, escape: Escape) -> list[str]:
    """Return the cells of one line, its names escaped for the format that they stand in."""
    unit, scale = _unit(change.metric)
    percent = change.percent
    return [
        escape(label(change.provider)),
        escape(change.strategy),
        f"{change.metric.removesuffix('_s') if unit == 'ms' else change.metric}{f' ({unit})' if unit else ''}",
        wording.number(change.a * scale),
        wording.number(change.b * scale),
        wording.span(_scaled(change.difference, scale), in_ms=False),
        wording.UNKNOWN if percent is None else f"{percent:+.1f} %",
        f"{change.difference.n}{'' if change.paired else ' unpaired'}",
        change.verdict,
    ]


def remarks(comparison: Comparison, escape: Escape) -> Iterable[str]:
    """Say how the table is to be read, and what could not be compared; names are escaped."""
    told = [
        change for change in comparison.changes if change.verdict not in (NOISE,) and change.difference.low is not None
    ]
    tested = sum(change.difference.low is not None for change in comparison.changes)
    yield (
        f"{len(told)} of {tested} comparisons differ by more than their noise; by chance alone about "
        f"{tested / 20:.1f} would. Intervals need {FEWEST} pairs or trials and hold the scatter of the trials, not "
        "what differed between the two occasions. Times that differ by less than "
        f"{wording.ms(RESOLUTION_S)} ms are called equal: the instrument resolves no more."
    )
    for name, cells in (("A", comparison.only_a), ("B", comparison.only_b)):
        if cells:
            yield f"Only in {name}: {', '.join(f'{escape(label(p))} × {escape(s)}' for p, s in cells)}."


def _unit(metric: str) -> tuple[str, float]:
    if metric in SHARES:
        return "% of trials", 100.0
    unit = TRIAL_UNITS.get(metric)
    return {"s": ("ms", 1000.0), "USD": ("USD per 1000", 1000.0)}.get(unit or "", ("", 1.0))


def _scaled(estimate: Estimate, scale: float) -> Estimate:
    value, low, high = (None if x is None else x * scale for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(estimate.n, value, low, high)


def markdown(comparison: Comparison, a: str, b: str) -> str:
    """Write the comparison as a page."""
    lines = ["# Comparison", "", f"A = {to_markdown(a)}", "", f"B = {to_markdown(b)}", ""]
    lines += wording.table(list(HEADER), (row(change, to_markdown) for change in comparison.changes), texts=3)
    lines += ["", *remarks(comparison, to_markdown)]
    return "\n".join(lines) + "\n"
