"""A comparison in words: a table for the terminal, and Markdown."""

from collections.abc import Iterable

from rich.table import Table

from evaluation import wording
from evaluation.compare import RESOLUTION_S, SHARES, Change, Comparison
from evaluation.record import TRIAL_UNITS
from evaluation.scenario import label
from evaluation.statistics import FEWEST, NOISE, Estimate

HEADER = ("provider", "strategy", "metric", "A", "B", "B − A, 95 % interval", "change", "n", "verdict")
_COLOURS = {"better": "green", "worse": "red"}


def table(comparison: Comparison, a: str, b: str) -> Table:
    """Give a line for each metric of each cell that both runs have."""
    found = Table(title=f"A = {a}   B = {b}")
    for place, heading in enumerate(HEADER):
        found.add_column(heading, justify="left" if place < 3 or place == len(HEADER) - 1 else "right")
    for change in comparison.changes:
        found.add_row(*row(change), style=_COLOURS.get(change.verdict))
    return found


def row(change: Change) -> list[str]:
    """Give the cells of one line."""
    unit, scale = _unit(change.metric)
    percent = change.percent
    return [
        label(change.provider),
        change.strategy,
        f"{change.metric.removesuffix('_s') if unit == 'ms' else change.metric}{f' ({unit})' if unit else ''}",
        wording.number(change.a * scale),
        wording.number(change.b * scale),
        wording.span(_scaled(change.difference, scale), in_ms=False),
        wording.UNKNOWN if percent is None else f"{percent:+.1f} %",
        f"{change.difference.n}{'' if change.paired else ' unpaired'}",
        change.verdict,
    ]


def remarks(comparison: Comparison) -> Iterable[str]:
    """Say how the table is to be read, and what could not be compared."""
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
            yield f"Only in {name}: {', '.join(f'{label(p)} × {s}' for p, s in cells)}."


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
    lines = ["# Comparison", "", f"A = {a}", "", f"B = {b}", ""]
    lines += wording.table(list(HEADER), map(row, comparison.changes), texts=3)
    lines += ["", *remarks(comparison)]
    return "\n".join(lines) + "\n"
