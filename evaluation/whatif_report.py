"""What recordings would have been like under each strategy: the table for the terminal, and the report's sections."""

from collections.abc import Callable, Iterator, Sequence

from rich.table import Table

from evaluation import wording
from evaluation.scenario import label
from evaluation.statistics import FEWEST, Difference, Estimate
from evaluation.summary import Group

HEADER = (
    "recordings", "first text ms", "delay mean ms", "delay p95 ms", "delay max ms", "updates/s", "fluidity", "QoE",
)  # fmt: skip
NOTE = (
    f"Medians over recordings of completed answers, with 95 % intervals from {FEWEST} on; delay max is over all "
    "characters. Delay: from a character's arrival to its leaving the strategy, computed, so without any lag."
)


def table(groups: Sequence[Group], title: str) -> Table:
    """Give a line of medians for each provider x strategy; a dash is unknown."""
    found = Table(title=title)
    found.add_column("recorded from", no_wrap=True)
    found.add_column("strategy", no_wrap=True)
    for heading in HEADER:
        found.add_column(heading, justify="right")
    for group in groups:
        found.add_row(label(group.name), group.strategy, *_cells(group, _median))
    return found


def figures(groups: Sequence[Group]) -> Iterator[str]:
    """Give the same as Markdown, with how it is to be read."""
    rows = ([label(group.name), group.strategy, *_cells(group, wording.span)] for group in groups)
    yield from wording.table(["recorded from", "strategy", *HEADER], rows)
    yield from ("", NOTE)


def finding(groups: Sequence[Group], differences: Sequence[Difference]) -> str:
    """Say what each strategy but the first costs and saves, in a sentence."""
    names = list(dict.fromkeys(group.strategy for group in groups))
    if len(names) < 2:
        return (
            f"{names[0]} alone: with another strategy beside it there is something to compare." if names else "Nothing."
        )
    parts = [_part(name, differences) for name in names[1:]]
    return f"Against {names[0]}: {'; '.join(part for part in parts if part)}."


def _part(name: str, differences: Sequence[Difference]) -> str:
    found = {d.column: d.estimate.value for d in differences if d.b == name}
    held_s, updates = found.get("delay_mean_s"), found.get("updates_per_s")
    words = [] if held_s is None else [f"holds a character {wording.ms(held_s)} ms longer"]
    if updates is not None:
        words.append(f"redraws {wording.number(abs(updates))} times a second {'less' if updates < 0 else 'more'}")
    return f"{name} {' and '.join(words)}" if words else ""


def _median(estimate: Estimate, *, in_ms: bool) -> str:
    return wording.ms(estimate.value) if in_ms else wording.number(estimate.value)


def _cells(group: Group, write: Callable[..., str]) -> list[str]:
    return [
        f"{group.completed}/{group.trials}",
        write(group.delivered_ttft_s, in_ms=True),
        write(group.delay_mean_s, in_ms=True),
        write(group.delay_p95_s, in_ms=True),
        wording.ms(group.delay_max_s),
        write(group.updates_per_s, in_ms=False),
        write(group.fluidity, in_ms=False),
        write(group.qoe, in_ms=False),
    ]
