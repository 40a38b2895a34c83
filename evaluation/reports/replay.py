"""Reports on recorded streams replayed through strategies: the table for the terminal, and the report's sections."""

from collections.abc import Callable, Iterator, Sequence

from rich.table import Table

from evaluation.analysis.statistics import SMALL_SAMPLE_NOTE, Difference, Estimate
from evaluation.analysis.summary import Group
from evaluation.reports import formatting
from evaluation.scenario import display_name

HEADER = (
    "recordings", "first text ms", "delay mean ms", "delay p95 ms", "delay max ms", "updates/s", "fluidity", "QoE",
)  # fmt: skip
NOTE = (
    f"Medians over recordings of completed answers, with 95 % intervals: {SMALL_SAMPLE_NOTE}; delay max is over all "
    "characters. Delay: from a character's arrival to its delivery by the strategy, computed, so without any lag."
)


def replay_table(groups: Sequence[Group], title: str) -> Table:
    """Return a table with one row of medians for each provider x strategy; a dash is unknown."""
    table = Table(title=title)
    table.add_column("recorded from", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    for heading in HEADER:
        table.add_column(heading, justify="right")
    for group in groups:
        table.add_row(display_name(group.name), group.strategy, *_group_cells(group, _median_cell))
    return table


def replay_markdown(groups: Sequence[Group]) -> Iterator[str]:
    """Yield the same table as Markdown lines, with an explanation."""
    rows = (
        [display_name(group.name), group.strategy, *_group_cells(group, formatting.format_interval)] for group in groups
    )
    yield from formatting.markdown_table(["recorded from", "strategy", *HEADER], rows)
    yield from ("", NOTE)


def describe_finding(groups: Sequence[Group], differences: Sequence[Difference]) -> str:
    """Return a sentence on the delay and the updates/s of each strategy compared with the first."""
    names = list(dict.fromkeys(group.strategy for group in groups))
    if len(names) < 2:
        return (
            f"{names[0]} alone: with another strategy beside it there is something to compare." if names else "Nothing."
        )
    first = [difference for difference in differences if difference.a == names[0]]
    providers = list(dict.fromkeys(difference.name for difference in first))
    parts = [
        _strategy_clause(name, provider if len(providers) > 1 else "", [d for d in first if d.name == provider])
        for name in names[1:]
        for provider in providers
    ]
    return f"Against {names[0]}: {'; '.join(part for part in parts if part)}."


def _strategy_clause(name: str, provider: str, differences: Sequence[Difference]) -> str:
    values = {d.column: d.estimate.value for d in differences if d.b == name}
    held_s, updates = values.get("delay_mean_s"), values.get("updates_per_s")
    words = [] if held_s is None else [f"holds a character {formatting.format_ms(held_s)} ms longer"]
    if updates is not None:
        words.append(
            f"redraws {formatting.format_number(abs(updates))} times a second {'less' if updates < 0 else 'more'}"
        )
    where = f" for {display_name(provider)}" if provider else ""
    return f"{name}{where} {' and '.join(words)}" if words else ""


def _median_cell(estimate: Estimate, *, in_ms: bool) -> str:
    return formatting.format_ms(estimate.value) if in_ms else formatting.format_number(estimate.value)


def _group_cells(group: Group, write: Callable[..., str]) -> list[str]:
    return [
        f"{group.completed}/{group.trials}",
        write(group.median("delivered_ttft_s"), in_ms=True),
        write(group.median("delay_mean_s"), in_ms=True),
        write(group.median("delay_p95_s"), in_ms=True),
        formatting.format_ms(group.delay_max_s),
        write(group.median("updates_per_s"), in_ms=False),
        write(group.median("fluidity"), in_ms=False),
        write(group.median("qoe"), in_ms=False),
    ]
