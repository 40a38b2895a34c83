"""What each wire of the service adds to an answer: the table of a report over several transports."""

from collections.abc import Iterator

import pandas as pd

from evaluation import statistics, summary, wording
from evaluation.scenario import TRANSPORT
from evaluation.statistics import FEWEST, Difference
from evaluation.tables import Run

HEADER = ("transport", "pairs", "first text ms", "whole answer ms", "gap p99 ms", "connect ms", "stamps")


def table(run: Run) -> Iterator[str]:
    """Give the table as Markdown, and how it is to be read; nothing where no transports can be paired."""
    differences = summary.wire_differences(run)
    if not any(difference.estimate.n for difference in differences):
        return
    first, *others = summary.transports(run)
    rows = [_row(run, name, [d for d in differences if d.b == name]) for name in others]
    yield from wording.table(HEADER, rows, texts=1)
    yield ""
    yield (
        f"Medians of the differences to {first}, on the same prompt, provider and strategy within one block, with 95 % "
        f"intervals from {FEWEST} pairs on; one that holds 0 is within the noise. What the reader gets is compared: "
        "over a wire what arrives at the client, in process what leaves the strategy. The gap is the p99 of an answer. "
        "Each trial opens a connection of its own: the time for it is before the request is sent, and in no other "
        "figure."
    )
    if first == TRANSPORT:
        yield ""
        yield (
            "Over a wire another process answers, with what is left of the processors where it runs on this machine: "
            "the differences are of the whole way, service included."
        )


def _row(run: Run, name: str, found: list[Difference]) -> list[str]:
    trials = run.trials[run.trials["transport"] == name]
    connect = statistics.of(trials, "connect_s")
    return [
        name,
        str(max(difference.estimate.n for difference in found)),
        *(wording.span(difference.estimate, in_ms=True) for difference in found),
        wording.ms(connect.value),
        _stamps(trials["stamp_source"]),
    ]


def _stamps(sources: "pd.Series[str]") -> str:
    return ", ".join(sorted(sources.dropna().unique())) or wording.UNKNOWN
