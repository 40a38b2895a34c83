"""The metrics of a run as a table for the terminal."""

from rich.console import Console
from rich.table import Table

from evaluation.analysis import summary, verdicts
from evaluation.analysis.summary import Group
from evaluation.reports import formatting, provenance, replay, verdict_text
from evaluation.scenario import display_name
from evaluation.tables import Run, escape_run
from streaming.escaping import to_line

_HEADER = (
    "completed", "answer text ms", "gap p50/p95/p99 ms", "tokens/s", "stalls", "delay mean/max ms", "updates/s", "USD",
)  # fmt: skip


WIDTH = 160
"""Width of the table in characters if stdout is not a terminal."""


def print_summary(run: Run) -> None:
    """Print the table of a run's metrics to stdout."""
    print_table(summary_table(run))


def print_table(table: Table) -> None:
    """Print a table to stdout; brackets and colons in names are not treated as markup."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)


def summary_table(run: Run) -> Table:
    """Return a table with one row for each provider x strategy; a dash is unknown."""
    run = escape_run(run, to_line)
    title = f"Run {run.manifest.get('run_id', '')}".rstrip()
    if provenance.is_replay(run):
        return replay.replay_table(summary.groups(run), f"{title}: what if")
    groups = summary.groups(run)
    table = Table(title=title, caption=verdict_text.headline(groups, verdicts.compare_providers(run)))
    table.add_column("provider")
    table.add_column("strategy")
    for heading in _HEADER:
        table.add_column(heading, justify="right")
    for group in groups:
        prompts = "" if group.population == "all" else f", {group.population}"
        table.add_row(f"{display_name(group.name)}{prompts}", group.strategy, *_group_cells(group))
    return table


def _group_cells(group: Group) -> list[str]:
    gaps = "/".join(formatting.format_ms(value) for value in _gap_values(group))
    return [
        f"{group.completed}/{group.trials}",
        formatting.format_interval(group.answer_s, in_ms=True),
        gaps if group.gaps else formatting.UNKNOWN,
        formatting.format_number(group.median("output_tps").value),
        formatting.UNKNOWN if group.stalls is None else str(group.stalls),
        f"{formatting.format_ms(group.median('delay_mean_s').value)}/{formatting.format_ms(group.delay_max_s)}",
        formatting.format_number(group.median("updates_per_s").value),
        formatting.format_cost(group),
    ]


def _gap_values(group: Group) -> tuple[float | None, ...]:
    return tuple(entry.value for entry in (group.gap_p50_s, group.gap_p95_s, group.gap_p99_s))
