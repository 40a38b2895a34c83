"""Tables for the terminal: the metrics of a run, and the columns of any table that fit a width."""

import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

from evaluation.analysis.findings import Findings
from evaluation.analysis.knee import find_knees
from evaluation.analysis.summary import Group
from evaluation.reports import formatting, replay, sweep, verdict_text
from evaluation.reports.throughput import describe_levels
from evaluation.scenario import display_name
from evaluation.tables import Run
from streaming.escaping import to_line

_HEADER = (
    "completed", "answer text ms", "tokens/s", "gap p50/p95/p99 ms", "stalls", "USD", "delay mean/max ms", "updates/s",
)  # fmt: skip


WIDTH = 160
"""Width of the table in characters if stdout is not a terminal."""


def print_summary(run: Run, findings: Findings) -> None:
    """Print the table of a run's metrics to stdout, and the throughput of its levels below."""
    print_table(summary_table(run, findings))
    for line in describe_levels(findings.levels):
        sys.stdout.write(f"{to_line(line)}\n")


def print_table(table: Table) -> None:
    """Print a table to stdout; brackets and colons in names are not treated as markup."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    fitting, left_out = fit_table(table, console.width)
    console.print(fitting)
    if left_out:
        console.print(f"Left out, as they do not fit {console.width} columns: {', '.join(left_out)}.")


_FRAME = 3
"""Characters that a column takes beside its text; the table takes one more."""
_MIN_NAME, _MAX_WORD = 14, 24
"""Characters that a column of names keeps, and for a longer word; what is longer goes on in the next line, uncut."""


def fit_table(table: Table, width: int) -> tuple[Table, list[str]]:
    """Return a table with the columns that fit `width` characters, the first ones first, and the names of the others.

    Columns that are aligned to the left have names, which are folded; those aligned to the right have numbers, which
    stay in one line. The first column of numbers is always kept.
    """
    names = [column for column in table.columns if column.justify == "left"]
    free = width - 1 - sum(_name_width(column) + _FRAME for column in names)
    kept: list[Column] = []
    left_out: list[str] = []
    has_numbers = False
    for column in table.columns:
        if column.justify == "left":
            kept.append(column)
            continue
        free -= _number_width(column) + _FRAME
        if left_out or (free < 0 and has_numbers):
            left_out.append(str(column.header))
        else:
            kept.append(column)
            has_numbers = True
    return _copy_table(table, kept), left_out


def _copy_table(table: Table, columns: Sequence[Column]) -> Table:
    copy = Table(title=table.title, caption=table.caption)
    for column in columns:
        is_name = column.justify == "left"
        copy.add_column(column.header, justify=column.justify, overflow="fold", no_wrap=not is_name)
    for row, cells in zip(table.rows, zip(*(column.cells for column in columns), strict=True), strict=True):
        copy.add_row(*cells, style=row.style)
    return copy


def _name_width(column: Column) -> int:
    texts = [str(text) for text in (column.header, *column.cells)]
    word = max(cell_len(word) for text in texts for word in (text.split() or [""]))
    return min(max(map(cell_len, texts)), max(_MIN_NAME, min(word, _MAX_WORD)))


def _number_width(column: Column) -> int:
    """Return the width of a column of numbers, whose header may break between its words."""
    words = str(column.header).split()
    return max(cell_len(text) for text in (*words, *map(str, column.cells)))


def summary_table(run: Run, findings: Findings) -> Table:
    """Return a table with one row for each provider x strategy; a dash is unknown."""
    findings = findings.escape(to_line)
    title = to_line(f"Run {run.manifest.get('run_id', '')}".rstrip())
    if run.is_replay:
        return replay.replay_table(findings.groups, f"{title}: what if")
    caption = verdict_text.headline(findings.groups, findings.comparisons)
    if run.is_sweep:
        caption = to_line(sweep.headline(find_knees(findings.levels)))
    table = Table(title=title, caption=caption)
    table.add_column("provider")
    table.add_column("strategy")
    for heading in _HEADER:
        table.add_column(heading, justify="right")
    for group in findings.groups:
        prompts = "" if group.population == "all" else f", {group.population}"
        table.add_row(f"{display_name(group.name)}{prompts}", group.strategy, *_group_cells(group))
    return table


def _group_cells(group: Group) -> list[str]:
    gaps = "/".join(formatting.format_ms(value) for value in _gap_values(group))
    return [
        f"{group.completed}/{group.trials}",
        formatting.format_interval(group.answer_s, in_ms=True),
        formatting.format_number(group.median("output_tps").value),
        gaps if group.gaps else formatting.UNKNOWN,
        formatting.UNKNOWN if group.stalls is None else str(group.stalls),
        formatting.format_cost(group),
        f"{formatting.format_ms(group.median('delay_mean_s').value)}/{formatting.format_ms(group.delay_max_s)}",
        formatting.format_number(group.median("updates_per_s").value),
    ]


def _gap_values(group: Group) -> tuple[float | None, ...]:
    return tuple(entry.value for entry in (group.gap_p50_s, group.gap_p95_s, group.gap_p99_s))
