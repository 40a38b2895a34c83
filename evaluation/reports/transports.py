"""The transports of a run compared, as a section of its report."""

from collections.abc import Iterator

import pandas as pd

from evaluation.analysis import statistics, summary, trial_names
from evaluation.analysis.statistics import SMALL_SAMPLE_NOTE, Difference
from evaluation.reports import formatting
from evaluation.scenario import display_name
from evaluation.tables import Run
from evaluation.transports import IN_PROCESS

HEADER = (
    "transport", "provider", "pairs", "first text ms", "whole answer ms", "gap p99 ms", "connect ms", "timestamps",
)  # fmt: skip


def transport_table(run: Run) -> Iterator[str]:
    """Yield the table as Markdown lines with an explanation; nothing if no transports can be paired."""
    differences = summary.transport_differences(run)
    if not any(difference.estimate.n for difference in differences):
        return
    first, *others = trial_names.transports(run)
    names = list(dict.fromkeys(difference.name for difference in differences))
    cells = [(other, name) for other in others for name in names]
    rows = [_transport_row(run, *cell, [d for d in differences if (d.b, d.name) == cell]) for cell in cells]
    yield from formatting.markdown_table(HEADER, rows, texts=2)
    yield ""
    yield (
        f"Medians of the differences to {first}, on the same prompt, provider and strategy within one block, with 95 % "
        f"intervals ({SMALL_SAMPLE_NOTE.replace('over logarithms, ', '')}); exploratory. The metrics are those of the "
        "reader: over a transport of the text that arrives at the client, in process of the text that leaves the "
        "strategy. The gap is the p99 of an answer. The time to connect is before the request is sent, and in no other "
        "metric."
    )
    if first == IN_PROCESS:
        yield ""
        yield (
            "Over a transport another process answers, which shares the processors if it runs on this machine: the "
            "differences include the whole path, with the service."
        )


def _transport_row(run: Run, transport: str, name: str, result: list[Difference]) -> list[str]:
    trials = trial_names.add_name_column(run.trials)
    trials = trials[(trials["transport"] == transport) & (trials["name"] == name)]
    connect = statistics.column_median(trials, "connect_s")
    return [
        transport,
        display_name(name),
        str(max((difference.estimate.n for difference in result), default=0)),
        *(formatting.format_interval(difference.estimate, in_ms=True) for difference in result),
        formatting.format_ms(connect.value),
        _timestamp_sources(trials["stamp_source"]),
    ]


def _timestamp_sources(sources: "pd.Series[str]") -> str:
    return ", ".join(sorted(sources.dropna().unique())) or formatting.UNKNOWN
