"""The figures of a run as a table for the terminal."""

from rich.console import Console
from rich.table import Table

from evaluation import provenance, summary, whatif_report, wording
from evaluation.escaping import to_line
from evaluation.scenario import label
from evaluation.summary import Group
from evaluation.tables import Run, escape_run

_HEADER = ("trials", "TTFT ms", "gap p50/p95/p99 ms", "tokens/s", "stalls", "delay mean/max ms", "updates/s", "USD")


WIDTH = 160
"""Columns of the table where there is no terminal to ask."""


def show(run: Run) -> None:
    """Print a run's table on stdout."""
    print_table(table(run))


def print_table(table: Table) -> None:
    """Print a table on stdout; names are printed as they are, whatever brackets or colons are in them."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)


def table(run: Run) -> Table:
    """Give one line for each provider x strategy; a dash is unknown."""
    run = escape_run(run, to_line)
    title = f"Run {run.manifest.get('run_id', '')}".rstrip()
    if provenance.is_what_if(run):
        return whatif_report.table(summary.groups(run), f"{title}: what if")
    found = Table(title=title)
    found.add_column("provider")
    found.add_column("strategy")
    for heading in _HEADER:
        found.add_column(heading, justify="right")
    for group in summary.groups(run):
        found.add_row(label(group.name), group.strategy, *_cells(group))
    return found


def _cells(group: Group) -> list[str]:
    gaps = "/".join(wording.ms(value) for value in (group.gap_p50_s, group.gap_p95_s, group.gap_p99_s))
    return [
        f"{group.completed}/{group.trials}",
        wording.span(group.ttft_s, in_ms=True),
        gaps if group.gaps else wording.UNKNOWN,
        wording.number(group.output_tps.value),
        wording.UNKNOWN if group.stalls is None else str(group.stalls),
        f"{wording.ms(group.delay_mean_s.value)}/{wording.ms(group.delay_max_s)}",
        wording.number(group.updates_per_s.value),
        wording.cost(group),
    ]
